import pytest
import torch

from value_models.data import ProgressDataModule
from value_models.features import encode_episodes
from value_models.primitives import primitive_index
from value_models.synthetic import FeatureWorld
from value_models.testing import PixelEncoder, make_episodes
from value_models.windows import BalancedShuffle, WindowDataset, WindowSpec

KEY = "observation.features.hand"


def _dataset(num=6, num_failures=0, **changes):
    spec = WindowSpec(**{"num_frames": 4, "stride": 3, **changes})
    episodes = FeatureWorld(noise=0.0).episodes(num, num_failures=num_failures)
    return WindowDataset(episodes, spec, camera="hand"), episodes


def _rows(dataset):
    return dataset.__getitems__(list(range(len(dataset))))


def test_every_frame_ends_one_window_of_its_own_episode():
    dataset, episodes = _dataset()
    batch = _rows(dataset)
    frame = torch.cat([torch.arange(len(e.progress)) for e in episodes])
    assert torch.equal(batch["frame_index"][:, -1], frame)
    assert (batch["frame_index"][:, 0] == 0).all()
    starts = [row for e in episodes for row in [e] * len(e.progress)]
    for row in range(0, len(dataset), 7):
        episode, window = starts[row], batch["frame_index"][row]
        assert torch.equal(batch[KEY][row], episode.features[window])
        torch.testing.assert_close(batch["progress"][row], episode.progress[window])
        assert torch.equal(batch["primitive"][row], episode.signals["primitive"][window])
        assert batch["task"][row] == episode.task


def test_rewound_windows_carry_rewound_labels_and_masked_padding():
    dataset, _ = _dataset(max_rewind=3, rewind_probability=0.7)
    batch = _rows(dataset)
    window, length, progress = batch["frame_index"], batch["length"], batch["progress"]
    assert window.shape[1] == 1 + 4 + 3
    assert set(length.tolist()) == {5, 6, 7, 8}
    assert 0.6 < (length > 5).float().mean() < 0.75
    real = torch.arange(8) < length[:, None]
    assert torch.equal(progress.isfinite(), real)
    assert ((batch["stage"] >= 0) == real).all()
    rewound = length == 8
    assert (progress[rewound].diff(dim=1)[:, 4:] < 0).all()


