import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from progress_labels import SCHEMA_VERSION, hierarchical_progress, patch_similarity
from progress_labels.dataset import EpisodeDataset
from progress_labels.encoders import load_encoder
from progress_labels.episodes import LabeledEpisodes
from progress_labels.errors import DatasetError
from progress_labels.labels import LabelConfig, label_dataset, label_episode, read_labels
from progress_labels.testing import make_dataset, make_staged_features


@pytest.fixture(scope="module")
def encoder():
    return load_encoder()


@pytest.fixture
def root(tmp_path):
    make_dataset(tmp_path / "set", num_episodes=3, failures=1, idle_tail=6)
    return tmp_path / "set"


def test_an_episode_composes_the_three_equations():
    features, truth = make_staged_features(num_stages=3)
    labels = label_episode(features, config=LabelConfig(denoise=False))
    assert labels.num_stages == 3
    assert np.abs(labels.stage - truth).mean() < 0.05
    beta = 1.0 / 32
    curve = patch_similarity(features, features[-1], beta=beta).numpy()
    np.testing.assert_allclose(labels.similarity, curve, rtol=1e-6)
    own = np.empty(60, np.float32)
    for n in range(3):
        part = features[labels.stage == n]
        own[labels.stage == n] = patch_similarity(part, part[-1], beta=beta).numpy()
    np.testing.assert_allclose(labels.progress, hierarchical_progress(labels.stage, own))


def test_denoised_labels_order_frames_better_and_do_not_jump_at_the_end():
    """The last frame equals itself; its neighbours equal it up to the encoder's noise."""
    raw, denoised = [], []
    for seed in range(20):
        features, _ = make_staged_features(num_stages=3, noise=0.6, seed=seed)
        raw.append(label_episode(features, config=LabelConfig(denoise=False)).progress)
        denoised.append(label_episode(features).progress)
    assert np.mean([_order(p) for p in denoised]) > np.mean([_order(p) for p in raw]) + 0.01
    assert np.mean([p[-1] - p[-2] for p in denoised]) < 0.5 * np.mean([p[-1] - p[-2] for p in raw])
    assert {p[-1] for p in denoised} == {1.0}


def _order(progress):
    first, second = np.triu_indices(len(progress), 1)
    return (0.5 * (np.sign(progress[second] - progress[first]) + 1.0)).mean()


def test_the_idle_tail_is_complete_and_does_not_move_the_stages():
    features, _ = make_staged_features()
    tail = features[-1:] + 0.01 * torch.randn(
        30, 16, 32, generator=torch.Generator().manual_seed(0)
    )
    labels = label_episode(torch.cat([features, tail]), completion=59)
    alone = label_episode(features)
    np.testing.assert_array_equal(labels.progress[:60], alone.progress)
    np.testing.assert_array_equal(labels.stage[:60], alone.stage)
    assert set(labels.progress[60:].tolist()) == {1.0}
    assert set(labels.stage[60:].tolist()) == {2}
    assert labels.similarity[60:].min() > 0.9


def test_frame_rate_does_not_change_the_stages():
    features, truth = make_staged_features(num_stages=3, frames_per_stage=20)
    slow = features.repeat_interleave(10, dim=0)
    labels = label_episode(slow)
    assert labels.num_stages == 3
    assert np.abs(labels.stage - truth.repeat(10)).mean() < 0.1


@pytest.mark.parametrize("frames_per_stage", [8, 9, 10, 12, 17])
@pytest.mark.parametrize("rule", ["collapsed", "reanchored"])
def test_sampling_keeps_the_most_stages_at_any_length(frames_per_stage, rule):
    """72 frames sampled to 36, as by every second one, have no room for 8 stages of 6."""
    features, truth = make_staged_features(num_stages=8, frames_per_stage=frames_per_stage)
    labels = label_episode(features, config=LabelConfig(rule=rule, max_frames=64))
    assert labels.num_stages == 8
    assert labels.stage[-1] == 7
    assert labels.progress[-1] == 1.0
    found, true = np.flatnonzero(np.diff(labels.stage)), np.flatnonzero(np.diff(truth))
    assert abs(found - true).max() <= np.ceil(len(features) / 64)


