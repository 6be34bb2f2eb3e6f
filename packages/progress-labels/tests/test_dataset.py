import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from progress_labels.dataset import EpisodeDataset
from progress_labels.errors import DatasetError
from progress_labels.testing import make_dataset, make_frames


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "set"
    make_dataset(root, cameras=("base", "wrist"), failures=1, idle_tail=4, frames_per_stage=8)
    return root


@pytest.fixture
def root(source, tmp_path):
    return shutil.copytree(source, tmp_path / "set")


@pytest.mark.parametrize(("camera", "first_seed"), [("base", 0), ("wrist", 1000)])
def test_each_episode_gets_its_own_frames_in_order(source, camera, first_seed):
    dataset = EpisodeDataset(source, camera=camera)
    assert len(dataset) == 3
    for number, episode in enumerate(dataset):
        truth = make_frames(frames_per_stage=8, seed=first_seed + number)
        frames = episode["frames"][: len(truth)]
        assert frames.dtype == torch.uint8
        # H.264 with half-resolution colour: exact inside surfaces, off at the square's edges.
        error = (frames.float() - truth.float()).abs()
        assert error.mean(dim=(1, 2, 3)).max() < 4.0
        red = truth[..., 0] > 200
        assert frames[..., 0][red].float().mean() > 190  # RGB, not BGR
        assert frames[..., 2][red].float().mean() < 80


def test_rows_and_metadata(source):
    dataset = EpisodeDataset(source)
    assert (dataset.fps, dataset.num_frames, dataset.camera) == (10.0, 84, "base")
    assert dataset.cameras == ["base", "wrist"]
    episode = dataset[1]
    table = pq.read_table(source / "data/chunk-000/file-000.parquet").to_pydict()
    assert episode["index"].tolist() == list(range(28, 56))
    assert episode["state"].tolist() == table["observation.state"][28:56]
    assert episode["action"].shape == (28, 2)
    assert episode["task"] == "move the square around"
    assert [dataset[n]["success"] for n in range(3)] == [True, True, False]
    assert dataset[-1]["episode_index"] == 2


def test_completion_is_the_first_success_frame(source):
    dataset = EpisodeDataset(source)
    assert [dataset.completion(n) for n in range(3)] == [23, 23, None]


def _rewrite(path, change):
    pq.write_table(change(pq.read_table(path)), path)


def test_without_optional_columns_episodes_are_demonstrations(root):
    optional = ["next.success", "observation.state", "action"]
    _rewrite(root / "data/chunk-000/file-000.parquet", lambda table: table.drop_columns(optional))
    dataset = EpisodeDataset(root)
    assert dataset.completion(2) == 27
    assert dataset[2]["success"]
    assert dataset[2]["state"].shape == dataset[2]["action"].shape == (28, 0)


@pytest.mark.parametrize("kind", [pa.bool_(), pa.int64(), pa.float32()])
def test_nulls_report_no_success(root, kind):
    def forget(table):
        # The first says nothing before frame 23; the second and the third say nothing at all.
        values = [None] * 23 + [True] * 5 + [None] * 28 + [False] * 14 + [None] * 14
        column = pa.array(values, pa.bool_()).cast(kind)
        return table.set_column(table.column_names.index("next.success"), "next.success", column)

    _rewrite(root / "data/chunk-000/file-000.parquet", forget)
    dataset = EpisodeDataset(root)
    assert [dataset.completion(n) for n in range(3)] == [23, None, None]
    assert [episode["success"] for episode in dataset] == [True, False, False]


def test_full_camera_key_and_unknown_camera(source):
    assert EpisodeDataset(source, camera="observation.images.wrist").camera == "wrist"
    with pytest.raises(DatasetError, match=r"No camera 'top' .* \['base', 'wrist'\]"):
        EpisodeDataset(source, camera="top")


