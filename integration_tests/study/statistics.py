"""Intervals and verdicts."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import bootstrap

from integration_tests.study.design import Verdict


def interval_of_mean(values: ArrayLike) -> tuple[float, float, float]:
    """Return the mean over seeds and its 95 % percentile bootstrap interval; NaN for one seed."""
    x: NDArray[np.float64] = np.asarray(values, float)
    if len(x) < 2:
        return float(x.mean()), float("nan"), float("nan")
    if np.ptp(x) == 0:
        return float(x[0]), float(x[0]), float(x[0])
    found = bootstrap((x,), np.mean, method="percentile", rng=np.random.default_rng(0))
    low, high = found.confidence_interval
    return float(x.mean()), float(low), float(high)


def verdict_of(differences: Sequence[float], *, least: int = 3) -> Verdict:
    """Judge a claim that a difference is positive, from one difference per seed.

    It holds if the interval is above zero, holds in direction if only the mean is, does not hold if
    the interval is below zero, and is undecided otherwise or with fewer than ``least`` seeds.
    """
    if len(differences) < least:
        return "undecided" if differences else "not run"
    mean, low, high = interval_of_mean(differences)
    if low > 0:
        return "holds"
    if high < 0:
        return "does not hold"
    return "holds in direction" if mean > 0 else "undecided"


def percent(values: ArrayLike) -> str:
    """Format the mean of shares over seeds with its interval."""
    mean, low, high = interval_of_mean(values)
    spread = "" if np.isnan(low) else f" [{100 * low:.1f}, {100 * high:.1f}]"
    return f"{100 * mean:.1f}{spread}"


def points(values: ArrayLike) -> str:
    """Format the mean of differences of shares over seeds, in points, with its interval."""
    mean, low, high = interval_of_mean(values)
    spread = "" if np.isnan(low) else f" [{100 * low:+.1f}, {100 * high:+.1f}]"
    return f"{100 * mean:+.1f}{spread}"