def test_one_more_frame_than_sampled_changes_next_to_nothing():
    features, truth = make_staged_features(num_stages=8, frames_per_stage=8)
    longer = label_episode(torch.cat([features[:1], features]))
    assert label_episode(features).num_stages == longer.num_stages == 8
    assert abs(longer.stage[1:] - truth).sum() <= 7  # each boundary within a frame


def test_static_and_single_frame_episodes():
    still = label_episode(torch.ones(9, 4, 8))
    assert still.num_stages == 1
    assert still.progress.tolist() == [1.0] * 9
    assert label_episode(torch.ones(1, 4, 8)).progress.tolist() == [1.0]


def test_bad_episodes_and_settings_are_named():
    features = torch.ones(9, 4, 8)
    with pytest.raises(ValueError, match=r"`completion` in 0 … 8, got 9"):
        label_episode(features, completion=9)
    with pytest.raises(ValueError, match="finite `features`"):
        label_episode(features * torch.nan)
    with pytest.raises(ValueError, match="`window` ≥ 2, got 1"):
        LabelConfig(window=1)
    with pytest.raises(ValueError, match="`max_frames` ≥ 2, got 0"):
        LabelConfig(max_frames=0)
    for lengths in ({"min_length": 0}, {"max_stages": 0}, {"min_fraction": 1.5}):
        with pytest.raises(ValueError, match=r"`min_fraction` in \[0, 1\], got (0|None|\d), "):
            LabelConfig(**lengths)
    with pytest.raises(ValueError, match=r"`beta` ≥ 0, got -1"):
        label_episode(features, config=LabelConfig(beta=-1.0))
    with pytest.raises(ValueError, match=r"`beta` ≥ 0, None or 'calibrated', got 'auto'"):
        LabelConfig(beta="auto")
    assert LabelConfig().hash != LabelConfig(alpha=0.8).hash


def test_the_sidecar_follows_the_contract(root, encoder):
    path = label_dataset(root, encoder, compat="sarm", progress_bar=False)
    assert path == root / "feat2go_progress.parquet"
    table = pq.read_table(path)
    assert table.column_names == [
        *("index", "episode_index", "frame_index", "progress_sparse", "progress_dense"),
        *("progress", "stage", "num_stages", "similarity"),
    ]
    metadata = {k.decode(): v.decode() for k, v in table.schema.metadata.items()}
    assert metadata["schema_version"] == str(SCHEMA_VERSION)
    assert metadata["labeler"] == "feat2go"
    assert metadata["encoder_id"] == encoder.encoder_id
    assert metadata["config_hash"] == LabelConfig().hash
    assert json.loads(metadata["config"])["window"] == 5
    assert metadata["package_version"]
    rows = pq.read_table(root / "data/chunk-000/file-000.parquet")
    for name in ("index", "episode_index", "frame_index"):
        assert table[name].to_pylist() == rows[name].to_pylist()
    for name in ("progress_sparse", "progress_dense"):
        np.testing.assert_array_equal(table[name].to_numpy(), table["progress"].to_numpy())
    copy = root / "sarm_progress.parquet"
    assert copy.read_bytes() == path.read_bytes()


def test_labels_survive_the_file_and_failures_are_unknown(root, encoder):
    labels = read_labels(label_dataset(root, encoder, progress_bar=False))
    assert sorted(labels) == [0, 1, 2]
    dataset = EpisodeDataset(root)
    for number in (0, 1):
        features = encoder.encode(dataset[number]["frames"][None])[0]
        expected = label_episode(features, completion=47)
        for actual, value in zip(labels[number], expected, strict=True):
            np.testing.assert_array_equal(actual, value)
        assert labels[number].progress[47:].tolist() == [1.0] * 7
    failed = labels[2]
    assert np.isnan(failed.progress).all()
    assert np.isnan(failed.similarity).all()
    assert set(failed.stage.tolist()) == {-1}
    assert failed.num_stages == 0


