"""One set of stages for all episodes of a task, and progress against a reference episode."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from progress_labels.functional.similarity import patch_similarity

_PAIR_ELEMENTS = 2**24
"""Pairs of patches handled at once."""


def common_stage_count(counts: Sequence[int]) -> int:
    """Return the number of stages that most episodes have; the smaller one of a tie.

    Raises:
        ValueError: If there is no episode or a count is below 1.

    Example:
        >>> common_stage_count([3, 4, 3, 2, 4])
        3
    """
    if not counts or min(counts) < 1:
        raise ValueError(f"Expected `counts` ≥ 1 of at least one episode, got {list(counts)}.")
    return int(np.bincount(counts).argmax())


def aligned_stages(
    scores: Float[np.ndarray, "t n"], *, min_length: int = 1
) -> Int[np.ndarray, " t"]:
    """Cut an episode into n stages whose last frames fit n given subgoals best.

    Maximises Σ_n scores[e_n, n] over e_0 < e_1 < … < e_{n−1} = t − 1 by dynamic programming, in
    O(t n). With subgoals averaged over episodes, one stage gets one number in all of them.

    Args:
        scores: Similarity of each frame to each subgoal.
        min_length: Least frames of a stage; lowered where the episode is too short for it.

    Returns:
        Stage of each frame, 0 … n − 1 (fewer where t < n), int64.

    Raises:
        ValueError: If scores are not finite, there are none, or ``min_length`` < 1.

    Example:
        >>> aligned_stages(np.array([[0.1, 0.0], [0.9, 0.2], [0.4, 0.5], [0.0, 1.0]]))
        array([0, 0, 1, 1])
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 2 or values.size == 0 or not np.isfinite(values).all():
        raise ValueError(f"Expected finite `scores` (t, n), t, n ≥ 1, got shape {values.shape}.")
    if min_length < 1:
        raise ValueError(f"Expected `min_length` ≥ 1, got {min_length}.")
    num_frames = len(values)
    count = min(values.shape[1], num_frames)
    values = values[:, values.shape[1] - count :]
    shortest = min(min_length, num_frames // count)
    best = np.where(np.arange(num_frames) >= shortest - 1, values[:, 0], -np.inf)
    came_from = np.zeros((count, num_frames), dtype=np.int64)
    for n in range(1, count):
        leader = _running_argmax(best)
        came_from[n, shortest:] = leader[:-shortest]
        reached = np.full(num_frames, -np.inf)
        reached[shortest:] = best[leader[:-shortest]]
        best = reached + values[:, n]
    stage = np.zeros(num_frames, dtype=np.int64)
    end = num_frames - 1
    for n in range(count - 1, 0, -1):
        end = int(came_from[n, end])
        stage[end + 1 :] += 1
    return stage


def nearest_goal(
    features: Float[Tensor, "t p d"], goals: Sequence[Float[Tensor, "p d"]], *, beta: float
) -> int:
    """Return which goal comes nearest to any frame of an episode (highest similarity, Eq. 1).

    Raises:
        ValueError: If there are no goals.
    """
    if not goals:
        raise ValueError("Expected at least one goal in `goals`.")
    nearest = [float(patch_similarity(features, goal, beta=beta).max()) for goal in goals]
    return int(np.argmax(nearest))


def reference_progress(
    features: Float[Tensor, "t p d"],
    reference: Float[Tensor, "r p d"],
    progress: Float[np.ndarray, " r"],
    *,
    beta: float,
) -> Float[np.ndarray, " t"]:
    """Return for each frame the progress of the reference frame that it resembles most.

    An episode that failed has no last frame to measure against; a successful one of the same task
    has. A failure that stops half-way then stays half-way, and one that falls back falls back.

    Args:
        features: Patch features of the episode to label.
        reference: Patch features of a successful episode, or of a sample of its frames.
        progress: Progress of the reference frames, in [0, 1].
        beta: As in `patch_similarity`.

    Returns:
        Progress in [0, 1], float32; the lower one of equally similar frames.

    Raises:
        ValueError: If lengths differ or progress is not in [0, 1].
    """
    return _matched(features, reference, progress, beta)[0]


def pooled_progress(
    features: Float[Tensor, "t p d"],
    references: Sequence[tuple[Float[Tensor, "r p d"], Float[np.ndarray, " r"]]],
    *,
    beta: float,
    temperature: float = 0.02,
) -> Float[np.ndarray, " t"]:
    """Return for each frame the mean `reference_progress` of several references.

    P_t = Σ_r w_tr P_tr / Σ_r w_tr,   w_tr = exp((s_tr − max_r s_tr) / temperature)

    with s_tr the similarity of frame t to the frame of reference r that it resembles most. One
    reference alone may happen to look done where another says that it is not.

    Args:
        features: Patch features of the episode to label.
        references: Patch features and progress of successful episodes, or of samples of them.
        beta: As in `patch_similarity`.
        temperature: Similarity by which a reference may be less alike and still count, > 0.

    Returns:
        Progress in [0, 1], float32.

    Raises:
        ValueError: If there is no reference, lengths differ, progress is not in [0, 1], or
            ``temperature`` ≤ 0.
    """
    if not references or not temperature > 0.0:
        raise ValueError(
            "Expected at least one of `references` and `temperature` > 0, got "
            f"{len(references)} and {temperature}."
        )
    found = [_matched(features, *reference, beta) for reference in references]
    progress = np.stack([values for values, _ in found]).astype(np.float64)
    likeness = np.stack([best for _, best in found])
    weight = np.exp((likeness - likeness.max(axis=0)) / temperature)
    pooled: NDArray[np.float32] = (np.sum(weight * progress, 0) / weight.sum(0)).astype(np.float32)
    return pooled


def _matched(
    features: Tensor, reference: Tensor, progress: NDArray[np.float32], beta: float
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Return progress of the most similar reference frame, and how similar it is."""
    if len(progress) != len(reference):
        raise ValueError(
            f"Expected `progress` of {len(reference)} reference frames, got {len(progress)}."
        )
    if not ((progress >= 0.0) & (progress <= 1.0)).all():
        raise ValueError("Expected `progress` in [0, 1].")
    order = np.argsort(progress, kind="stable")
    likeness = _likeness(features, reference[torch.from_numpy(order)], beta)
    best, chosen = likeness.max(dim=1)
    matched = np.asarray(progress, dtype=np.float32)[order][chosen.cpu().numpy()]
    return matched, best.double().cpu().numpy()


def _likeness(features: Tensor, reference: Tensor, beta: float) -> Float[Tensor, "t r"]:
    """Return Eq. 1 of all pairs of frames, patch by patch, in parts of bounded size."""
    other = reference.transpose(0, 1).contiguous()
    unit = F.normalize(other, dim=-1)
    size = max(1, _PAIR_ELEMENTS // (other.shape[0] * other.shape[1]))
    parts: list[Tensor] = []
    for part in torch.split(features, size):
        own = part.transpose(0, 1).contiguous()
        cosine = F.normalize(own, dim=-1) @ unit.mT
        parts.append((cosine * (-beta * torch.cdist(own, other, p=1.0)).exp()).mean(dim=0))
    return torch.cat(parts)


def _running_argmax(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return for each position where the largest value so far stands, the first of a tie."""
    peak = np.maximum.accumulate(values)
    new = np.concatenate([[True], peak[1:] > peak[:-1]])
    return np.maximum.accumulate(np.where(new, np.arange(len(values)), 0))
