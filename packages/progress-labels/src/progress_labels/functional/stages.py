"""Stages of an episode from the trend of its similarity curve (Feat2Go, Eq. 2)."""

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

_FLAT = 1e-9
"""A curve that spans less than this has no trend, only rounding."""


def window_slopes(
    curve: Float[np.ndarray, " t"], *, window: int
) -> Float[np.ndarray, " t-{window}+1"]:
    """Return the least-squares slope of each window, from running sums in O(t).

    w_t = Σ_τ (τ − mean τ)(y_{t+τ} − mean y) / Σ_τ (τ − mean τ)²,   τ = 0 … window − 1

    Args:
        curve: One value per frame.
        window: Frames per window, 2 … t.

    Returns:
        Slope per frame of the window that starts at each frame, float64.

    Raises:
        ValueError: If ``window`` is outside 2 … t or the curve is not finite.

    Example:
        >>> window_slopes(np.array([0.0, 1.0, 2.0, 2.0]), window=3)
        array([1. , 0.5])

    Source: Feat2Go, arXiv 2605.30795, Eq. 2.
    """
    y = np.asarray(curve, dtype=np.float64)
    if not np.isfinite(y).all():
        raise ValueError("Expected a finite `curve`; it holds NaN or infinity.")
    if not 2 <= window <= len(y):
        raise ValueError(f"Expected `window` in 2 … {len(y)} (the curve's length), got {window}.")
    y = y - y.mean()  # keeps the running sums small, so that little is lost by subtracting them
    time = np.arange(len(y), dtype=np.float64)
    sum_y = _running_sum(y, window)
    sum_ty = _running_sum(time * y, window) - time[: len(sum_y)] * sum_y
    centred = sum_ty - 0.5 * (window - 1) * sum_y
    slopes: NDArray[np.float64] = centred * 12.0 / (window * (window**2 - 1.0))
    return slopes


def trend_stages(
    curve: Float[np.ndarray, " t"],
    *,
    window: int = 5,
    alpha: float = 0.7,
    min_length: int = 6,
    min_fraction: float = 0.05,
    max_stages: int = 8,
) -> Int[np.ndarray, " t"]:
    """Cut an episode where the similarity to its last frame starts to rise.

    A frame is flagged when the slope of the window that starts there exceeds ``alpha`` times the
    mean slope (max y − min y)/(t − 1). Each run of flagged frames is one rise, and one boundary, at
    the middle of its first window; a rise from frame 0 is the first stage, not a boundary. Windows
    that hold the last frame are left out, because S(Z_K, Z_K) = 1 lifts them whatever happened
    before. Boundaries are taken from the end backwards while every stage keeps its minimum length.

    Args:
        curve: Similarity to the last frame.
        window: Frames per window.
        alpha: Threshold in mean slopes, > 0.
        min_length: Least frames of a stage.
        min_fraction: Least share of the episode of a stage, in [0, 1].
        max_stages: Most stages.

    Returns:
        Stage of each frame, 0 … N − 1, non-decreasing without gaps, int64. All zero when no
        boundary is found and for episodes too short for two stages.

    Raises:
        ValueError: If an argument is out of range or the curve is not finite.

    Source: Feat2Go, arXiv 2605.30795, Eq. 2; the run-collapsed, backward rule makes it definite.
    """
    _check_rule(alpha, min_length, min_fraction, max_stages)
    y = np.asarray(curve, dtype=np.float64)
    num_frames = len(y)
    stage = np.zeros(num_frames, dtype=np.int64)
    if num_frames < max(2 * min_length, window + 2):
        return stage
    slopes = window_slopes(y, window=window)[: num_frames - 1 - window]
    span = y.max() - y.min()
    if span < _FLAT:
        return stage
    flags = slopes > alpha * span / (num_frames - 1)
    run_starts = 1 + np.flatnonzero(flags[1:] & ~flags[:-1])
    shortest = max(min_length, int(np.ceil(min_fraction * num_frames)))
    for boundary in _walk_back(run_starts + window // 2, num_frames, shortest, max_stages):
        stage[boundary:] += 1
    return stage


def _walk_back(candidates: NDArray[np.int64], end: int, shortest: int, most: int) -> list[int]:
    kept: list[int] = []
    for boundary in candidates[::-1].tolist():
        if len(kept) == most - 1:
            break
        if boundary >= shortest and end - boundary >= shortest:
            kept.append(boundary)
            end = boundary
    return kept


def _running_sum(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    total = np.concatenate([[0.0], np.cumsum(values)])
    difference: NDArray[np.float64] = total[window:] - total[:-window]
    return difference


def _check_rule(alpha: float, min_length: int, min_fraction: float, max_stages: int) -> None:
    if not alpha > 0.0:
        raise ValueError(f"Expected `alpha` > 0, got {alpha}.")
    if min_length < 1 or max_stages < 1:
        raise ValueError(
            f"Expected `min_length` ≥ 1 and `max_stages` ≥ 1, got {min_length} and {max_stages}."
        )
    if not 0.0 <= min_fraction <= 1.0:
        raise ValueError(f"Expected `min_fraction` in [0, 1], got {min_fraction}.")
