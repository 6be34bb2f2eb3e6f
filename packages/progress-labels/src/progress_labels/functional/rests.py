"""Stages that all episodes of a task share: they end where the scene rests, at alike places."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from progress_labels.functional.alignment import aligned_stages

_STILL = 1e-6
"""Added to steps, so that a scene that does not move at all has a logarithm."""
_ROUNDS = 8


def rest_depth(path: Float[np.ndarray, "t k"], *, window: int) -> Float[np.ndarray, " t"]:
    """Return how much slower an episode moves at each frame than before *and* after it.

    d_t = min(mean of ln v over the window before t, mean over the one after t) − ln v_t,
    with v_t the mean of the steps ‖x_t − x_{t−1}‖ into and ‖x_{t+1} − x_t‖ out of frame t

    A pause lies below both sides; slowing down without going on, or setting off from rest, does
    not.

    Args:
        path: Features of each frame, of few dimensions (noise of many drowns the steps).
        window: Frames looked at on either side, ≥ 1.

    Returns:
        Natural logarithm of a ratio of speeds: 0.7 is half as fast. 0 at both ends.

    Raises:
        ValueError: If ``window`` < 1 or the path is not finite.

    Example:
        >>> path = np.array([[0.0], [1.0], [2.0], [2.1], [2.2], [3.2], [4.2]])
        >>> rest_depth(path, window=2).round(1)
        array([ 0. , -1.2, -0.3,  2. , -0.3, -1.2,  0. ])
    """
    values = np.asarray(path, dtype=np.float64)
    if window < 1:
        raise ValueError(f"Expected `window` ≥ 1, got {window}.")
    if values.ndim != 2 or not np.isfinite(values).all():
        raise ValueError(f"Expected a finite `path` (t, k), got shape {values.shape}.")
    count = len(values)
    depth = np.zeros(count)
    if count < 3:
        return depth
    steps = np.linalg.norm(np.diff(values, axis=0), axis=1)
    before_and_after = np.stack([np.append(steps[:1], steps), np.append(steps, steps[-1:])])
    log_speed = np.log(before_and_after.mean(axis=0) + _STILL)
    total = np.concatenate([[0.0], np.cumsum(log_speed)])
    inner = np.arange(1, count - 1)
    first, last = np.maximum(inner - window, 0), np.minimum(inner + 1 + window, count)
    before = (total[inner] - total[first]) / (inner - first)
    after = (total[last] - total[inner + 1]) / (last - inner - 1)
    depth[1:-1] = np.minimum(before, after) - log_speed[1:-1]
    return depth


def common_rests(
    paths: Sequence[Float[np.ndarray, "t k"]],
    *,
    min_depth: float = 0.2,
    min_length: int = 4,
    max_stages: int = 9,
    window_share: float = 0.1,
) -> list[Int[np.ndarray, " t"]]:
    """Cut episodes of one task into common stages, which end where the scene rests.

    For each number of stages, subgoals are chosen in all episodes at once: frames that rest
    (`rest_depth`, in standard deviations of their episode) and lie close to the median of the other
    episodes' frames for the same subgoal, in turns until nothing changes; each turn is exact by
    dynamic programming. The number of stages is the one with the largest Σ_n (median depth of
    subgoal n − ``min_depth``): a further stage has to end in a rest. Pauses are seen up to about
    the length of the window.

    Args:
        paths: Features of each frame of each episode, in common coordinates of few dimensions.
        min_depth: Least median depth at which a stage pays, > 0; 0.2 is 18 % slower than around.
        min_length: Least frames of a stage, ≥ 1; less in episodes that are too short.
        max_stages: Most stages.
        window_share: Window of `rest_depth` as a share of the episode; at least three frames.

    Returns:
        Stage of each frame of each episode, 0 … n − 1 (fewer in episodes with fewer frames). All 0
        where the episodes share no rest.

    Raises:
        ValueError: If there is no episode, or an argument is out of range.
    """
    if not paths or not min_depth > 0.0 or max_stages < 1:
        raise ValueError(
            "Expected at least one path, `min_depth` > 0 and `max_stages` ≥ 1, got "
            f"{len(paths)}, {min_depth} and {max_stages}."
        )
    depths = [rest_depth(p, window=max(3, round(window_share * len(p)))) for p in paths]
    typical = int(np.median([len(path) for path in paths]))
    best, best_gain = [np.zeros(0, dtype=np.int64) for _ in paths], 0.0
    for count in range(1, min(max_stages, typical // max(1, min_length))):
        subgoals = _fit(paths, depths, count, min_length)
        found = [d[frames] for d, frames in zip(depths, subgoals, strict=True)]
        typical_depths = np.median([d for d in found if len(d) == count], axis=0)
        gain = float((typical_depths - min_depth).sum())
        if gain > best_gain:
            best, best_gain = subgoals, gain
    return [
        np.searchsorted(frames, np.arange(len(path)), side="left").astype(np.int64)
        for path, frames in zip(paths, best, strict=True)
    ]


def _fit(
    paths: Sequence[NDArray[np.float64]],
    depths: Sequence[NDArray[np.float64]],
    count: int,
    min_length: int,
) -> list[NDArray[np.int64]]:
    """Choose ``count`` subgoal frames in each episode, alike over episodes, by turns."""
    rests = [(depth - depth.mean()) / (depth.std() + _STILL) for depth in depths]
    subgoals = [_cut(np.repeat(rest[:, None], count, axis=1), min_length) for rest in rests]
    number = np.arange(count)
    for _ in range(_ROUNDS):
        whole = [e for e, frames in enumerate(subgoals) if len(frames) == count]
        anchors = np.median([paths[e][subgoals[e]] for e in whole], axis=0)
        far = [((path[:, None] - anchors) ** 2).sum(axis=-1) for path in paths]
        scale = np.median([far[e][subgoals[e], number] for e in whole], axis=0) + _STILL
        scores = [r[:, None] - f / (2.0 * scale) for r, f in zip(rests, far, strict=True)]
        again = [_cut(score, min_length) for score in scores]
        if all(map(np.array_equal, again, subgoals)):
            break
        subgoals = again
    return subgoals


def _cut(scores: NDArray[np.float64], min_length: int) -> NDArray[np.int64]:
    """Return the best frames for the subgoals in order, which leave a last stage after them."""
    last = np.zeros((len(scores), 1))
    stage = aligned_stages(np.concatenate([scores, last], axis=1), min_length=min_length)
    return np.flatnonzero(np.diff(stage))
