import json
import subprocess
import sys

import av
import numpy as np
import pyarrow.parquet as pq
import pytest

from bench_adapters.functional.statistics import feature_stats
from bench_adapters.recorder import DatasetRecorder

FPS = 10
PROVENANCE = {"expert": "none", "noise": 0.1}


def open_recorder(root, **overrides):
    settings = {
        "fps": FPS,
        "cameras": {"top": (32, 32), "wrist": (16, 24)},
        "state_dim": 3,
        "action_dim": 2,
        "robot_type": "pen",
        "extra_features": {"primitive": "label", "force": "float32"},
        "provenance": PROVENANCE,
        "episodes_per_file": 2,
    }
    return DatasetRecorder(root, **(settings | overrides))


def make_episode(index, length=20):
    rng = np.random.default_rng(index)
    done = np.arange(length) == length - 1
    top = np.full((length, 32, 32, 3), 60, np.uint8)
    top[np.arange(length), 10:20, 10:20] = 10 * np.arange(length)[:, None, None, None] + 5 * index
    return {
        "frames": {"top": top, "wrist": np.full((length, 16, 24, 3), 100 + index, np.uint8)},
        "state": rng.standard_normal((length, 3)).astype(np.float32),
        "action": rng.standard_normal((length, 2)).astype(np.float32),
        "reward": done.astype(np.float32) * (index % 2),
        "success": done & (index % 2 == 1),
        "done": done,
        "task": f"task {index % 2}",
        "seed": 100 + index,
        "failure": "" if index % 2 else "drop",
        "extra": {
            "primitive": ["reach"] * 7 + ["lift" if index else "grasp"] * (length - 7),
            "force": rng.standard_normal(length),
        },
    }


def record(root, indices, **overrides):
    with open_recorder(root, **overrides) as recorder:
        for index in indices:
            recorder.add_episode(**make_episode(index, length=20 + index))
    return recorder


