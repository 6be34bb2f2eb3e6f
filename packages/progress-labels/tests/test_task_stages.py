import numpy as np
import pytest
import torch

from progress_labels.episode_labels import LabelConfig, active_end, label_episode
from progress_labels.task_stages import task_stages
from progress_labels.testing import make_staged_features


def _episodes(count=5, *, pause=0.15, slower=1):
    """Episodes of one scene, each at another pace."""
    made = [
        make_staged_features(frames_per_stage=slower * (18 + 2 * n), pause=pause, seed=0)
        for n in range(count)
    ]
    return [features for features, _ in made], [truth for _, truth in made]


def _stages(features, config=None, **more):
    ends = {n: len(f) - 1 for n, f in enumerate(features)}
    return task_stages(lambda n: features[n], {**ends, **more}, config=config or LabelConfig())


def test_stages_end_in_the_pauses_of_the_scene():
    features, truths = _episodes()
    stages = _stages(features)
    for number, truth in enumerate(truths):
        found, true = np.flatnonzero(np.diff(stages[number])), np.flatnonzero(np.diff(truth))
        assert len(found) == len(true)
        early = (true - found) / (true[0] + 1)
        assert (early >= 0).all()
        assert (early < 0.25).all()  # 15 % of a stage is pause, and moves settle before it


def test_long_episodes_are_thinned_and_their_stages_spread_over_all_frames():
    features, truths = _episodes(slower=8)
    stages = _stages(features, LabelConfig(max_frames=36))
    for number, truth in enumerate(truths):
        found, true = np.flatnonzero(np.diff(stages[number])), np.flatnonzero(np.diff(truth))
        assert len(stages[number]) == len(truth)
        assert len(found) == len(true)
        assert (abs(true - found) / (true[0] + 1) < 0.25).all()


def _brief_rests(frames, at):
    """A scene that slows to 0.3 of its speed, for about a fiftieth of the episode each time."""
    time = np.linspace(0.0, 1.0, 10 * frames)
    speed = 1.0 - 0.7 * sum(np.exp(-(((time - share) / 0.012) ** 2)) for share in at)
    x = np.cumsum(speed)[::10] / len(time)
    path = np.stack([x, x**2, np.sin(4.0 * x)], axis=1)
    return torch.from_numpy(path[:, None].astype(np.float32))


@pytest.mark.parametrize("frames", [126, 129, 160, 190, 255])
@pytest.mark.parametrize("at", [(0.3, 0.7), (0.3, 0.36, 0.7)])
def test_brief_rests_are_found_at_any_frame_rate_and_no_others(frames, at):
    stages = _stages([_brief_rests(frames + n, at) for n in range(3)])
    for number, stage in stages.items():
        ends = np.flatnonzero(np.diff(stage)) / (frames + number)
        np.testing.assert_allclose(ends, at, atol=0.012)


@pytest.mark.parametrize("config", [{"min_length": 16}, {"min_fraction": 0.25}])
def test_common_stages_have_the_least_length_that_is_set(config):
    features, _ = _episodes(slower=4)
    assert min(np.bincount(_stages(features)[0])) < 0.1 * len(features[0])  # a pause is a stage
    stages = _stages(features, LabelConfig(**config))
    for stage in stages.values():
        assert stage[-1] == 2
        assert min(np.bincount(stage)) > 0.24 * len(stage)  # 16 of 64 frames, less one of 128


def test_episodes_that_cannot_be_read_are_left_out():
    features, _ = _episodes()
    ends = {n: len(f) - 1 for n, f in enumerate(features)}
    readable = task_stages(lambda n: None if n == 2 else features[n], ends, config=LabelConfig())
    assert sorted(readable) == [0, 1, 3, 4]
    assert task_stages(lambda _: None, ends, config=LabelConfig()) == {}


def test_without_rests_the_most_frequent_number_of_the_trend_rule_counts():
    features = [make_staged_features(pause=0.3, seed=n)[0] for n in range(3)]
    config = LabelConfig(min_rest=50.0)  # nothing rests that deep
    odd = make_staged_features(num_stages=2, pause=0.3, seed=0)[0]
    stages = _stages([*features, odd], config)
    own = [int(label_episode(f).num_stages) for f in (*features, odd)]
    assert own == [3, 3, 3, 2]
    assert {int(stage[-1]) + 1 for stage in stages.values()} == {3}
    np.testing.assert_array_equal(stages[0], label_episode(features[0]).stage)


def test_idle_tails_are_no_part_of_the_stages():
    features, _ = _episodes()
    generator = torch.Generator().manual_seed(0)
    waiting = [
        torch.cat([f, f[-1:] + 0.01 * torch.randn(25, *f.shape[1:], generator=generator)])
        for f in features
    ]
    config = LabelConfig(trim_idle=True)
    stages = _stages(waiting, config)
    for number, stage in stages.items():
        end = active_end(waiting[number], config=config)
        assert len(stage) == end + 1 < len(features[number]) + 3


def test_settings_are_checked():
    with pytest.raises(ValueError, match=r"`min_rest` > 0, got 0\.7 and 0"):
        LabelConfig(min_rest=0)
