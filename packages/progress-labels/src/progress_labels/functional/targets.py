"""Progress targets: hierarchical (Feat2Go, Eq. 3) and purely temporal ones."""

import numpy as np
from jaxtyping import Float, Integer
from numpy.typing import NDArray


def hierarchical_progress(
    stage: Integer[np.ndarray, " t"], subgoal_similarity: Float[np.ndarray, " t"]
) -> Float[np.ndarray, " t"]:
    """Return progress from the stage and the similarity to the stage's own subgoal.

    V_t = (n + S_norm,t) / N   for t in stage n of N

    S_norm is the similarity, min-max normalised within the stage (1 where the stage is constant).

    Args:
        stage: Stage of each frame, 0 … N − 1, non-decreasing without gaps.
        subgoal_similarity: Similarity of each frame to the last frame of its stage.

    Returns:
        Progress in [0, 1], float32: (n + 1)/N at the frame most similar to subgoal n, n/N at the
        least similar one.

    Raises:
        ValueError: If lengths differ, the similarity is not finite or stages are not 0, …, N − 1.

    Example:
        >>> hierarchical_progress(np.array([0, 0, 1, 1]), np.array([0.2, 1.0, 0.5, 1.0]))
        array([0. , 0.5, 0.5, 1. ], dtype=float32)

    Source: Feat2Go, arXiv 2605.30795, Eq. 3.
    """
    if len(stage) == 0 or len(stage) != len(subgoal_similarity):
        raise ValueError(
            "Expected `stage` and `subgoal_similarity` of one length ≥ 1, "
            f"got {len(stage)} and {len(subgoal_similarity)}."
        )
    steps = np.diff(stage)
    if stage[0] != 0 or not np.isin(steps, (0, 1)).all():
        raise ValueError("Expected `stage` to start at 0 and to rise by 0 or 1 per frame.")
    if not np.isfinite(subgoal_similarity).all():
        raise ValueError("Expected a finite `subgoal_similarity`; it holds NaN or infinity.")
    parts = np.split(np.asarray(subgoal_similarity, np.float64), 1 + np.flatnonzero(steps))
    within = np.concatenate([_min_max(part) for part in parts])
    progress: NDArray[np.float32] = ((stage + within) / len(parts)).astype(np.float32)
    return progress


def time_fraction(num_frames: int) -> Float[np.ndarray, " t"]:
    """Return progress that is linear in time: t / (num_frames − 1); 1 for a single frame.

    Raises:
        ValueError: If ``num_frames`` < 1.
    """
    if num_frames < 1:
        raise ValueError(f"Expected `num_frames` ≥ 1, got {num_frames}.")
    return (1.0 - steps_to_go(num_frames) / max(1, num_frames - 1)).astype(np.float32)


def steps_to_go(num_frames: int) -> Integer[np.ndarray, " t"]:
    """Return the number of frames after each frame: num_frames − 1, …, 1, 0.

    Raises:
        ValueError: If ``num_frames`` < 1.
    """
    if num_frames < 1:
        raise ValueError(f"Expected `num_frames` ≥ 1, got {num_frames}.")
    return np.arange(num_frames - 1, -1, -1, dtype=np.int64)


def _min_max(values: NDArray[np.float64]) -> NDArray[np.float64]:
    low, high = values.min(), values.max()
    if high == low:
        return np.ones_like(values)
    scaled: NDArray[np.float64] = (values - low) / (high - low)
    return scaled
