import math

import numpy as np
import pytest
import scipy.signal
import torch

from progress_labels import (
    calibrated_beta,
    denoised_curve,
    mean_around,
    patch_similarity,
    subgoal_similarity,
)
from progress_labels.functional import similarity


def _features(t=7, p=5, d=6, seed=0):
    return torch.randn(t, p, d, generator=torch.Generator().manual_seed(seed))


def _reference(features, goal, beta):
    """Eq. 1 from the definition, patch by patch in float64."""
    rows = []
    for frame in features.double().tolist():
        total = 0.0
        for z, k in zip(frame, goal.double().tolist(), strict=True):
            dot = sum(a * b for a, b in zip(z, k, strict=True))
            norms = math.hypot(*z) * math.hypot(*k)
            distance = sum(abs(a - b) for a, b in zip(z, k, strict=True))
            total += dot / norms * math.exp(-beta * distance)
        rows.append(total / len(frame))
    return torch.tensor(rows, dtype=torch.float32)


@pytest.mark.parametrize("beta", [0.0, 0.1, 2.0])
def test_equals_the_definition(beta):
    features = _features()
    actual = patch_similarity(features, features[3], beta=beta)
    torch.testing.assert_close(actual, _reference(features, features[3], beta))


def test_is_one_at_the_goal_and_symmetric():
    a, b = _features(2)
    assert patch_similarity(a[None], a, beta=0.5).item() == 1.0
    there, back = patch_similarity(a[None], b, beta=0.1), patch_similarity(b[None], a, beta=0.1)
    torch.testing.assert_close(there, back)


def test_falls_with_the_norm_alone_and_with_the_direction_alone():
    goal = _features(1)[0]
    scaled = patch_similarity(torch.stack([goal, 1.1 * goal, 1.5 * goal]), goal, beta=0.1)
    assert scaled[0] > scaled[1] > scaled[2]
    turned = torch.nn.functional.normalize(goal + _features(1, seed=1)[0], dim=-1)
    turned = turned * goal.norm(dim=-1, keepdim=True)
    assert patch_similarity(turned[None], goal, beta=0.0).item() < 0.99


def test_chunks_change_nothing(monkeypatch):
    features = _features(50)
    whole = patch_similarity(features, features[-1], beta=0.2)
    beta = calibrated_beta(features, features[-1])
    monkeypatch.setattr(similarity, "_CHUNK_ELEMENTS", 100)
    torch.testing.assert_close(patch_similarity(features, features[-1], beta=0.2), whole)
    assert calibrated_beta(features, features[-1]) == beta


def test_calibrated_beta_puts_the_median_of_moved_patches_at_one():
    features = _features(40)
    features[:, :3] = features[-1, :3]  # most patches show a static background
    beta = calibrated_beta(features, features[-1])
    distance = (features - features[-1]).abs().sum(-1)
    scaled = beta * distance[distance > 0]
    assert (scaled <= 1.0 + 1e-6).float().mean() == pytest.approx(0.5, abs=0.02)


def test_calibrated_beta_of_constant_features_is_one_over_d():
    assert calibrated_beta(torch.ones(4, 3, 8), torch.ones(3, 8)) == 1 / 8


def test_contrast_subtracts_the_similarity_to_the_start_of_the_stage():
    features, stage = _features(), torch.tensor([0, 0, 0, 1, 1, 1, 2])
    actual = subgoal_similarity(features, stage, beta=0.1, contrast=True)
    expected = [
        patch_similarity(features[a:b], features[b - 1], beta=0.1)
        - patch_similarity(features[a:b], features[a], beta=0.1)
        for a, b in ((0, 3), (3, 6))
    ]
    torch.testing.assert_close(actual[:6], torch.cat(expected))
    assert actual[6] == 1.0  # one frame is both start and subgoal: nothing to subtract


def test_subgoal_similarity_uses_the_last_frame_of_each_stage():
    features, stage = _features(6), torch.tensor([0, 0, 1, 1, 1, 2])
    goals = {0: 1, 1: 4, 2: 5}
    expected = [
        patch_similarity(features[t : t + 1], features[goals[int(n)]], beta=0.1)
        for t, n in enumerate(stage)
    ]
    torch.testing.assert_close(subgoal_similarity(features, stage, beta=0.1), torch.cat(expected))


def test_subgoals_can_be_means_around_them():
    features, stage = _features(6), torch.tensor([0, 0, 1, 1, 1, 2])
    goals = {0: features[0:3].mean(0), 1: features[3:6].mean(0), 2: features[4:6].mean(0)}
    expected = [
        patch_similarity(features[t : t + 1], goals[int(n)], beta=0.1) for t, n in enumerate(stage)
    ]
    actual = subgoal_similarity(features, stage, beta=0.1, radius=1)
    torch.testing.assert_close(actual, torch.cat(expected))


def test_denoised_curve_equals_a_median_filter_but_for_the_goal():
    curve = np.random.default_rng(0).random(40)
    expected = scipy.signal.medfilt(curve, 3)
    expected[0] = curve[0]  # there medfilt pads with zeros
    expected[-1] = expected[:-1].max()
    np.testing.assert_array_equal(denoised_curve(curve), expected)
    assert denoised_curve(np.array([0.3])).tolist() == [0.3]
    assert denoised_curve(np.array([0.3, 1.0])).tolist() == [0.3, 0.3]


def test_bad_arguments_are_named():
    features = _features()
    with pytest.raises(ValueError, match=r"`frame` in 0 … 6 and `radius` ≥ 0, got 7 and 1"):
        mean_around(features, 7, radius=1)
    with pytest.raises(ValueError, match=r"`beta` ≥ 0, got -1"):
        patch_similarity(features, features[0], beta=-1.0)
    with pytest.raises(ValueError, match=r"`beta` ≥ 0, got nan"):
        patch_similarity(features, features[0], beta=math.nan)
    with pytest.raises(ValueError, match=r"\(7, 5, 6\) and \(4, 6\)"):
        patch_similarity(features, features[0, :4], beta=0.1)
    with pytest.raises(ValueError, match=r"non-decreasing `stage`"):
        subgoal_similarity(features, torch.tensor([0, 1, 0, 1, 1, 1, 1]), beta=0.1)
    with pytest.raises(ValueError, match=r"7 entries in `stage`, got \(3,\)"):
        subgoal_similarity(features, torch.tensor([0, 1, 1]), beta=0.1)
