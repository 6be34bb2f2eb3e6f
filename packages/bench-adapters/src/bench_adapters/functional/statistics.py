"""Feature statistics in LeRobot's form: per episode, merged over episodes, exact over columns."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["Stats", "feature_stats", "image_stats", "merge_stats"]

QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
Stats = Mapping[str, NDArray[np.float64]]
"""``min, max, mean, std, q01, q10, q50, q90, q99`` per component and ``count`` ``(1,)``."""


def feature_stats(values: NDArray[np.generic]) -> dict[str, NDArray[np.float64]]:
    """Return the statistics of a numeric or boolean feature.

    Args:
        values: ``(t,)`` or ``(t, d)`` with t ≥ 1; booleans count as 0 and 1.

    Returns:
        Arrays of ``(1,)`` or ``(d,)``; ``std`` is that of the population.
    """
    rows = np.asarray(values, np.float64).reshape(len(values), -1)
    quantiles = np.quantile(rows, list(QUANTILES.values()), axis=0)
    return {
        "min": rows.min(axis=0),
        "max": rows.max(axis=0),
        "mean": rows.mean(axis=0),
        "std": rows.std(axis=0),
        "count": np.array([len(rows)], np.float64),
        **dict(zip(QUANTILES, quantiles, strict=True)),
    }


def image_stats(
    frames: NDArray[np.uint8], *, max_frames: int = 100
) -> dict[str, NDArray[np.float64]]:
    """Return per-channel statistics of the pixels, scaled to [0, 1].

    Args:
        frames: ``(t, h, w, 3)`` with t ≥ 1.
        max_frames: Longer episodes are sampled at this many evenly spaced frames.

    Returns:
        Arrays of ``(3, 1, 1)``; ``count`` is the number of frames used.
    """
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(len(frames), max_frames)).astype(int))
    levels = np.arange(256) / 255.0
    rows = []
    for channel in np.moveaxis(frames[chosen], -1, 0):
        # 256 levels: the histogram holds every statistic, whatever the number of pixels.
        histogram = np.bincount(channel.reshape(-1), minlength=256)
        present = np.flatnonzero(histogram)
        mean = np.average(levels, weights=histogram)
        std = np.sqrt(np.average((levels - mean) ** 2, weights=histogram))
        rank = np.array(list(QUANTILES.values())) * histogram.sum()
        quantiles = levels[np.searchsorted(np.cumsum(histogram), rank)]
        rows.append([levels[present[0]], levels[present[-1]], mean, std, *quantiles])
    columns = np.array(rows).T.reshape(-1, 3, 1, 1)
    stats = dict(zip(["min", "max", "mean", "std", *QUANTILES], columns, strict=True))
    return stats | {"count": np.array([len(chosen)], np.float64)}


def merge_stats(parts: Sequence[Stats]) -> dict[str, NDArray[np.float64]]:
    """Merge the statistics of disjoint parts of a feature.

    Minimum, maximum, mean and standard deviation are those of the union; quantiles are the
    count-weighted mean of the parts' quantiles, which LeRobot uses too and which is only an
    approximation.

    Args:
        parts: At least one.
    """
    counts = np.array([part["count"][0] for part in parts])
    means = np.stack([part["mean"] for part in parts])
    weights = counts / counts.sum()
    mean = np.tensordot(weights, means, 1)
    second = np.stack([part["std"] ** 2 for part in parts]) + (means - mean) ** 2
    return {
        "min": np.min([part["min"] for part in parts], axis=0),
        "max": np.max([part["max"] for part in parts], axis=0),
        "mean": mean,
        "std": np.sqrt(np.tensordot(weights, second, 1)),
        "count": np.array([counts.sum()]),
        **{name: np.tensordot(weights, [part[name] for part in parts], 1) for name in QUANTILES},
    }
