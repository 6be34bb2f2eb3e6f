import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from progress_labels.cache import FeatureCache
from progress_labels.dataset import EpisodeDataset
from progress_labels.encoders import load_encoder
from progress_labels.errors import DatasetError
from progress_labels.labels import (
    LabelConfig,
    label_dataset,
    label_episode,
    label_failure,
    merge_shards,
    read_labels,
    read_problems,
)
from progress_labels.references import make_reference
from progress_labels.testing import make_dataset, make_staged_features


@pytest.fixture(scope="module")
def encoder():
    return load_encoder()


@pytest.fixture
def root(tmp_path):
    make_dataset(tmp_path / "set", num_episodes=4, failures=1)
    return tmp_path / "set"


def _edit_rows(root, change, name="data/chunk-000/file-000.parquet"):
    path = root / name
    columns = pq.read_table(path).to_pydict()
    change(columns)
    table = pq.read_table(path)
    for number, key in enumerate(table.column_names):
        table = table.set_column(
            number, table.schema.field(number), [_array(columns[key], table, key)]
        )
    pq.write_table(table, path)


def _array(values, table, key):
    import pyarrow as pa

    return pa.array(values, table.schema.field(key).type)


def test_shards_merge_to_the_bytes_of_one_run(root, encoder):
    whole = label_dataset(root, encoder, progress_bar=False, compat="sarm")
    expected, compat = whole.read_bytes(), (root / "sarm_progress.parquet").read_bytes()
    whole.unlink()
    (root / "sarm_progress.parquet").unlink()
    label_dataset(root, encoder, progress_bar=False, shard=(1, 2))
    with pytest.raises(DatasetError, match=r"lacks 1 of 2 shards: .*0-of-2"):
        merge_shards(root)
    assert not whole.exists()
    label_dataset(root, encoder, progress_bar=False, shard=(0, 2))
    assert merge_shards(root, compat="sarm").read_bytes() == expected
    assert (root / "sarm_progress.parquet").read_bytes() == compat
    assert not list(root.glob(".feat2go*"))


def test_shards_of_different_settings_do_not_merge(root, encoder):
    label_dataset(root, encoder, progress_bar=False, shard=(0, 2))
    config = LabelConfig(alpha=1.0)
    label_dataset(root, encoder, progress_bar=False, shard=(1, 2), config=config)
    with pytest.raises(DatasetError, match=r"differ in \['config', 'config_hash'\]"):
        merge_shards(root)
    with pytest.raises(DatasetError, match="No shards in"):
        merge_shards(root / "meta")
    with pytest.raises(ValueError, match=r"`shard` in 0 … 1, got 2"):
        label_dataset(root, encoder, progress_bar=False, shard=(2, 2))
    with pytest.raises(ValueError, match=r"no `compat` with `shard`, got 'sarm': .*merge --compat"):
        label_dataset(root, encoder, progress_bar=False, shard=(0, 2), compat="sarm")
    common = LabelConfig(common_stages=True)
    with pytest.raises(ValueError, match="all episodes at once"):
        label_dataset(root, encoder, progress_bar=False, shard=(0, 2), config=common)


def test_a_video_that_ends_early_flags_its_episodes_and_labels_the_others(root, encoder):
    expected = read_labels(label_dataset(root, encoder, progress_bar=False))
    rows = (root / "data/chunk-000/file-000.parquet").read_bytes()
    short = root.parent / "short"
    make_dataset(short, num_episodes=2)
    video = "videos/observation.images.base/chunk-000/file-000.mp4"
    (root / video).write_bytes((short / video).read_bytes())
    path = label_dataset(root, encoder, progress_bar=False, overwrite=True)
    problems = read_problems(path)
    assert list(problems) == [2]
    assert "file-000.mp4" in problems[2]
    labels = read_labels(path)
    np.testing.assert_array_equal(labels[0].progress, expected[0].progress)
    assert np.isnan(labels[2].progress).all()
    assert (root / "data/chunk-000/file-000.parquet").read_bytes() == rows


def test_a_missing_video_is_an_error_and_leaves_old_labels(root, encoder):
    before = label_dataset(root, encoder, progress_bar=False).read_bytes()
    (root / "videos/observation.images.base/chunk-000/file-000.mp4").write_bytes(b"not a video")
    make_failed = LabelConfig(failures="reference")
    with pytest.raises(DatasetError, match=r"No episode of .* can be labelled; .*Cannot decode"):
        label_dataset(root, encoder, progress_bar=False, overwrite=True, config=make_failed)
    assert (root / "feat2go_progress.parquet").read_bytes() == before


