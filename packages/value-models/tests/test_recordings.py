import json

import pytest
import torch

from value_models.features import encode_episodes
from value_models.primitives import primitive_index
from value_models.recordings import RecordedEpisodes
from value_models.testing import PixelEncoder, SyntheticEpisodes

pa = pytest.importorskip("pyarrow", reason="needs the extra [data]")
pq = pytest.importorskip("pyarrow.parquet", reason="needs the extra [data]")
NAMES = ["pick_grab", "pass", "dummy"]


def _write(root, episodes, *, labels=NAMES, missing=0):
    """What a recording has beside frames: rows in several files, not in order."""
    rows = []
    for episode in episodes:
        length = len(episode["observation.images.hand"]) - missing
        rows += [(episode["episode_index"], f, f % 3, [float(f), 1.0]) for f in range(length)]
    names = ["episode_index", "frame_index", "primitive", "observation.state"]
    half = len(rows) // 2
    for number, part in enumerate((rows[half:], rows[:half][::-1])):
        path = root / "data" / "chunk-000" / f"file-{number:03d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        table = pa.table(dict(zip(names, map(list, zip(*part, strict=True)), strict=True)))
        pq.write_table(table, path)
    features = {"primitive": {"dtype": "int64", "labels": labels}, "observation.state": {}}
    (root / "meta").mkdir(exist_ok=True)
    (root / "meta" / "info.json").write_text(json.dumps({"features": features}))


@pytest.fixture
def source():
    episodes = SyntheticEpisodes(3)
    for episode in episodes.episodes:
        episode.pop("primitive", None)
    return episodes


def test_primitives_reach_the_encoded_episodes(tmp_path, source):
    _write(tmp_path, source.episodes)
    recorded = RecordedEpisodes(source, tmp_path, columns=["primitive", "observation.state"])
    assert len(recorded) == 3
    encoded = encode_episodes(recorded, PixelEncoder(), camera="hand", progress_bar=False)
    indices = torch.tensor([primitive_index(name) for name in NAMES])
    for episode in encoded:
        frame = torch.arange(len(episode.progress))
        assert torch.equal(episode.signals["primitive"], indices[frame % 3])
        assert torch.equal(episode.signals["observation.state"][:, 0], frame.float())


def test_rows_of_another_dataset_are_refused(tmp_path, source):
    _write(tmp_path, source.episodes, missing=1)
    with pytest.raises(ValueError, match=r"Expected \d+ rows of episode 0 in .*another dataset"):
        RecordedEpisodes(source, tmp_path)[0]


@pytest.mark.parametrize(
    ("labels", "columns", "message"),
    [
        (NAMES, ["phase"], r"`columns` among \['primitive'.*got \['phase'\]"),
        ([], ["primitive"], "no `labels` that name the primitives"),
    ],
)
def test_bad_columns_are_named(tmp_path, source, labels, columns, message):
    _write(tmp_path, source.episodes, labels=labels)
    with pytest.raises(ValueError, match=message):
        RecordedEpisodes(source, tmp_path, columns=columns)


def test_a_folder_without_a_dataset_or_the_column_is_refused(tmp_path, source):
    with pytest.raises(ValueError, match=r"No meta/info.json in .*: not a LeRobot dataset"):
        RecordedEpisodes(source, tmp_path)
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "info.json").write_text('{"features": {"action": {}}}')
    with pytest.raises(ValueError, match=r"has no 'primitive'; it has \['action'\]"):
        RecordedEpisodes(source, tmp_path)