def test_stalled_windows_are_those_of_an_episode_that_stands_still():
    dataset, episodes = _dataset(stall_probability=1.0)
    batch = _rows(dataset)
    frame = torch.cat([torch.arange(len(e.progress)) for e in episodes])
    pauses = []
    for newest, window in zip(frame.tolist(), batch["frame_index"][:, 1:].tolist(), strict=True):
        found = []
        for pause in range(1, 11):
            played = [*range(newest + 1), *[newest] * pause]
            now = len(played) - 1
            back = [now - min(now, 9) * (3 - i) // 3 for i in range(4)]
            if [played[place] for place in back] == window:
                found.append(pause)
        assert found, (newest, window)
        pauses.append(found)
    assert {1, 10} <= {pause for found in pauses for pause in found}
    still = batch["frame_index"][:, -2] == batch["frame_index"][:, -1]
    assert torch.equal(batch["progress"][still][:, -2], batch["progress"][still][:, -1])
    some = _rows(_dataset(stall_probability=0.3)[0])["frame_index"]
    moved = (some != _rows(_dataset()[0])["frame_index"]).any(1)
    assert 0.2 < moved.float().mean() < 0.4


def test_mismatched_instructions_have_no_progress():
    dataset, episodes = _dataset(mismatch_probability=0.5)
    batch = _rows(dataset)
    true = [e.task for e in episodes for _ in e.progress]
    wrong = torch.tensor([a != b for a, b in zip(batch["task"], true, strict=True)])
    assert 0.4 < wrong.float().mean() < 0.6
    assert (batch["progress"][wrong] == 0).all()
    assert (batch["progress"][~wrong][:, -1] > 0).any()
    assert not batch["success"][wrong].any()
    assert not batch["stage"][wrong].any()
    assert not batch["tau"][wrong].any()
    assert batch["stage"][~wrong].any()
    assert torch.equal(batch["demonstrates"], ~wrong)


def test_one_task_is_never_mismatched():
    episodes = FeatureWorld().episodes(3, tasks=["push the button"])
    spec = WindowSpec(num_frames=2, stride=2, mismatch_probability=1.0)
    batch = _rows(WindowDataset(episodes, spec, camera="hand"))
    assert set(batch["task"]) == {"push the button"}
    assert batch["progress"].max() == 1.0


def test_done_frames_are_the_end_of_successes():
    dataset, episodes = _dataset(num=3, num_failures=2)
    batch = _rows(dataset)
    done = batch["success"][:, -1]
    failed = torch.cat([torch.full((len(e.progress),), not e.success) for e in episodes])
    assert not done[failed].any()
    labels = torch.cat([e.progress for e in episodes])
    assert torch.equal(done[~failed] > 0, labels[~failed] >= 0.95)
    assert torch.equal(batch["demonstrates"], ~failed)


def test_whether_an_unlabelled_frame_of_a_success_is_done_is_not_known():
    episodes = FeatureWorld().episodes(2)
    label = episodes[0].progress.clone()
    label[3:6] = torch.nan
    episodes[0] = episodes[0]._replace(progress=label)
    dataset = WindowDataset(episodes, WindowSpec(num_frames=1, stride=1), camera="hand")
    done = _rows(dataset)["success"][:, -1]
    assert done.isnan().nonzero().flatten().tolist() == [3, 4, 5]


def test_balanced_draws_see_all_groups_alike():
    groups = [0] * 900 + [1] * 90 + [2] * 10
    sampler = BalancedShuffle(groups, seed=1)
    sampler.num_samples = 1000
    counts = torch.zeros(3)
    for epoch in range(6):
        sampler.set_epoch(epoch)
        counts += torch.bincount(torch.tensor(groups)[list(sampler)], minlength=3)
    torch.testing.assert_close(counts / counts.sum(), torch.full((3,), 1 / 3), atol=0.03, rtol=0.0)
    again = BalancedShuffle(groups, seed=1)
    again.set_epoch(5)
    assert list(again) == list(sampler)


def test_augmentation_depends_on_seed_epoch_and_rows_alone():
    first, _ = _dataset(max_rewind=2)
    second, _ = _dataset(max_rewind=2)
    rows = list(range(50))
    torch.rand(3)
    assert torch.equal(first.__getitems__(rows)["length"], second.__getitems__(rows)["length"])
    second.sampler.set_epoch(1)
    assert not torch.equal(first.__getitems__(rows)["length"], second.__getitems__(rows)["length"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_frames": 0}, "`num_frames` of at least 1, got 0"),
        ({"stride": 0}, "`stride` of at least 1, got 0"),
        ({"max_rewind": 4}, r"`max_rewind` in \[0, 3\], got 4"),
        ({"rewind_probability": 1.5}, r"`rewind_probability` in \[0, 1\], got 1.5"),
        ({"stall_probability": 2.0}, r"`stall_probability` in \[0, 1\], got 2.0"),
        ({"mismatch_probability": -0.1}, r"`mismatch_probability` in \[0, 1\], got -0.1"),
        ({"num_frames": 30, "stride": 9}, r"at most \d+ frames, the longest episode, got 262"),
    ],
)
def test_bad_windows_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        _dataset(**change)


def _changed(**changes):
    episodes = [dict(episode) for episode in make_episodes(3)]
    for episode in episodes:
        num = len(episode["progress"])
        for key, value in changes.items():
            episode[key] = value(num) if callable(value) else value
    return encode_episodes(episodes, PixelEncoder(), camera="hand", progress_bar=False)


def test_signals_are_read_by_name():
    encoded = _changed(
        **{"observation.state": lambda n: torch.zeros(n, 3)},
        primitive=lambda n: ["place"] * n,
        stage=lambda n: torch.arange(n) // 10,
    )
    signals = encoded[0].signals
    assert signals["primitive"][0] == primitive_index("place")
    assert signals["observation.state"].shape == (len(encoded[0].progress), 3)
    assert signals["tau"][0] == 0
    assert signals["tau"][9] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "  "}, "instruction in `task` of episode 0, got '  '"),
        ({"primitive": lambda n: ["juggle"] * n}, "Unknown primitive 'juggle'; choose one of"),
        ({"primitive": lambda n: [22] * n}, r"`primitive` in \[-1, 21\], got 22"),
        ({"stage": lambda n: [0] * (n - 1)}, r"rows in 'stage' of episode 0, one per frame"),
        ({"observation.state": lambda n: torch.full((n, 2), torch.nan)}, "state' of episode 0 is"),
        (
            {"observation.images.hand": lambda n: torch.zeros(n, 8, 8, 3, dtype=torch.uint8)},
            r"Features of all \d+ frames of 3 episodes are equal",
        ),
    ],
)
def test_bad_episodes_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        _changed(**change)


def test_several_cameras_are_encoded_and_served():
    episodes = [dict(e) for e in make_episodes(4)]
    for episode in episodes:
        episode["observation.images.top"] = 255 - episode["observation.images.hand"]
    data = ProgressDataModule(
        episodes=episodes,
        encoder=PixelEncoder(),
        camera="hand",
        more_cameras=["top"],
        windows=WindowSpec(num_frames=3, stride=2),
        progress_bar=False,
    )
    data.setup()
    batch = next(iter(data.train_dataloader()))
    assert batch["observation.features.top"].shape == batch[KEY].shape
    assert not torch.equal(batch["observation.features.top"], batch[KEY])
    assert "observation.features.top" in next(iter(data.val_dataloader()))


def test_half_of_the_failures_are_trained_on_when_asked():
    data = ProgressDataModule(
        episodes=make_episodes(4, num_failures=4),
        encoder=PixelEncoder(),
        camera="hand",
        windows=WindowSpec(num_frames=2, stride=2, include_failures=True),
        progress_bar=False,
    )
    data.setup()
    assert (len(data.train_failures), len(data.unlabelled_episodes)) == (2, 2)
    failures = sum(len(e.progress) for e in data.train_failures)
    labelled = sum(len(e.progress) for e in data.train_episodes)
    assert len(data.train_dataloader().dataset) == failures + labelled
