import numpy as np
import pytest
import torch

from value_models.data import ProgressDataModule
from value_models.testing import PixelEncoder, make_episodes
from value_models.windows import EpochShuffle


def _data(num=10, num_failures=2, **changes):
    options = {
        "episodes": make_episodes(num, num_failures=num_failures),
        "encoder": PixelEncoder(),
        "camera": "hand",
        "batch_size": 32,
        "progress_bar": False,
    }
    return ProgressDataModule(**{**options, **changes})


def test_split_is_a_partition_by_episode():
    data = _data()
    data.setup()
    train, val, rest = (
        {e.episode_index for e in part}
        for part in (data.train_episodes, data.val_episodes, data.unlabelled_episodes)
    )
    assert len(val) == 2
    assert train | val == set(range(10))
    assert not train & val
    assert rest == {10, 11}


def test_split_follows_the_seed():
    def held_out(seed):
        data = _data(seed=seed)
        data.setup()
        return [e.episode_index for e in data.val_episodes]

    assert held_out(1) == held_out(1)
    assert len({tuple(held_out(seed)) for seed in range(5)}) > 1


def test_one_epoch_visits_every_labelled_training_frame_once():
    episodes = [dict(e) for e in make_episodes(10)]
    for episode in episodes:
        episode["progress"] = episode["progress"].copy()
        episode["progress"][3:6] = np.nan
    data = _data(episodes=episodes)
    data.setup()
    batches = list(data.train_dataloader())
    seen = torch.cat([batch["progress"][:, 0] for batch in batches])
    expected = torch.cat([e.progress[e.progress.isfinite()] for e in data.train_episodes])
    assert torch.equal(seen.sort().values, expected.sort().values)
    assert {len(batch["progress"]) for batch in batches[:-1]} == {32}


def test_single_frames_bring_their_state():
    episodes = [dict(e) for e in make_episodes(4)]
    for episode in episodes:
        episode["observation.state"] = np.repeat(episode["progress"][:, None], 3, axis=1)
    data = _data(episodes=episodes)
    data.setup()
    batch = next(iter(data.train_dataloader()))
    assert batch["observation.state"].shape == (32, 1, 3)
    assert torch.equal(batch["observation.state"][..., 0], batch["progress"])


def test_batches_hold_matching_frames():
    data = _data()
    data.setup()
    batch = next(iter(data.train_dataloader()))
    features, progress = batch["observation.features.hand"], batch["progress"]
    assert features.shape == (32, 1, 16, 24)
    assert features.dtype == torch.float16
    assert len(batch["task"]) == 32
    pool = torch.cat([e.features for e in data.train_episodes]).flatten(1)
    labels = torch.cat([e.progress for e in data.train_episodes])
    for row, label in zip(features.flatten(1), progress[:, 0], strict=True):
        assert label in labels[(pool == row).all(1)]


def test_episode_loaders():
    data = _data()
    data.setup()
    for batch, episode in zip(data.val_dataloader(), data.val_episodes, strict=True):
        assert batch["progress"].shape == (1, len(episode.progress))
        assert torch.equal(batch["observation.features.hand"][0], episode.features)
    indices = [int(batch["episode_index"]) for batch in data.predict_dataloader()]
    assert indices == list(range(12))


def test_prediction_needs_no_labels():
    data = _data(num=0)
    data.setup("predict")
    assert len(data.predict_dataloader()) == 2
    assert (data.num_patches, data.feature_dim) == (16, 24)


def test_shuffle_depends_on_seed_and_epoch_only():
    first, second = EpochShuffle(50, seed=3), EpochShuffle(50, seed=3)
    first.set_epoch(4)
    second.set_epoch(4)
    torch.rand(7)
    assert list(first) == list(second)
    second.set_epoch(5)
    assert list(first) != list(second)
    assert sorted(second) == list(range(50))


@pytest.mark.parametrize(("num", "num_failures"), [(1, 2), (0, 3)])
def test_too_few_labels(num, num_failures):
    data = _data(num=num, num_failures=num_failures)
    with pytest.raises(ValueError, match=f"at least 2 episodes.*got {num} of 3"):
        data.setup()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"val_fraction": 1.0}, ValueError, r"`val_fraction` in \(0, 1\), got 1.0"),
        ({"val_fraction": 0.0}, ValueError, r"`val_fraction` in \(0, 1\), got 0.0"),
        ({"batch_size": 0}, ValueError, "`batch_size` of at least 1, got 0"),
        ({"encoder": "offline"}, TypeError, "`encoder`.*got str 'offline'"),
        ({"episodes": {"class_path": "a.B"}}, TypeError, "`episodes`.*got dict"),
    ],
)
def test_bad_arguments_are_named(change, error, message):
    with pytest.raises(error, match=message):
        _data(**change)


def test_no_episodes():
    with pytest.raises(ValueError, match="at least one episode in `episodes`"):
        _data(num=0, num_failures=0).setup()