def files_of(root):
    return {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def read_all(root, kind):
    return [
        row
        for path in sorted(root.glob(f"{kind}/*/*.parquet"))
        for row in pq.read_table(path, partitioning=None).to_pylist()
    ]


def run_doctor(root):
    command = [sys.executable, "-m", "lerobot_doctor.cli", "check", str(root), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return {check["name"]: check["severity"] for check in json.loads(done.stdout)["checks"]}


def test_lerobot_doctor_finds_nothing(tmp_path):
    record(tmp_path, range(5))
    severities = run_doctor(tmp_path)
    # It would like episodes of more than 50 frames; everything else passes.
    assert severities.pop("Episode Health") == "WARN"
    assert len(severities) == 10
    assert set(severities.values()) == {"PASS"}


def test_columns(tmp_path):
    recorder = record(tmp_path, range(5))
    assert (recorder.num_episodes, recorder.num_frames) == (5, 110)
    rows = read_all(tmp_path, "data")
    assert [row["index"] for row in rows] == list(range(110))
    episode = make_episode(3, length=23)
    mine = [row for row in rows if row["episode_index"] == 3]
    assert [row["frame_index"] for row in mine] == list(range(23))
    np.testing.assert_allclose([row["timestamp"] for row in mine], np.arange(23) / FPS, atol=1e-6)
    for column, key in [
        ("observation.state", "state"),
        ("action", "action"),
        ("next.reward", "reward"),
        ("next.success", "success"),
        ("next.done", "done"),
    ]:
        assert np.array_equal([row[column] for row in mine], episode[key]), column
    np.testing.assert_allclose([row["force"] for row in mine], episode["extra"]["force"], rtol=1e-6)
    info = json.loads((tmp_path / "meta/info.json").read_text())
    labels = info["features"]["primitive"]["labels"]
    assert [labels[row["primitive"]] for row in mine] == episode["extra"]["primitive"]
    tasks = pq.read_table(tmp_path / "meta/tasks.parquet").to_pydict()
    assert tasks["task"][mine[0]["task_index"]] == "task 1"


def test_schema(tmp_path):
    record(tmp_path, range(3))
    schema = pq.read_schema(tmp_path / "data/chunk-000/file-000.parquet")
    types = {name: str(schema.field(name).type) for name in schema.names}
    assert types["observation.state"] == "fixed_size_list<element: float>[3]"
    assert (types["timestamp"], types["index"], types["next.done"]) == ("float", "int64", "bool")
    info = json.loads((tmp_path / "meta/info.json").read_text())
    assert info["codebase_version"] == "v3.0"
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"]) == (3, 63, 2)
    assert info["splits"] == {"train": "0:3"}
    videos = {k for k, feature in info["features"].items() if feature["dtype"] == "video"}
    assert set(info["features"]) - videos == set(schema.names)
    assert info["features"]["observation.images.wrist"]["shape"] == [16, 24, 3]


def test_tasks_index_for_pandas(tmp_path):
    record(tmp_path, range(2))
    metadata = pq.read_schema(tmp_path / "meta/tasks.parquet").pandas_metadata
    assert metadata["index_columns"] == ["task"]
    assert {column["name"] for column in metadata["columns"]} == {"task", "task_index"}


def test_episodes_point_at_their_frames(tmp_path):
    """Decode each camera at the place that meta/episodes gives and compare with what was added."""
    record(tmp_path, range(5))
    for row in read_all(tmp_path, "meta/episodes"):
        index, length = row["episode_index"], row["length"]
        assert row["dataset_to_index"] - row["dataset_from_index"] == length == 20 + index
        assert (row["seed"], row["tasks"]) == (100 + index, [f"task {index % 2}"])
        assert (row["success"], row["failure"]) == (bool(index % 2), "" if index % 2 else "drop")
        for camera in ("top", "wrist"):
            key = f"videos/observation.images.{camera}"
            assert row[f"{key}/chunk_index"] == row["data/chunk_index"] == 0
            path = tmp_path / key / "chunk-000" / f"file-{row[f'{key}/file_index']:03d}.mp4"
            start, stop = row[f"{key}/from_timestamp"], row[f"{key}/to_timestamp"]
            with av.open(str(path)) as container:
                frames = [
                    f.to_ndarray(format="rgb24")
                    for f in container.decode(video=0)
                    if start - 1e-6 <= f.time < stop - 1e-6
                ]
            expected = make_episode(index, length=length)["frames"][camera]
            assert np.abs(np.stack(frames).astype(int) - expected).mean() < 2


def test_statistics_are_exact_after_close(tmp_path):
    record(tmp_path, range(5))
    stats = json.loads((tmp_path / "meta/stats.json").read_text())
    states = np.concatenate([make_episode(i, length=20 + i)["state"] for i in range(5)])
    for name, expected in feature_stats(states).items():
        np.testing.assert_allclose(stats["observation.state"][name], expected, err_msg=name)
    image = stats["observation.images.wrist"]
    assert np.shape(image["mean"]) == (3, 1, 1)
    expected = sum((100 + i) * (20 + i) for i in range(5)) / 110 / 255
    np.testing.assert_allclose(np.ravel(image["mean"]), expected)
    info = json.loads((tmp_path / "meta/info.json").read_text())
    assert set(stats) == set(info["features"])
    episode = read_all(tmp_path, "meta/episodes")[0]
    np.testing.assert_allclose(
        episode["stats/action/q99"], np.quantile(make_episode(0)["action"], 0.99, axis=0), rtol=1e-6
    )


def test_resumed_is_uninterrupted(tmp_path):
    record(tmp_path / "whole", range(6))
    record(tmp_path / "parts", range(4))
    record(tmp_path / "parts", range(4, 6), resume=True)
    whole = files_of(tmp_path / "whole")
    assert len(whole) == 3 * 4 + 4
    assert files_of(tmp_path / "parts") == whole


def test_provenance_is_compared_as_it_is_stored(tmp_path):
    for index in range(2):
        facts = {"cameras": ("base",), "assets": tmp_path, "options": {"size": 64}}
        record(tmp_path / "data", [index], provenance=facts, resume=True)
    assert open_recorder(tmp_path / "data", provenance=facts, resume=True).num_episodes == 2


def test_an_exception_keeps_the_finished_episodes(tmp_path):
    def interrupted():
        with open_recorder(tmp_path) as recorder:
            for index in range(3):
                recorder.add_episode(**make_episode(index))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [row["seed"] for row in read_all(tmp_path, "meta/episodes")] == [100, 101, 102]
    assert open_recorder(tmp_path, resume=True).num_episodes == 3


def test_killed_between_files(tmp_path):
    """A group without its meta/episodes file was not written; its leavings are removed."""
    record(tmp_path, range(4))
    (tmp_path / "meta/episodes/chunk-000/file-001.parquet").unlink()
    (tmp_path / "data/chunk-000/.file-002.parquet.part").write_text("half")
    recorder = open_recorder(tmp_path, resume=True)
    assert [row.seed for row in recorder.episodes] == [100, 101]
    assert len(list(tmp_path.rglob("file-001*"))) == 0
    assert len(list(tmp_path.rglob("*.part"))) == 0
    assert json.loads((tmp_path / "meta/info.json").read_text())["total_episodes"] == 2
    for index in (2, 3):
        recorder.add_episode(**make_episode(index, length=20 + index))
    recorder.close()
    assert "FAIL" not in run_doctor(tmp_path).values()


def test_foreign_and_unwritable_folders(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for resume, message in [(False, "is not empty"), (True, "holds no recording to continue")]:
        with pytest.raises(FileExistsError, match=rf"{tmp_path}.*{message}"):
            open_recorder(tmp_path, resume=resume)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(PermissionError, match=r"cannot write to .*notes.txt"):
        open_recorder(tmp_path / "notes.txt" / "below")
    with pytest.raises(FileExistsError, match=r"notes.txt is not empty"):
        open_recorder(tmp_path / "notes.txt")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"fps": 20}, "fps 10, not 20"),
        ({"robot_type": "arm"}, "robot_type 'pen', not 'arm'"),
        ({"state_dim": 4}, r"'observation.state' is .*\[3\].* but .*\[4\]"),
        ({"cameras": {"top": (32, 32)}}, "'observation.images.wrist' is .* but missing"),
        ({"extra_features": {}}, "'force' is .* but missing"),
        ({"provenance": {"expert": "new"}}, "recorded with .*'none'.*, not .*'new'"),
    ],
)
def test_resuming_something_else(tmp_path, overrides, message):
    record(tmp_path, range(2))
    before = files_of(tmp_path)
    with pytest.raises(ValueError, match=message):
        open_recorder(tmp_path, resume=True, **overrides)
    assert files_of(tmp_path) == before


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("videos/observation.images.top/chunk-000/file-000.mp4", lambda p: p.unlink(), "missing"),
        ("data/chunk-000/file-000.parquet", truncate, "not a complete parquet"),
        ("data/chunk-000/file-000.parquet", lambda p: p.unlink(), "missing"),
        ("meta/episodes/chunk-000/file-000.parquet", truncate, "not a complete parquet"),
        ("meta/info.json", truncate, "not valid JSON"),
        ("meta/recording.json", lambda p: p.write_text('{"schema_version": 9}'), "9, this release"),
    ],
)
def test_resuming_damaged_files(tmp_path, name, damage, message):
    record(tmp_path, range(2))
    damage(tmp_path / name)
    with pytest.raises(ValueError, match=rf"{name}.*{message}"):
        open_recorder(tmp_path, resume=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"state": np.zeros((20, 4))}, r"'observation.state' of shape \(20, 3\), got \(20, 4\)"),
        ({"action": np.full((20, 2), np.nan)}, "finite numbers in 'action'"),
        ({"reward": np.zeros(19)}, r"'next.reward' of shape \(20,\), got \(19,\)"),
        ({"extra": {}}, r"missing \['force', 'primitive'\]"),
        (
            {"extra": {"primitive": [1] * 20, "force": np.zeros(20)}},
            "strings in 'primitive', got 1",
        ),
        ({"frames": {}}, r"Expected `frames` of .*top.*got \[\]"),
        ({"done": ["yes"] * 20}, "finite numbers in 'next.done'"),
        ({"success": np.full(20, 0.3)}, "Expected bool in 'next.success', got float64"),
    ],
)
def test_bad_episodes_are_not_added(tmp_path, change, message):
    recorder = open_recorder(tmp_path)
    with pytest.raises(ValueError, match=message):
        recorder.add_episode(**(make_episode(0) | change))
    assert recorder.num_episodes == 0


def test_bad_frames(tmp_path):
    recorder = open_recorder(tmp_path)
    episode = make_episode(0)
    episode["frames"]["top"] = episode["frames"]["top"].astype(np.float32)
    with pytest.raises(ValueError, match=r"uint8 frames \(20, 32, 32, 3\).*got float32"):
        recorder.add_episode(**episode)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"fps": 0}, "fps.*got 0"),
        ({"episodes_per_file": 0}, "episodes_per_file.*got 0"),
        ({"cameras": {"top": (31, 32)}}, r"even.*top.*\(31, 32\)"),
        ({"extra_features": {"x": "complex"}}, "extra_features.*'complex'"),
    ],
)
def test_bad_arguments(tmp_path, overrides, message):
    with pytest.raises(ValueError, match=message):
        open_recorder(tmp_path / "new", **overrides)
    assert not (tmp_path / "new").exists()
