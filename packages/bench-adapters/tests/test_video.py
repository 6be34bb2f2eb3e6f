import av
import numpy as np
import pytest

from bench_adapters.video import VideoWriter, write_video


def moving_square(t=12, height=32, width=48):
    frames = np.full((t, height, width, 3), 40, np.uint8)
    for i in range(t):
        frames[i, 8:24, 2 * i : 2 * i + 16] = (200, 60, 60)
    return frames


def decode(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        return np.stack([f.to_ndarray(format="rgb24") for f in frames]), frames, stream


def test_frames_come_back(tmp_path):
    frames = moving_square()
    write_video(tmp_path / "a.mp4", frames, 10)
    decoded, raw, stream = decode(tmp_path / "a.mp4")
    assert decoded.shape == frames.shape
    assert np.abs(decoded.astype(int) - frames).mean() < 4  # colour is kept at half resolution
    assert stream.codec_context.name == "h264"
    assert stream.codec_context.pix_fmt == "yuv420p"
    assert [frame.time for frame in raw] == pytest.approx([i / 10 for i in range(12)])


def test_random_access_is_cheap(tmp_path):
    write_video(tmp_path / "a.mp4", moving_square(), 10)
    _, raw, _ = decode(tmp_path / "a.mp4")
    assert [frame.key_frame for frame in raw] == [True, False] * 6
    assert all(frame.pict_type != av.video.frame.PictureType.B for frame in raw)


def test_odd_sizes_grow_by_a_pixel(tmp_path):
    write_video(tmp_path / "a.mp4", moving_square(height=31, width=47), 5)
    assert decode(tmp_path / "a.mp4")[0].shape == (12, 32, 48, 3)


def test_same_frames_same_bytes(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / name, moving_square(), 10)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_nothing_has_the_name_before_the_end(tmp_path):
    writer = VideoWriter(tmp_path / "a.mp4", fps=10, height=32, width=48)
    writer.write(moving_square())
    assert not (tmp_path / "a.mp4").exists()
    writer.discard()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("frames", "found"),
    [
        (np.zeros((2, 8, 8, 3), np.float32), r"float32 \(2, 8, 8, 3\)"),
        (np.zeros((2, 3, 8, 8), np.uint8), r"uint8 \(2, 3, 8, 8\)"),
        (np.zeros((0, 8, 8, 3), np.uint8), r"uint8 \(0, 8, 8, 3\)"),
    ],
)
def test_bad_frames(tmp_path, frames, found):
    with pytest.raises(ValueError, match=found):
        write_video(tmp_path / "a.mp4", frames, 10)
    assert not list(tmp_path.iterdir())


def test_bad_arguments(tmp_path):
    with pytest.raises(ValueError, match=r"fps.*got 0"):
        write_video(tmp_path / "a.mp4", moving_square(), 0)
    with pytest.raises(ValueError, match=r"crf.*got 60"):
        write_video(tmp_path / "a.mp4", moving_square(), 10, crf=60)
    with pytest.raises(ValueError, match=r"even.*got 31 x 48"):
        VideoWriter(tmp_path / "a.mp4", fps=10, height=31, width=48)
    writer = VideoWriter(tmp_path / "a.mp4", fps=10, height=32, width=48)
    with pytest.raises(ValueError, match=r"\(t, 32, 48, 3\).*got uint8 \(12, 32, 32, 3\)"):
        writer.write(moving_square(width=32))
    writer.discard()