def test_holes_and_duplicates_are_named(root, encoder):
    def hole(columns):
        columns["index"][60] = 7

    _edit_rows(root, hole)
    path = label_dataset(root, encoder, progress_bar=False)
    problems = read_problems(path)
    assert list(problems) == [1]
    assert "rows 48 … 95" in problems[1]
    labels = read_labels(path)
    assert np.isnan(labels[1].progress).all()
    assert labels[0].num_stages > 0

    def duplicate(columns):
        columns["episode_index"][1] = 0

    _edit_rows(root, duplicate, "meta/episodes/chunk-000/file-000.parquet")
    with pytest.raises(DatasetError, match="lists episode 0 twice"):
        label_dataset(root, encoder, progress_bar=False, overwrite=True)


@pytest.mark.parametrize("name", ["data_path", "video_path"])
@pytest.mark.parametrize("path", ["../other/{chunk_index}", "/etc/passwd"])
def test_paths_stay_inside_the_root(root, encoder, name, path):
    info = json.loads((root / "meta/info.json").read_text())
    (root / "meta/info.json").write_text(json.dumps({**info, name: path}))
    with pytest.raises(DatasetError, match="a path outside its root"):
        label_dataset(root, encoder, progress_bar=False)


def test_still_and_empty_episodes_are_flagged(root, encoder, tmp_path):
    make_dataset(tmp_path / "one", num_episodes=2, num_stages=1, frames_per_stage=3)

    def shorten(columns):
        columns["length"][0] = 0

    _edit_rows(tmp_path / "one", shorten, "meta/episodes/chunk-000/file-000.parquet")
    path = label_dataset(tmp_path / "one", encoder, progress_bar=False)
    assert read_problems(path) == {0: "Episode 0 has no frames."}
    labels = read_labels(path)
    assert sorted(labels) == [1]
    assert labels[1].progress[-1] == 1.0


def test_a_dataset_that_grows_meanwhile_is_not_labelled(root, encoder):
    class Recorder:
        encoder_id = "recorder"

        def encode(self, frames):
            info = root / "meta/info.json"
            info.write_text(info.read_text() + "\n")
            return encoder.encode(frames)

    with pytest.raises(DatasetError, match="changed while it was labelled"):
        label_dataset(root, Recorder(), progress_bar=False)
    assert not (root / "feat2go_progress.parquet").exists()


def test_features_that_are_not_numbers_flag_the_episode(root, encoder):
    class Broken:
        encoder_id = "broken"
        calls = 0

        def encode(self, frames):
            self.calls += 1
            return encoder.encode(frames) * (torch.nan if self.calls == 2 else 1.0)

    problems = read_problems(label_dataset(root, Broken(), progress_bar=False))
    assert list(problems) == [1]
    assert "finite `features`" in problems[1]


def test_failures_are_measured_against_a_success(root, encoder):
    path = label_dataset(
        root, encoder, progress_bar=False, config=LabelConfig(failures="reference")
    )
    labels = read_labels(path)
    dataset = EpisodeDataset(root)
    features = [encoder.encode(dataset[n]["frames"][None])[0] for n in range(4)]
    references = [make_reference(features[n], labels[n]) for n in range(3)]
    expected = label_failure(features[3], references)
    for actual, value in zip(labels[3], expected, strict=True):
        np.testing.assert_array_equal(actual, value)
    assert labels[3].progress.max() > labels[3].progress.min()
    assert labels[3].num_stages == 0
    table = pq.read_table(path)
    assert json.loads(table.schema.metadata[b"config"])["failures"] == "reference"


def test_a_failure_that_stops_half_way_gets_no_ramp():
    features, _ = make_staged_features(num_stages=4)
    reference = make_reference(features, label_episode(features))
    stopped = torch.cat([features[:40], features[39:40].expand(40, -1, -1)])
    progress = label_failure(stopped, [reference]).progress
    assert progress[-1] < 0.6
    assert label_failure(features, [reference]).progress[-1] > 0.9
    with pytest.raises(ValueError, match="at least one goal"):
        label_failure(features, [])


def test_common_stages_are_equally_many(tmp_path, encoder):
    root = tmp_path / "set"
    make_dataset(root, num_episodes=6, failures=1, num_stages=4, idle_tail=4)
    own = LabelConfig(failures="reference", alpha=1.2)
    path = label_dataset(root, encoder, progress_bar=False, config=own)
    assert len({label.num_stages for label in read_labels(path).values()} - {0}) > 1
    config = replace(own, common_stages=True)
    label_dataset(root, encoder, progress_bar=False, config=config, overwrite=True)
    labels = read_labels(path)
    assert len({labels[n].num_stages for n in range(5)}) == 1
    assert labels[0].num_stages > 1
    for number in range(5):
        assert labels[number].progress[-5:].tolist() == [1.0] * 5
        assert labels[number].stage[-1] == labels[0].num_stages - 1
    assert np.isfinite(labels[5].progress).all()


