import json

import av
import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch

from progress_labels.dataset import EpisodeDataset
from progress_labels.encoders import load_encoder
from progress_labels.errors import DatasetError
from progress_labels.labels import LabelConfig, label_dataset, read_labels, read_problems
from progress_labels.testing import make_dataset, make_frames
from progress_labels.videos import find_videos, label_video, label_videos, read_video


@pytest.fixture(scope="module")
def encoder():
    return load_encoder()


def _write(path, frames):
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.options = "yuv420p", {"crf": "12", "g": "2", "bf": "0"}
        for frame in frames.numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def _to_v21(root, old):
    """Lay out the episodes of a v3 dataset as LeRobot v2.1 does."""
    dataset = EpisodeDataset(root)
    info = json.loads((root / "meta/info.json").read_text())
    info |= {
        "codebase_version": "v2.1",
        "chunks_size": 2,
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/"
        "episode_{episode_index:06d}.mp4",
    }
    (old / "meta").mkdir(parents=True)
    (old / "meta/info.json").write_text(json.dumps(info))
    rows = pq.read_table(root / "data/chunk-000/file-000.parquet")
    lines = []
    for number, episode in enumerate(dataset):
        fields = {"episode_chunk": number // 2, "episode_index": number}
        path = old / info["data_path"].format(**fields)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(rows.filter(pc.equal(rows["episode_index"], number)), path)
        key = "observation.images.base"
        _write(old / info["video_path"].format(video_key=key, **fields), episode["frames"])
        lines.append(json.dumps({"episode_index": number, "tasks": [], "length": 48}))
    (old / "meta/episodes.jsonl").write_text("\n".join(reversed(lines)) + "\n")
    task = {"task_index": 0, "task": "move the square around"}
    (old / "meta/tasks.jsonl").write_text(json.dumps(task))


def test_v21_holds_the_same_episodes(tmp_path, encoder):
    root, old = tmp_path / "new", tmp_path / "old"
    make_dataset(root, num_episodes=3, failures=1)
    _to_v21(root, old)
    new, converted = EpisodeDataset(root), EpisodeDataset(old)
    assert len(converted) == 3
    for expected, actual in zip(new, converted, strict=True):
        for name in ("episode_index", "task", "success"):
            assert actual[name] == expected[name]
        np.testing.assert_array_equal(actual["index"], expected["index"])
        difference = (actual["frames"].float() - expected["frames"].float()).abs()
        assert difference.mean() < 3.0  # encoded twice
    labels = read_labels(label_dataset(old, encoder, progress_bar=False))
    assert [labels[number].num_stages > 0 for number in range(3)] == [True, True, False]
    (old / "meta/tasks.jsonl").write_text("{")
    with pytest.raises(DatasetError, match=r"Cannot read .*tasks.jsonl"):
        EpisodeDataset(old)
    (old / "meta/tasks.jsonl").write_text("{}")
    with pytest.raises(DatasetError, match=r"rows without 'task_index'"):
        EpisodeDataset(old)


def test_a_folder_of_videos_is_labelled_and_a_broken_one_named(tmp_path, encoder):
    for number in range(2):
        _write(tmp_path / f"videos/day{number}/{number}.mp4", make_frames(seed=number))
    (tmp_path / "videos/zz.mp4").write_bytes(b"nothing")
    paths = find_videos(tmp_path / "videos")
    assert [path.name for path in paths] == ["0.mp4", "1.mp4", "zz.mp4"]
    out, problems = label_videos(paths, encoder, tmp_path / "labels.parquet")
    assert list(problems) == [2] == list(read_problems(out))
    labels = read_labels(out)
    expected = label_video(read_video(paths[1]), encoder)
    np.testing.assert_array_equal(labels[1].progress, expected.progress)
    table = pq.read_table(out)
    assert table["index"].to_pylist() == list(range(96))
    assert json.loads(table.schema.metadata[b"videos"]) == [str(path) for path in paths]
    with pytest.raises(DatasetError, match="exists; pass --overwrite"):
        label_videos(paths, encoder, out)
    with pytest.raises(DatasetError, match=r"No video can be labelled; .*zz.mp4"):
        label_videos(paths[2:], encoder, tmp_path / "none.parquet")
    with pytest.raises(DatasetError, match="holds no video"):
        find_videos(tmp_path / "videos" / "none")


@pytest.mark.parametrize("config", [{"failures": "reference"}, {"common_stages": True}])
def test_settings_that_only_a_dataset_has_are_refused(tmp_path, encoder, config):
    frames, config = make_frames(num_stages=1), LabelConfig(**config)
    _write(tmp_path / "0.mp4", frames)
    with pytest.raises(ValueError, match=r"`failures` 'unknown' and `common_stages` False for v"):
        label_videos([tmp_path / "0.mp4"], encoder, tmp_path / "labels.parquet", config=config)
    assert not (tmp_path / "labels.parquet").exists()
    with pytest.raises(ValueError, match=r", got 'reference' and False|, got 'unknown' and True"):
        label_video(frames, encoder, config=config)


def test_a_goal_picture_tells_whether_a_video_gets_there(encoder):
    frames = make_frames(num_stages=3)
    there = label_video(frames, encoder, goal=frames[-1])
    stops = label_video(frames[:20], encoder, goal=frames[-1])
    assert there.progress[-1] > 0.99
    assert stops.progress.max() < 0.8
    assert (there.num_stages, set(there.stage.tolist())) == (1, {0})
    with pytest.raises(DatasetError, match="all frames are equal"):
        label_video(frames[:1].expand(5, -1, -1, -1), encoder)
    assert torch.equal(frames, make_frames(num_stages=3))
