import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest

from bench_adapters.envs.toy import ReachEnvironment
from bench_adapters.errors import WorkerError
from bench_adapters.record import record_dataset

SETTINGS = {"noise": 0.1, "failure_fraction": 0.4, "progress_bar": False}


def files_of(root):
    return {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def read_all(root, kind):
    return [
        row
        for path in sorted(root.glob(f"{kind}/*/*.parquet"))
        for row in pq.read_table(path, partitioning=None).to_pylist()
    ]


def test_replaying_the_actions_gives_the_recorded_rows(tmp_path):
    """Each row is the observation before its action and the outcome after it."""
    summary = record_dataset("toy:reach", tmp_path, num_episodes=6, seed=40, **SETTINGS)
    frames = read_all(tmp_path, "data")
    assert summary.num_frames == len(frames)
    env = ReachEnvironment()
    for episode in read_all(tmp_path, "meta/episodes"):
        mine = [row for row in frames if row["episode_index"] == episode["episode_index"]]
        assert episode["seed"] == 40 + episode["episode_index"]
        observation = env.reset(episode["seed"])
        assert episode["tasks"] == [observation["task"]]
        for row in mine:
            assert row["observation.state"] == observation["observation.state"].tolist()
            chunk = env.step_chunk(np.array([row["action"]], np.float32))
            observation = chunk.observation
            assert row["next.reward"] == chunk.reward[0]
            assert row["next.success"] == chunk.success[0]
            assert row["next.done"] == (chunk.terminated[0] or chunk.truncated[0])
        assert mine[-1]["next.done"]
        assert episode["success"] == mine[-1]["next.success"]


def test_workers_change_no_byte(tmp_path):
    for workers in (0, 2):
        root = tmp_path / str(workers)
        record_dataset("toy:reach", root, num_episodes=13, num_workers=workers, **SETTINGS)
    assert files_of(tmp_path / "0") == files_of(tmp_path / "2")


def test_seed_matters(tmp_path):
    for seed in (0, 50):
        record_dataset("toy:reach", tmp_path / str(seed), num_episodes=2, seed=seed, **SETTINGS)
    first, other = (read_all(tmp_path / name, "data")[0]["action"] for name in ("0", "50"))
    assert first != other


def test_failures_are_a_share_and_fail(tmp_path):
    summary = record_dataset(
        "toy:reach", tmp_path, num_episodes=40, failure_fraction=0.3, progress_bar=False
    )
    episodes = read_all(tmp_path, "meta/episodes")
    failing = [row for row in episodes if row["failure"]]
    assert len(failing) == 12
    assert {row["failure"] for row in failing} == set(ReachEnvironment.failure_modes)
    assert [row["success"] for row in episodes] == [not row["failure"] for row in episodes]
    assert summary.num_successes == 28


def test_more_episodes_later(tmp_path):
    record_dataset("toy:reach", tmp_path / "once", num_episodes=20, **SETTINGS)
    for num_episodes in (10, 20):
        summary = record_dataset(
            "toy:reach", tmp_path / "twice", num_episodes=num_episodes, **SETTINGS
        )
    assert (summary.num_episodes, summary.num_new_episodes) == (20, 10)
    twice = files_of(tmp_path / "twice")
    assert files_of(tmp_path / "once") == twice
    again = record_dataset("toy:reach", tmp_path / "twice", num_episodes=20, **SETTINGS)
    assert again.num_new_episodes == 0
    assert files_of(tmp_path / "twice") == twice


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_stopped_and_started_again(tmp_path, how):
    """Whenever it is stopped, the next start ends with the rows of a run that was not."""
    root = tmp_path / "stopped"
    arguments = ["toy:reach", str(root), "--episodes", "4000", "--num-workers", "2"]
    command = [sys.executable, "-m", "bench_adapters", "record", *arguments, "--noise", "0.1"]
    # A job in the background ignores interrupts, and so would what it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not (root / "meta/episodes/chunk-000/file-001.parquet").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.005)
    os.killpg(process.pid, how) if how == signal.SIGINT else process.kill()
    _, stderr = process.communicate()
    assert "Traceback" not in stderr
    assert process.returncode == (130 if how == signal.SIGINT else -signal.SIGKILL)
    finished = len(read_all(root, "meta/episodes"))
    assert 20 <= finished < 4000
    total = finished + 20
    summary = record_dataset("toy:reach", root, num_episodes=total, noise=0.1, progress_bar=False)
    assert 20 <= summary.num_new_episodes <= 30
    record_dataset(
        "toy:reach", tmp_path / "whole", num_episodes=total, noise=0.1, progress_bar=False
    )
    assert read_all(root, "data") == read_all(tmp_path / "whole", "data")


def test_other_settings_are_refused(tmp_path):
    record_dataset("toy:reach", tmp_path, num_episodes=1, progress_bar=False)
    assert read_all(tmp_path, "meta/episodes")[0]["seed"] >= 1_000_000  # evaluations begin at 0
    with pytest.raises(ValueError, match=r"'noise': 0.0.*not.*'noise': 0.2"):
        record_dataset("toy:reach", tmp_path, num_episodes=2, noise=0.2, progress_bar=False)


def test_what_cannot_be_recorded(tmp_path, monkeypatch):
    package = tmp_path / "mute_bench-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: mute-bench\nVersion: 1.0")
    (package / "entry_points.txt").write_text("[bench_adapters.envs]\nmute = mute_bench:make\n")
    (tmp_path / "mute_bench.py").write_text(
        "from bench_adapters.envs.toy import ReachEnvironment\n"
        "class Perfect(ReachEnvironment):\n    failure_modes = ()\n"
        "class Falls(ReachEnvironment):\n"
        "    def reset(self, seed):\n        return 1 / (3 - seed) and super().reset(seed)\n"
        "class Plain:\n    def close(self): pass\n"
        "def make(name):\n    return globals()[name]()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    settings = {"num_episodes": 5, "seed": 0, "progress_bar": False}
    with pytest.raises(ValueError, match="'mute:Plain' has no scripted expert"):
        record_dataset("mute:Plain", tmp_path / "a", **settings)
    with pytest.raises(ValueError, match="'mute:Perfect' has no failure modes"):
        record_dataset("mute:Perfect", tmp_path / "a", failure_fraction=0.5, **settings)
    assert not (tmp_path / "a").exists()
    with pytest.raises(WorkerError, match="making the episode of seed 3: ZeroDivisionError"):
        record_dataset("mute:Falls", tmp_path / "b", num_workers=2, **settings)
    assert len(read_all(tmp_path / "b", "meta/episodes")) == 3  # those before it are kept


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_episodes": 0}, "got 0"),
        ({"seed": -1}, "and -1"),
        ({"noise": -0.5}, "got -0.5"),
        ({"failure_fraction": 1.5}, "and 1.5"),
        ({"num_workers": -2}, "-2"),
        ({"perturbations": ["stall"]}, r"`failure_fraction` above 0 with `perturbations` \['stall"),
    ],
)
def test_bad_arguments(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        record_dataset("toy:reach", tmp_path / "a", **({"num_episodes": 1} | change))
    assert not (tmp_path / "a").exists()


def test_perturbations_are_drawn_from_those_named(tmp_path):
    settings = {"num_episodes": 8, "failure_fraction": 0.5, "progress_bar": False}
    record_dataset("toy:reach", tmp_path / "a", perturbations=["stall"], **settings)
    failures = [episode["failure"] for episode in read_all(tmp_path / "a", "meta/episodes")]
    assert sorted(set(failures)) == ["", "stall"]
    with pytest.raises(ValueError, match=r"unknown `perturbations` \['drop'\].*wrong_square"):
        record_dataset("toy:reach", tmp_path / "b", perturbations=["drop"], **settings)


def test_phases_belong_to_primitives_and_groups(tmp_path):
    record_dataset("toy:reach", tmp_path, num_episodes=2, progress_bar=False)
    features = json.loads((tmp_path / "meta/info.json").read_text())["features"]
    names = {key: features[key]["labels"] for key in ("phase", "primitive", "primitive_group")}
    for row in read_all(tmp_path, "data"):
        phase, primitive, group = (names[key][row[key]] for key in names)
        assert (phase, primitive, group) in {
            ("approach", "pass", "translate"),
            ("settle", "place", "release"),
        }
