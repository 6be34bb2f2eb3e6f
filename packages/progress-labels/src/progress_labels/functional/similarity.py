"""Similarity of patch features to a goal frame (Feat2Go, Eq. 1)."""

from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor
from torch.nn import functional as F

_CHUNK_ELEMENTS = 2**22
"""Feature values handled at once: bounds the temporaries to tens of megabytes."""


def patch_similarity(
    features: Float[Tensor, "t p d"], goal: Float[Tensor, "p d"], *, beta: float
) -> Float[Tensor, " t"]:
    """Return the similarity of each frame to a goal frame.

    S(Z_t, Z_K) = 1/P Σ_p cos(z_tp, z_Kp) exp(−β ‖z_tp − z_Kp‖₁)

    Args:
        features: Patch features of each frame.
        goal: Patch features of the goal frame.
        beta: Sensitivity to the distance, ≥ 0. The norm is a sum over D features, so β is of order
            1/D; see `calibrated_beta`.

    Returns:
        Values in [−1, 1]; exactly 1 where a frame equals the goal.

    Raises:
        ValueError: If ``beta`` is negative or not finite, or shapes differ.

    Example:
        >>> goal = torch.eye(4)
        >>> patch_similarity(torch.stack([goal, -goal]), goal, beta=0.0)
        tensor([ 1., -1.])

    Source: Feat2Go, arXiv 2605.30795, Eq. 1.
    """
    _check_pair(features, goal)
    if not 0.0 <= beta < float("inf"):
        raise ValueError(f"Expected a finite `beta` ≥ 0, got {beta}.")
    return torch.cat(
        [
            (_cosine(chunk, goal) * (-beta * _l1(chunk, goal)).exp()).mean(dim=-1)
            for chunk in _chunks(features)
        ]
    )


def calibrated_beta(features: Float[Tensor, "t p d"], goal: Float[Tensor, "p d"]) -> float:
    """Return the β for which the median of β‖z_tp − z_Kp‖₁ over an episode is 1.

    Patches that equal the goal's are left out: on a static background they are the majority and
    would push the median to zero. Falls back to 1/D when no patch ever differs.

    Raises:
        ValueError: If shapes differ.
    """
    _check_pair(features, goal)
    distance = torch.cat([_l1(chunk, goal) for chunk in _chunks(features)])
    moved = distance[distance > 0]
    if moved.numel() == 0:
        return 1.0 / features.shape[-1]
    return 1.0 / float(moved.median())


def subgoal_similarity(
    features: Float[Tensor, "t p d"],
    stage: Integer[Tensor, " t"],
    *,
    beta: float,
    radius: int = 0,
    contrast: bool = False,
) -> Float[Tensor, " t"]:
    """Return the similarity of each frame to the last frame of its own stage (K_n = max C_n).

    Args:
        features: Patch features of each frame.
        stage: Stage of each frame, non-decreasing.
        beta: As in `patch_similarity`.
        radius: Subgoals are averaged over this many frames before and after, see `mean_around`.
        contrast: Subtract the similarity to the first frame of the stage.

    Raises:
        ValueError: If ``stage`` decreases or has another length than ``features``.
    """
    if stage.shape != features.shape[:1]:
        raise ValueError(f"Expected {len(features)} entries in `stage`, got {tuple(stage.shape)}.")
    if bool((stage.diff() < 0).any()):
        raise ValueError("Expected a non-decreasing `stage`.")
    edges = [0, *(1 + torch.nonzero(stage.diff()).flatten()).tolist(), len(stage)]
    parts: list[Tensor] = []
    for start, end in pairwise(edges):
        frames = features[start:end]
        goal = mean_around(features, end - 1, radius=radius)
        similarity = patch_similarity(frames, goal, beta=beta)
        if contrast and end - start > 1:
            first = mean_around(features, start, radius=radius)
            similarity = similarity - patch_similarity(frames, first, beta=beta)
        parts.append(similarity)
    return torch.cat(parts)


def mean_around(
    features: Float[Tensor, "t p d"], frame: int, *, radius: int
) -> Float[Tensor, "p d"]:
    """Return features averaged over the frames up to ``radius`` before and after ``frame``.

    As a goal, they carry less of the encoder's noise than those of one frame.

    Raises:
        ValueError: If ``frame`` is outside the episode or ``radius`` is negative.
    """
    if not 0 <= frame < len(features) or radius < 0:
        raise ValueError(
            f"Expected `frame` in 0 … {len(features) - 1} and `radius` ≥ 0, "
            f"got {frame} and {radius}."
        )
    return features[max(0, frame - radius) : frame + radius + 1].mean(dim=0)


def denoised_curve(curve: Float[np.ndarray, " t"]) -> Float[np.ndarray, " t"]:
    """Return medians over three frames of a similarity that ends at its goal frame.

    A frame equals itself whatever the encoder's noise, so the last value towers above the curve by
    an amount that says nothing; it becomes the largest of the others.

    Args:
        curve: Similarity of each frame to the last one (or to a mean around it).

    Example:
        >>> denoised_curve(np.array([0.0, 0.5, 0.1, 0.2, 1.0]))
        array([0. , 0.1, 0.2, 0.2, 0.2])
    """
    smooth = np.asarray(curve, dtype=np.float64).copy()
    if len(smooth) > 2:
        smooth[1:-1] = np.median(np.lib.stride_tricks.sliding_window_view(smooth, 3), axis=-1)
    if len(smooth) > 1:
        smooth[-1] = smooth[:-1].max()
    return smooth


def _cosine(features: Tensor, goal: Tensor) -> Tensor:
    """Return cos(a, b) as 1 − ‖â − b̂‖²/2, which is exactly 1 at a = b, where a·b/‖a‖‖b‖ is not."""
    difference = F.normalize(features, dim=-1) - F.normalize(goal, dim=-1)
    return 1.0 - 0.5 * difference.square().sum(dim=-1)


def _l1(features: Tensor, goal: Tensor) -> Tensor:
    return (features - goal).abs().sum(dim=-1)


def _chunks(features: Tensor) -> tuple[Tensor, ...]:
    return torch.split(features, max(1, _CHUNK_ELEMENTS // max(1, features[0].numel())))


def _check_pair(features: Tensor, goal: Tensor) -> None:
    if features.ndim != 3 or features.shape[1:] != goal.shape or len(features) == 0:
        raise ValueError(
            "Expected `features` (t, p, d) with t ≥ 1 and `goal` (p, d), "
            f"got {tuple(features.shape)} and {tuple(goal.shape)}."
        )
