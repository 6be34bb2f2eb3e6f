"""Intervals and verdicts."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import bootstrap, sem, ttest_1samp

from bench_adapters import wilson_interval
from integration_tests.study.design import Verdict

EQUAL = 1e-12
"""Values within it are the same, but for rounding."""
Interval = tuple[float, float, float]
"""Mean, lower and upper bound; the bounds are NaN where there is none."""


def interval_of_mean(values: ArrayLike) -> Interval:
    """Return the mean over seeds and its 95 % interval by Student's t.

    Verdicts rest on it: over three to five seeds a bootstrap is little more than their range. One
    seed has none, nor have equal values: as counts they may be equal without being certain.
    """
    x: NDArray[np.float64] = np.asarray(values, float)
    if len(x) < 2 or np.ptp(x) < EQUAL:
        return float(x.mean()), float("nan"), float("nan")
    low, high = ttest_1samp(x, 0.0).confidence_interval()
    return float(x.mean()), float(low), float(high)


def band_of_mean(values: ArrayLike) -> Interval:
    """Return the mean over seeds and its 95 % percentile bootstrap interval, for curves."""
    x: NDArray[np.float64] = np.asarray(values, float)
    if len(x) < 2:
        return float(x.mean()), float("nan"), float("nan")
    if np.ptp(x) < EQUAL:
        return float(x[0]), float(x[0]), float(x[0])
    rng = np.random.default_rng(0)
    low, high = bootstrap((x,), np.mean, method="percentile", rng=rng).confidence_interval
    return float(x.mean()), float(low), float(high)


def verdict_of(differences: Sequence[float], *, least: int = 3) -> Verdict:
    """Judge a claim that a difference is positive, from one difference per seed.

    It holds if the interval is above zero, holds in direction if the mean alone is and by more than
    its standard error, does not hold if the interval is below zero, and is undecided otherwise or
    with fewer than ``least`` seeds.
    """
    if len(differences) < least:
        return "undecided"
    mean, low, high = interval_of_mean(differences)
    if low > 0:
        return "holds"
    if high < 0:
        return "does not hold"
    return "holds in direction" if mean > sem(differences) else "undecided"


def weakest(differences: Mapping[str, Sequence[float]], *, least: int = 3) -> tuple[str, Verdict]:
    """Judge a claim that all of several differences are positive: as the weakest of them.

    Returns:
        Whose it is, of equal ones with the smallest mean, and its verdict.
    """
    order: list[Verdict] = ["does not hold", "undecided", "holds in direction", "holds"]
    verdicts = {name: verdict_of(values, least=least) for name, values in differences.items()}
    means = {name: float(np.mean(x)) if len(x) else -np.inf for name, x in differences.items()}
    name = min(verdicts, key=lambda name: (order.index(verdicts[name]), means[name]))
    return name, verdicts[name]


def interval(values: Sequence[float], form: str = ".2f") -> str:
    """Format the mean of any score over seeds with its interval, each number by ``form``."""
    if not len(values) or np.isnan(values).any():
        return "–"
    mean, low, high = interval_of_mean(values)
    return f"{mean:{form}}" + ("" if np.isnan(low) else f" [{low:{form}}, {high:{form}}]")


def share(successes: int, episodes: int) -> str:
    """Format a success rate with Wilson's interval."""
    low, high = wilson_interval(successes, episodes)
    return f"{100 * successes / episodes:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def percent(values: ArrayLike) -> str:
    """Format the mean of shares over seeds with its interval, as far as it lies in [0, 1]."""
    mean, low, high = np.clip(interval_of_mean(values), 0.0, 1.0)
    spread = "" if np.isnan(low) else f" [{100 * low:.1f}, {100 * high:.1f}]"
    return f"{100 * mean:.1f}{spread}"


def points(values: ArrayLike) -> str:
    """Format the mean of differences of shares over seeds, in points, with its interval."""
    mean, low, high = interval_of_mean(values)
    spread = "" if np.isnan(low) else f" [{100 * low:+.1f}, {100 * high:+.1f}]"
    return f"{100 * mean:+.1f}{spread}"
