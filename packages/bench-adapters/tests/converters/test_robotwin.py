import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from bench_adapters.converters.robotwin import convert_robotwin, decode_jpeg, read_episode

cv2 = pytest.importorskip("cv2", reason="the reference encoder, OpenCV, is not installed")
h5py = pytest.importorskip("h5py", reason="h5py is not installed")

CAMERAS = {
    "head_camera": "cam_head",
    "left_camera": "cam_left_wrist",
    "right_camera": "cam_right_wrist",
}
COLOR = (220, 60, 20)  # RGB


def encode(frame: np.ndarray[Any, Any]) -> bytes:
    """As RoboTwin writes its pictures: RGB in, although OpenCV takes BGR."""
    _, data = cv2.imencode(".jpg", frame)
    return bytes(data.tobytes())


def frames(count: int) -> list[bytes]:
    return [encode(np.full((48, 64, 3), COLOR, np.uint8)) for _ in range(count)]


def write_stable(folder: Path, number: int, vector: np.ndarray[Any, Any]) -> None:
    for name in ("data", "instructions"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    with h5py.File(folder / f"data/episode{number}.hdf5", "w") as file:
        file["joint_action/vector"] = vector
        for name in CAMERAS:
            images = frames(len(vector))
            file.create_dataset(
                f"observation/{name}/rgb", data=images, dtype=f"S{max(map(len, images)) + 3}"
            )
    texts = {"seen": [f"seen {number}"], "unseen": [f"unseen {number}"]}
    (folder / f"instructions/episode{number}.json").write_text(json.dumps(texts))


def write_v1(folder: Path, number: int, vector: np.ndarray[Any, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = ("left_arm_joint", "left_ee_joint", "right_arm_joint", "right_ee_joint")
    parts = dict(zip(names, np.split(vector, [6, 7, 13], axis=1), strict=True))
    with h5py.File(folder / f"episode_{number:07d}.hdf5", "w") as file:
        file["data_format_version"] = "v1.0"
        file["instructions"] = json.dumps([f"seen {number}"])
        for name, values in parts.items():
            file[f"state/{name}_states"] = values[:-1]
            file[f"action/{name}_states"] = values[1:]
        for name in CAMERAS.values():
            images = frames(len(vector) - 1)
            file.create_dataset(
                f"vision/{name}/colors", data=images, dtype=f"S{max(map(len, images))}"
            )


WRITERS = {"stable": write_stable, "v1": write_v1}


@pytest.fixture(params=sorted(WRITERS))
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    folder = tmp_path / "stack_blocks_two"
    for number, length in ((2, 9), (10, 14)):
        vector = np.random.default_rng(number).standard_normal((length, 14))
        WRITERS[request.param](folder, number, vector.astype(np.float32))
    return folder


def test_both_layouts_give_the_same_dataset(source: Path, tmp_path: Path) -> None:
    root = tmp_path / "out"
    summary = convert_robotwin(source, root, progress_bar=False)
    assert summary == (root, 2, 8 + 13, 2)
    table = pq.read_table(root / "data/chunk-000/file-000.parquet").to_pydict()
    vector = np.random.default_rng(2).standard_normal((9, 14)).astype(np.float32)
    np.testing.assert_array_equal(np.array(table["observation.state"][:8], np.float32), vector[:-1])
    np.testing.assert_array_equal(np.array(table["action"][:8], np.float32), vector[1:])
    assert np.flatnonzero(table["next.success"]).tolist() == [7, 20]
    assert np.flatnonzero(table["next.done"]).tolist() == [7, 20]
    tasks = pq.read_table(root / "meta/tasks.parquet")["task"].to_pylist()
    assert tasks == ["seen 2", "seen 10"]  # in the order of the numbers


def test_the_command_line_converts_too(source: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench_adapters", "convert", "robotwin", str(source)]
    done = subprocess.run(
        [*command, str(tmp_path / "out"), "--set", "instruction_type=unseen"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "out: 2 episodes (2 new), 21 frames" in done.stdout


def test_colours_are_right(source: Path, tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    convert_robotwin(source, tmp_path / "out", progress_bar=False, max_episodes=1)
    (video,) = (tmp_path / "out/videos/observation.images.head_camera").rglob("*.mp4")
    with av.open(str(video)) as container:
        frame = next(container.decode(video=0)).to_ndarray(format="rgb24")
    np.testing.assert_allclose(frame[24, 32].astype(int), COLOR, atol=12)


def test_decodes_as_opencv_does() -> None:
    rows, columns = np.mgrid[0:48, 0:64]
    smooth = np.stack([rows * 4, columns * 3, 255 - rows * 2], axis=-1).astype(np.uint8)
    data = encode(smooth)
    reference = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    ours = decode_jpeg(data + b"\0" * 5, swapped=True)
    # Upsampling of chroma differs between decoders.
    assert np.abs(ours.astype(int) - reference.astype(int)).mean() < 1.5
    np.testing.assert_array_equal(decode_jpeg(data), ours[..., ::-1])
    with pytest.raises(ValueError, match="4 bytes are not a JPEG"):
        decode_jpeg(b"text")


def test_a_doctor_finds_nothing_wrong(source: Path, tmp_path: Path) -> None:
    pytest.importorskip("lerobot_doctor", reason="lerobot-doctor is not installed")
    convert_robotwin(source, tmp_path / "out", progress_bar=False)
    command = [sys.executable, "-m", "lerobot_doctor.cli", "check", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "FAIL" not in done.stdout + done.stderr, done.stdout
    assert "PASS" in done.stdout, done.stdout + done.stderr


def test_unseen_instructions(tmp_path: Path) -> None:
    write_stable(tmp_path, 0, np.zeros((3, 14), np.float32))
    episode = read_episode(
        tmp_path / "data/episode0.hdf5", ["head_camera"], instruction_type="unseen"
    )
    assert episode.instructions == ["unseen 0"]
    assert episode.layout == "stable_2.0"


def test_another_source_is_not_appended(source: Path, tmp_path: Path) -> None:
    convert_robotwin(source, tmp_path / "out", progress_bar=False)
    write_stable(tmp_path / "b", 2, np.zeros((9, 14), np.float32))
    write_v1(tmp_path / "c", 2, np.zeros((9, 14), np.float32))
    for other in ("b", "c"):
        with pytest.raises(ValueError, match="record into another folder"):
            convert_robotwin(tmp_path / other, tmp_path / "out", progress_bar=False)


def test_refuses_other_files(tmp_path: Path) -> None:
    path = tmp_path / "episode0.hdf5"
    with h5py.File(path, "w") as file:
        file["qpos"] = np.zeros(3)
    with pytest.raises(ValueError, match=r"neither of RoboTwin 2.0's layouts.*\['qpos'\]"):
        read_episode(path, ["head_camera"])
    with h5py.File(path, "w") as file:
        file["data_format_version"] = "v2.0"
    with pytest.raises(ValueError, match=r"data_format_version 'v2.0'.*reads 'v1.0'"):
        read_episode(path, ["head_camera"])
    with pytest.raises(FileNotFoundError, match=r"holds no episode\*\.hdf5"):
        convert_robotwin(tmp_path / "data", tmp_path / "out")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cameras": ("top",)}, r"`cameras` of.*\['top'\]"),
        ({"instruction_type": "both"}, "`instruction_type` of.*'both'"),
        ({"max_episodes": 0}, "positive `max_episodes`, got 0"),
        ({"cameras": ("front_camera",)}, "choose other `cameras`"),
    ],
)
def test_refuses_bad_arguments(
    source: Path, tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        convert_robotwin(source, tmp_path / "out", **arguments)