def test_common_stages_end_where_idle_tails_begin(tmp_path, encoder):
    root = tmp_path / "set"
    make_dataset(root, num_episodes=3, num_stages=3)

    def never_say_when(columns):
        columns["next.success"] = [n % 48 == 47 for n in range(144)]

    _edit_rows(root, never_say_when)
    config = LabelConfig(common_stages=True, trim_idle=True)
    labels = read_labels(label_dataset(root, encoder, progress_bar=False, config=config))
    alone = LabelConfig(trim_idle=True)
    own = read_labels(
        label_dataset(root, encoder, progress_bar=False, config=alone, overwrite=True)
    )
    # The squares rest from the twelfth of the last sixteen frames on.
    for found in (labels, own):
        for label in found.values():
            assert label.progress[44:].tolist() == [1.0] * 4


def test_references_end_at_completion_not_at_the_first_one(encoder):
    features, _ = make_staged_features(num_stages=3)
    labels = label_episode(features, completion=50)
    early = labels._replace(progress=np.where(np.arange(60) > 20, 1.0, 0.5).astype(np.float32))
    reference = make_reference(features, early, completion=50)
    assert torch.equal(reference.features[-1], features[50])
    torch.testing.assert_close(reference.goal, features[48:51].mean(dim=0))
    assert reference.progress[0] == 0.5


def test_cameras_are_averaged(tmp_path, encoder):
    root = tmp_path / "set"
    make_dataset(root, num_episodes=1, cameras=("base", "wrist"))
    config = LabelConfig(denoise=False)
    found = {}
    for camera in ("base", "wrist", ["base", "wrist"]):
        path = label_dataset(
            root, encoder, camera=camera, progress_bar=False, overwrite=True, config=config
        )
        found[str(camera)] = read_labels(path)[0].similarity
        assert pq.read_table(path).schema.metadata[b"camera"].decode() in (
            "base",
            "wrist",
            "base,wrist",
        )
    mean = (found["base"] + found["wrist"]) / 2
    np.testing.assert_allclose(found["['base', 'wrist']"], mean, atol=1e-5)


class _Counting:
    encoder_id = "counting@1"

    def __init__(self):
        self.calls = 0

    def encode(self, frames):
        self.calls += 1
        return frames.float().flatten(2, 3)


def test_the_cache_encodes_once_and_tells_encoders_apart(tmp_path):
    frames = torch.randint(256, (3, 4, 4, 3), dtype=torch.uint8)
    cache, encoder = FeatureCache(tmp_path / "cache"), _Counting()
    first = cache.features(encoder, frames)
    assert torch.equal(cache.features(encoder, frames), first)
    assert encoder.calls == 1
    cache.features(encoder, frames + 1)
    encoder.encoder_id = "counting@2"
    cache.features(encoder, frames)
    assert encoder.calls == 3
    assert len(list((tmp_path / "cache").iterdir())) == 3


@pytest.mark.parametrize("damage", ["half", "foreign", "empty"])
def test_damaged_and_foreign_cache_files_are_replaced_aloud(tmp_path, damage):
    frames = torch.zeros(3, 4, 4, 3, dtype=torch.uint8)
    cache, encoder = FeatureCache(tmp_path), _Counting()
    first = cache.features(encoder, frames)
    path = next(tmp_path.iterdir())
    if damage == "half":
        path.write_bytes(path.read_bytes()[:-10])
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        save_file({"features": first + 1}, path)
    with pytest.warns(UserWarning, match=rf"{path.name} (is truncated|holds other)"):
        again = cache.features(encoder, frames)
    assert torch.equal(again, first)
    assert encoder.calls == 2
    assert torch.equal(cache.features(encoder, frames), first)
    assert encoder.calls == 2
    assert list(tmp_path.iterdir()) == [path]


def test_cached_labels_equal_fresh_ones(root, encoder, tmp_path):
    fresh = label_dataset(root, encoder, progress_bar=False).read_bytes()
    for _ in range(2):
        path = label_dataset(
            root, encoder, progress_bar=False, overwrite=True, cache=tmp_path / "cache"
        )
        assert path.read_bytes() == fresh
    assert len(list((tmp_path / "cache").iterdir())) == 3
    assert len(EpisodeDataset(root)) == 4