def _edit_info(root, **changes):
    path = root / "meta/info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_pandas_index_column_of_tasks(root):
    table = pa.table({"task_index": [0], "__index_level_0__": ["fold the towel"]})
    pq.write_table(table, root / "meta/tasks.parquet")
    assert EpisodeDataset(root)[0]["task"] == "fold the towel"


def test_foreign_versions_and_folders_are_refused(root, tmp_path):
    with pytest.raises(DatasetError, match=r"No .*info.json: point at the root"):
        EpisodeDataset(tmp_path)
    _edit_info(root, codebase_version="v2.0")
    with pytest.raises(DatasetError, match=r"'v2.0', .* 'v3.0' or 'v2.1'. Convert it"):
        EpisodeDataset(root)
    (root / "meta/info.json").write_text("{")
    with pytest.raises(DatasetError, match=r"Cannot read .*info.json"):
        EpisodeDataset(root)


def test_incomplete_info_is_refused(root):
    _edit_info(root, video_path=None)
    with pytest.raises(DatasetError, match="no 'video_path'"):
        EpisodeDataset(root)
    _edit_info(root, video_path="x", features={"action": {"dtype": "float32"}})
    with pytest.raises(DatasetError, match="no camera"):
        EpisodeDataset(root)


@pytest.mark.parametrize(
    "name",
    [
        "meta/tasks.parquet",
        "meta/episodes/chunk-000/file-000.parquet",
        "data/chunk-000/file-000.parquet",
    ],
)
def test_truncated_and_missing_parquet_is_named(root, name):
    content = (root / name).read_bytes()
    (root / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(DatasetError, match=rf"Cannot read .*{name}"):
        EpisodeDataset(root)
    (root / name).unlink()
    with pytest.raises(DatasetError, match=r"Missing|No parquet file"):
        EpisodeDataset(root)


def test_missing_and_truncated_video_is_named(root):
    video = root / "videos/observation.images.base/chunk-000/file-000.mp4"
    content = video.read_bytes()
    video.unlink()
    with pytest.raises(DatasetError, match=r"Missing or empty .*file-000.mp4"):
        EpisodeDataset(root)
    video.write_bytes(content[: len(content) // 2])
    dataset = EpisodeDataset(root)
    with pytest.raises(DatasetError, match=r"Cannot decode .*file-000.mp4"):
        dataset[0]


def test_a_video_that_ends_early_is_named(root):
    def lengthen(table):
        return table.set_column(
            table.column_names.index("length"), "length", pa.array([28, 28, 40])
        )

    _rewrite(root / "meta/episodes/chunk-000/file-000.parquet", lengthen)
    with pytest.raises(DatasetError, match="28 rows of episode 2 where meta/episodes says 40"):
        EpisodeDataset(root)[2]
    rows = root / "data/chunk-000/file-000.parquet"
    _rewrite(rows, lambda table: pa.concat_tables([table, table.slice(72)]))
    with pytest.raises(DatasetError, match=r"ends after 28 of 40 frames from 5.600 s"):
        EpisodeDataset(root)[2]


def test_missing_columns_are_named(root):
    _rewrite(root / "data/chunk-000/file-000.parquet", lambda table: table.drop_columns(["index"]))
    with pytest.raises(DatasetError, match="no column 'index'"):
        EpisodeDataset(root)
    episodes = root / "meta/episodes/chunk-000/file-000.parquet"
    _rewrite(episodes, lambda table: table.drop_columns(["length"]))
    with pytest.raises(DatasetError, match=r"episodes/.*'length'|Cannot read .*episodes"):
        EpisodeDataset(root)


def test_vectors_of_any_list_type(root):
    def variable(table):
        index = table.column_names.index("action")
        values = pa.array(np.asarray(table["action"].to_pylist(), np.float64).tolist())
        return table.set_column(index, "action", values)

    before = EpisodeDataset(root)[1]["action"]
    _rewrite(root / "data/chunk-000/file-000.parquet", variable)
    assert torch.equal(EpisodeDataset(root)[1]["action"], before)
