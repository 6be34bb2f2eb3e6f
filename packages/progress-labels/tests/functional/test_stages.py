import numpy as np
import pytest

from progress_labels import patch_similarity, trend_stages, window_slopes
from progress_labels.testing import make_staged_features


@pytest.mark.parametrize("window", [2, 5, 9])
def test_slopes_equal_a_least_squares_fit(window):
    curve = np.random.default_rng(0).normal(size=40) + 1e3  # an offset must not cost precision
    expected = [
        np.polyfit(np.arange(window), curve[t : t + window], 1)[0] for t in range(41 - window)
    ]
    np.testing.assert_allclose(window_slopes(curve, window=window), expected, atol=1e-9)


def _staircase(*rises, flat=12, rise=6):
    """A curve that stands still, then rises by each of the given heights."""
    parts, level = [], 0.0
    for height in rises:
        parts += [np.full(flat, level), level + height * np.arange(1, rise + 1) / rise]
        level += height
    return np.concatenate([*parts, np.full(flat, level)])


def test_each_rise_starts_a_stage():
    stage = trend_stages(_staircase(0.3, 0.3, 0.4))
    # Rises start after frames 11, 29 and 47; a boundary is the middle of its first flagged window.
    boundaries = 1 + np.flatnonzero(np.diff(stage))
    assert stage[-1] == 3
    np.testing.assert_allclose(boundaries, [12, 30, 48], atol=2)


def test_a_rise_from_the_first_frame_is_the_first_stage():
    curve = _staircase(0.5, 0.5)[12:]
    assert trend_stages(curve)[-1] == 1


def test_stages_keep_their_minimum_length_counted_from_the_end():
    curve = _staircase(0.3, 0.3, 0.4, flat=8, rise=4)
    lengths = np.bincount(trend_stages(curve, min_length=15))
    assert lengths.min() >= 15
    assert len(lengths) < 4


def test_max_stages_keeps_the_last_boundaries():
    curve = _staircase(0.2, 0.2, 0.2, 0.2, 0.2)
    every, two = trend_stages(curve), trend_stages(curve, max_stages=2)
    assert every[-1] == 5
    assert np.flatnonzero(np.diff(two)).tolist() == np.flatnonzero(np.diff(every))[-1:].tolist()


@pytest.mark.parametrize("curve", [np.zeros(0), np.ones(1), np.arange(11.0), np.full(60, 0.3)])
def test_short_and_flat_curves_are_one_stage(curve):
    stage = trend_stages(curve)
    assert stage.tolist() == [0] * len(curve)


def test_a_jump_at_the_last_frame_is_no_stage():
    curve = np.concatenate([np.full(40, 0.2), [1.0]])
    assert trend_stages(curve).max() == 0


@pytest.mark.parametrize("pause", [0.3, 0.1])
def test_finds_scripted_stages_of_episodes_that_pause(pause):
    found, errors = [], []
    for seed in range(60):
        num_stages = 2 + seed % 4
        features, truth = make_staged_features(num_stages=num_stages, pause=pause, seed=seed)
        beta = 1.0 / features.shape[-1]
        stage = trend_stages(patch_similarity(features, features[-1], beta=beta).numpy())
        found.append(stage[-1] == truth[-1])
        if found[-1]:
            errors.append(np.abs(np.flatnonzero(np.diff(stage)) - np.flatnonzero(np.diff(truth))))
    assert np.mean(found) >= 0.95
    assert np.concatenate(errors).mean() <= 1.5


def test_bad_arguments_are_named():
    curve = np.arange(30.0)
    with pytest.raises(ValueError, match=r"`window` in 2 … 30 .* got 31"):
        window_slopes(curve, window=31)
    with pytest.raises(ValueError, match=r"`window` in 2 … 30 .* got 1"):
        window_slopes(curve, window=1)
    with pytest.raises(ValueError, match="finite `curve`"):
        trend_stages(np.where(curve == 3, np.nan, curve))
    with pytest.raises(ValueError, match=r"`alpha` > 0, got 0"):
        trend_stages(curve, alpha=0.0)
    with pytest.raises(ValueError, match=r"`min_fraction` in \[0, 1\], got 1.5"):
        trend_stages(curve, min_fraction=1.5)
    with pytest.raises(ValueError, match=r"`max_stages` ≥ 1, got 6 and 0"):
        trend_stages(curve, max_stages=0)
