import numpy as np
import pytest

from progress_labels import hierarchical_progress, steps_to_go, time_fraction


def _random_episode(seed):
    rng = np.random.default_rng(seed)
    stage = np.repeat(np.arange(4), rng.integers(2, 9, size=4))
    similarity = rng.uniform(-0.5, 0.9, size=len(stage))
    similarity[np.append(np.flatnonzero(np.diff(stage)), len(stage) - 1)] = 1.0
    return stage, similarity


def _reference(stage, similarity):
    """Eq. 3 frame by frame."""
    count = max(stage) + 1
    values = []
    for n, s in zip(stage, similarity, strict=True):
        own = [x for m, x in zip(stage, similarity, strict=True) if m == n]
        values.append(n / count + (s - min(own)) / (max(own) - min(own)) / count)
    return values


@pytest.mark.parametrize("seed", range(5))
def test_equals_the_definition_and_its_bounds(seed):
    stage, similarity = _random_episode(seed)
    progress = hierarchical_progress(stage, similarity)
    np.testing.assert_allclose(progress, _reference(stage, similarity), atol=1e-6)
    assert progress.dtype == np.float32
    assert progress[-1] == 1.0
    assert 0.0 <= progress.min() <= progress.max() <= 1.0
    for n in range(4):
        within = progress[stage == n]
        assert within[-1] == pytest.approx((n + 1) / 4)
        assert within.min() == pytest.approx(n / 4)


def test_a_stage_without_contrast_is_at_its_end():
    stage, similarity = np.array([0, 0, 1]), np.array([0.7, 0.7, 0.2])
    assert hierarchical_progress(stage, similarity).tolist() == [0.5, 0.5, 1.0]


def test_time_targets():
    assert time_fraction(5).tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert time_fraction(1).tolist() == [1.0]
    assert steps_to_go(4).tolist() == [3, 2, 1, 0]


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="got 2 and 3"):
        hierarchical_progress(np.array([0, 0]), np.zeros(3))
    with pytest.raises(ValueError, match="rise by 0 or 1"):
        hierarchical_progress(np.array([0, 2]), np.zeros(2))
    with pytest.raises(ValueError, match="start at 0"):
        hierarchical_progress(np.array([-1, -1]), np.zeros(2))
    with pytest.raises(ValueError, match="finite `subgoal_similarity`"):
        hierarchical_progress(np.array([0, 0]), np.array([0.0, np.nan]))
    with pytest.raises(ValueError, match="`num_frames` ≥ 1, got 0"):
        time_fraction(0)
    with pytest.raises(ValueError, match="`num_frames` ≥ 1, got -2"):
        steps_to_go(-2)
