from itertools import combinations

import numpy as np
import pytest
import torch

from progress_labels import (
    aligned_stages,
    common_stage_count,
    nearest_goal,
    patch_similarity,
    pooled_progress,
    reference_progress,
    time_fraction,
)
from progress_labels.testing import make_staged_features


def _best_by_search(scores, min_length):
    frames, count = scores.shape
    found = []
    for ends in combinations(range(frames - 1), count - 1):
        edges = [-1, *ends, frames - 1]
        if min(np.diff(edges)) >= min_length:
            found.append((sum(scores[e, n] for n, e in enumerate(edges[1:])), edges))
    return max(found)[1][1:-1]


@pytest.mark.parametrize("min_length", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_alignment_is_the_best_of_all_cuts(count, min_length):
    for seed in range(5):
        scores = np.random.default_rng(seed).normal(size=(11, count))
        stage = aligned_stages(scores, min_length=min_length)
        assert np.flatnonzero(np.diff(stage)).tolist() == _best_by_search(scores, min_length)


def test_more_stages_than_frames_gives_what_fits():
    assert aligned_stages(np.zeros((2, 5))).tolist() == [0, 1]
    assert aligned_stages(np.zeros((5, 2)), min_length=9).tolist().count(0) in (2, 3)


def test_the_common_count_is_the_most_frequent():
    assert common_stage_count([2, 3, 3, 8]) == 3
    assert common_stage_count([2, 3]) == 2
    with pytest.raises(ValueError, match=r"`counts` ≥ 1"):
        common_stage_count([0, 1])


def test_a_half_finished_episode_stays_half_way():
    features, _ = make_staged_features(num_stages=4, noise=0.05)
    truth = time_fraction(80)
    half = features[:40].repeat_interleave(2, dim=0)  # at half speed, and it never goes on
    noisy = half + 0.05 * torch.randn(half.shape, generator=torch.Generator().manual_seed(0))
    progress = reference_progress(noisy, features, truth, beta=1 / 32)
    assert progress.shape == (80,)
    assert 0.4 < progress[-1] < 0.6
    np.testing.assert_allclose(progress, np.repeat(truth[:40], 2), atol=0.1)
    back = reference_progress(features.flip(0), features, truth, beta=1 / 32)
    assert back[-1] == 0.0


def _reference_pool(features, references, beta, temperature):
    """The definition, frame by frame and reference by reference."""
    pooled = []
    for frame in features:
        likeness = [
            np.array([float(patch_similarity(f[None], frame, beta=beta)) for f in seen])
            for seen, _ in references
        ]
        best = np.array([values.max() for values in likeness])
        matched = np.array([p[v.argmax()] for v, (_, p) in zip(likeness, references, strict=True)])
        weight = np.exp((best - best.max()) / temperature)
        pooled.append((weight * matched).sum() / weight.sum())
    return np.array(pooled)


@pytest.mark.parametrize("temperature", [0.005, 0.02, 1.0])
def test_pooled_progress_is_its_definition(temperature):
    scenes = [make_staged_features(seed=0, noise=0.3 + 0.1 * n)[0] for n in range(3)]
    references = [(scenes[0], time_fraction(60)), (scenes[1][::2], time_fraction(30) ** 2)]
    actual = pooled_progress(scenes[2], references, beta=1 / 32, temperature=temperature)
    expected = _reference_pool(scenes[2], references, 1 / 32, temperature)
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, expected, atol=1e-4)


def test_a_pool_of_one_is_that_reference_and_a_distant_one_does_not_count():
    features, _ = make_staged_features(noise=0.05)
    other, _ = make_staged_features(seed=5)
    ramp = time_fraction(60)
    alone = reference_progress(features[5:40], features, ramp, beta=1 / 32)
    one = pooled_progress(features[5:40], [(features, ramp)], beta=1 / 32)
    np.testing.assert_allclose(one, alone, rtol=1e-6)
    two = pooled_progress(features[5:40], [(features, ramp), (other, 0 * ramp)], beta=1 / 32)
    np.testing.assert_allclose(two, alone, atol=1e-3)


def test_the_nearest_goal_is_that_of_the_same_scene():
    scenes = [make_staged_features(seed=seed)[0] for seed in range(3)]
    goals = [features[-1] for features in scenes]
    for number, features in enumerate(scenes):
        assert nearest_goal(features[:50], goals, beta=1 / 32) == number
        value = patch_similarity(features[:50], goals[number], beta=1 / 32).max()
        assert value > patch_similarity(features[:50], goals[number - 1], beta=1 / 32).max()


def test_bad_arguments_are_named():
    features = torch.ones(4, 2, 3)
    with pytest.raises(ValueError, match="at least one goal"):
        nearest_goal(features, [], beta=1.0)
    with pytest.raises(ValueError, match="of 4 reference frames, got 3"):
        reference_progress(features, features, np.zeros(3), beta=1.0)
    with pytest.raises(ValueError, match=r"`progress` in \[0, 1\]"):
        reference_progress(features, features, np.full(4, np.nan), beta=1.0)
    with pytest.raises(ValueError, match=r"at least one of `references`.* got 0 and 0\.02"):
        pooled_progress(features, [], beta=1.0)
    with pytest.raises(ValueError, match=r"`temperature` > 0, got 1 and 0"):
        pooled_progress(features, [(features, np.ones(4))], beta=1.0, temperature=0)
    with pytest.raises(ValueError, match="finite `scores`"):
        aligned_stages(np.full((3, 2), np.nan))
    with pytest.raises(ValueError, match="`min_length` ≥ 1, got 0"):
        aligned_stages(np.zeros((3, 2)), min_length=0)