def test_files_are_replaced_only_on_request(root, encoder):
    (root / "sarm_progress.parquet").write_bytes(b"somebody's")
    with pytest.raises(DatasetError, match=r"sarm_progress.parquet exists; pass --overwrite"):
        label_dataset(root, encoder, compat="sarm", progress_bar=False)
    assert not (root / "feat2go_progress.parquet").exists()
    label_dataset(root, encoder, progress_bar=False)
    with pytest.raises(DatasetError, match=r"feat2go_progress.parquet exists"):
        label_dataset(root, encoder, progress_bar=False)
    label_dataset(root, encoder, progress_bar=False, overwrite=True, compat="sarm")
    assert (root / "sarm_progress.parquet").stat().st_size > 100
    assert not list(root.glob("*.tmp"))


def test_foreign_and_damaged_label_files_are_refused(root, encoder):
    path = label_dataset(root, encoder, progress_bar=False)
    table = pq.read_table(path)
    with pytest.raises(DatasetError, match="No label file"):
        read_labels(root / "other.parquet")
    pq.write_table(table.replace_schema_metadata({"schema_version": "99"}), path)
    with pytest.raises(DatasetError, match=f"version 99, this reader needs {SCHEMA_VERSION}"):
        read_labels(path)
    pq.write_table(table.drop_columns(["stage"]), path)
    with pytest.raises(DatasetError, match="no column 'stage'"):
        read_labels(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DatasetError, match=r"Cannot read .* truncated or damaged"):
        read_labels(path)


def test_labeled_episodes_join_frames_and_labels(root, encoder):
    path = label_dataset(root, encoder, progress_bar=False)
    episodes = LabeledEpisodes(root, camera="base")
    labels = read_labels(path)
    assert len(episodes) == 3
    for number, episode in enumerate(episodes):
        assert episode["observation.images.base"].shape == (54, 64, 64, 3)
        assert episode["observation.images.base"].dtype == torch.uint8
        assert episode["episode_index"] == number
        assert episode["task"] == "move the square around"
        assert episode["success"] == (number < 2)
        np.testing.assert_array_equal(episode["progress"].numpy(), labels[number].progress)
        assert episode["progress"].dtype == torch.float32
        assert episode["stage"].tolist() == labels[number].stage.tolist()


def test_an_episode_without_frames_is_left_out_of_the_labelled_ones(root, encoder):
    meta = root / "meta/episodes/chunk-000/file-000.parquet"
    table = pq.read_table(meta)
    column = table.column_names.index("length")
    pq.write_table(table.set_column(column, "length", pa.array([54, 0, 54])), meta)
    labels = read_labels(label_dataset(root, encoder, progress_bar=False))
    episodes = LabeledEpisodes(root)
    assert len(episodes) == 2
    assert [episode["episode_index"] for episode in episodes] == [0, 2]
    assert episodes[-1]["episode_index"] == 2
    np.testing.assert_array_equal(episodes[0]["progress"].numpy(), labels[0].progress)
    with pytest.raises(IndexError):
        episodes[2]


def test_labels_of_another_dataset_are_refused(root, encoder, tmp_path):
    path = label_dataset(root, encoder, progress_bar=False)
    make_dataset(tmp_path / "longer", num_episodes=3)
    with pytest.raises(DatasetError, match="episode 0 has 48 frames, labels: 54"):
        LabeledEpisodes(tmp_path / "longer", path)
    make_dataset(tmp_path / "more", num_episodes=4, idle_tail=6)
    with pytest.raises(DatasetError, match="episode 3 has 54 frames, labels: none"):
        LabeledEpisodes(tmp_path / "more", path)
