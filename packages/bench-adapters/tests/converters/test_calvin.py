import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from bench_adapters.converters.calvin import Window, convert_calvin, read_windows

WINDOWS = [
    Window(100, 111, "push the red block", "push_red_block_right"),
    Window(104, 118, "pull the drawer", "open_drawer"),
    Window(130, 139, "slide the red block to the right", "push_red_block_right"),
]


class Malicious:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> Any:
        return (print, ("code from the file",))


def write_annotations(folder: Path, content: Any) -> None:
    path = folder / "lang_annotations/auto_lang_ann.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, content, allow_pickle=True)


@pytest.fixture
def split(tmp_path: Path) -> Path:
    """A split in CALVIN's layout: one file per frame."""
    folder = tmp_path / "training"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(100, 140):
        np.savez(
            folder / f"episode_{number:07d}.npz",
            rgb_static=np.full((200, 200, 3), (200, number, 20), np.uint8),
            rgb_gripper=np.full((84, 84, 3), (number, 10, 120), np.uint8),
            robot_obs=rng.standard_normal(15),
            scene_obs=rng.standard_normal(24),
            actions=np.full(7, number / 1000),
            rel_actions=np.full(7, number / 100),
        )
    language = {
        "ann": [window.instruction for window in WINDOWS],
        "task": [window.task for window in WINDOWS],
        "emb": rng.standard_normal((3, 1, 384)).astype(np.float32),
    }
    bounds = [(window.first, window.last) for window in WINDOWS]
    write_annotations(folder, {"language": language, "info": {"episodes": [], "indx": bounds}})
    return folder


def test_another_source_is_not_appended(split: Path, tmp_path: Path) -> None:
    convert_calvin(split, tmp_path / "out", max_episodes=1, progress_bar=False)
    other = tmp_path / "other"
    shutil.copytree(split, other)
    with np.load(other / f"episode_{WINDOWS[0].first:07d}.npz") as frame:
        changed = dict(frame) | {"robot_obs": frame["robot_obs"] + 1}
    np.savez(other / f"episode_{WINDOWS[0].first:07d}.npz", **changed)
    with pytest.raises(ValueError, match="record into another folder"):
        convert_calvin(other, tmp_path / "out", progress_bar=False)
    assert convert_calvin(split, tmp_path / "out", progress_bar=False).num_new_episodes == 2


def test_converts_every_window(split: Path, tmp_path: Path) -> None:
    root = tmp_path / "out"
    summary = convert_calvin(split, root, progress_bar=False)
    assert summary == (root, 3, 12 + 15 + 10, 3)
    table = pq.read_table(root / "data/chunk-000/file-000.parquet").to_pydict()
    np.testing.assert_allclose(
        np.array(table["action"])[:12, 0], np.arange(100, 112) / 100, rtol=1e-6
    )
    with np.load(split / "episode_0000130.npz") as frame:
        expected = frame["robot_obs"].astype(np.float32)
    np.testing.assert_array_equal(np.array(table["observation.state"][27], np.float32), expected)
    ends = [11, 26, 36]
    assert np.flatnonzero(table["next.success"]).tolist() == ends
    assert np.flatnonzero(table["next.done"]).tolist() == ends
    assert np.flatnonzero(table["next.reward"]).tolist() == ends
    tasks = pq.read_table(root / "meta/tasks.parquet")["task"].to_pylist()
    assert tasks == [window.instruction for window in WINDOWS]
    episodes = pq.read_table(root / "meta/episodes/chunk-000/file-000.parquet").to_pydict()
    assert episodes["seed"] == [100, 104, 130]


def test_the_command_line_gives_the_same_dataset(split: Path, tmp_path: Path) -> None:
    convert_calvin(split, tmp_path / "a", actions="absolute", cameras=("gripper",), max_episodes=2)
    command = [sys.executable, "-m", "bench_adapters", "convert", "calvin", str(split)]
    options = ["--set", "actions=absolute", "--cameras", "gripper", "--max-episodes", "2"]
    done = subprocess.run(
        [*command, str(tmp_path / "b"), *options], capture_output=True, text=True, check=True
    )
    assert "b: 2 episodes (2 new), 27 frames" in done.stdout
    file = "data/chunk-000/file-000.parquet"
    assert pq.read_table(tmp_path / "a" / file).equals(pq.read_table(tmp_path / "b" / file))


def test_a_doctor_finds_nothing_wrong(split: Path, tmp_path: Path) -> None:
    pytest.importorskip("lerobot_doctor", reason="lerobot-doctor is not installed")
    convert_calvin(split, tmp_path / "out", actions="absolute", progress_bar=False)
    command = [sys.executable, "-m", "lerobot_doctor.cli", "check", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "FAIL" not in done.stdout + done.stderr, done.stdout
    assert "PASS" in done.stdout, done.stdout + done.stderr


def test_goes_on_after_an_interruption(split: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    convert_calvin(split, whole, cameras=("gripper",), progress_bar=False)
    missing = split / "episode_0000130.npz"
    content = missing.read_bytes()
    missing.unlink()
    root = tmp_path / "out"
    with pytest.raises(FileNotFoundError, match="episode_0000130"):
        convert_calvin(split, root, cameras=("gripper",), progress_bar=False)
    missing.write_bytes(content)
    summary = convert_calvin(split, root, cameras=("gripper",), progress_bar=False)
    assert (summary.num_episodes, summary.num_new_episodes) == (3, 1)
    assert summary.num_frames == 37
    with pytest.raises(ValueError, match="actions"):
        convert_calvin(split, root, cameras=("gripper",), actions="absolute", progress_bar=False)


def test_annotations_cannot_run_code(split: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = split / "lang_annotations/auto_lang_ann.npy"
    assert read_windows(path) == WINDOWS
    write_annotations(split, {"language": Malicious()})
    with pytest.raises(ValueError, match=r"it refers to builtins\.print"):
        read_windows(path)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("content", [{"language": {}}, [1, 2], {"info": {"indx": []}}])
def test_refuses_other_annotations(split: Path, content: Any) -> None:
    write_annotations(split, content)
    with pytest.raises(ValueError, match="does not hold CALVIN's annotations"):
        read_windows(split / "lang_annotations/auto_lang_ann.npy")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"actions": "joint"}, "`actions` of.*'joint'"),
        ({"cameras": ("top",)}, r"`cameras` of.*\['top'\]"),
        ({"max_episodes": 0}, "positive `max_episodes`, got 0"),
    ],
)
def test_refuses_bad_arguments(
    split: Path, tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        convert_calvin(split, tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()
