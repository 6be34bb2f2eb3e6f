"""Whether values tell the policy's own failures apart."""

from functools import partial
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from integration_tests.study import figures
from integration_tests.study.comparison import Arms, arm, column
from integration_tests.study.design import Claim, Finding, Profile, Result, Results
from integration_tests.study.statistics import interval, verdict_of

ARMS = Arms(
    {
        "clone, picture": arm("failures"),
        "clone, picture, steps to go": arm("failures", target="steps_to_go"),
        "clone, picture, time fraction": arm("failures", target="time_fraction"),
        "clone, picture and state": arm("failures", reads="state"),
        "weak, picture": arm("failures", begin="weak"),
    }
)
JUDGED = "clone, picture"
"""Feat2Go's model reads no state."""


def ends(result: Result, *, held: bool | None = None) -> list[dict[str, Any]]:
    """Return the failures, or those alone in which the cube was held or not."""
    return [end for end in result["failures"] if held is None or end["held"] is held]


def mean_value(result: Result, *, held: bool) -> float:
    """Return the mean value of failures that hold the cube, or do not; NaN if there are none."""
    values = [end["value"] for end in ends(result, held=held)]
    return float(np.mean(values)) if values else float("nan")


def closeness(result: Result, *, held: bool | None = None) -> float:
    """Return the rank correlation of a failure's value with how near the gripper is to the goal.

    NaN of fewer than three failures.
    """
    chosen = ends(result, held=held)
    if len(chosen) < 3:
        return float("nan")
    values, distances = ([end[key] for end in chosen] for key in ("value", "distance"))
    return float(spearmanr(values, np.negative(distances)).statistic)


def judge(profile: Profile, results: Results) -> Finding:
    """Correlate values with distances."""
    found = ARMS.found(profile, results)
    correlations = {name: [closeness(r) for r in group.values()] for name, group in found.items()}
    held = {name: [closeness(r, held=True) for r in g.values()] for name, g in found.items()}
    rows = [
        [
            name,
            str(len(group)),
            str(sum(len(ends(result)) for result in group.values())),
            column(group, partial(mean_value, held=True)),
            column(group, partial(mean_value, held=False)),
            interval(held[name]),
            interval(correlations[name]),
        ]
        for name, group in found.items()
    ]
    return Finding(
        verdict=verdict_of(correlations[JUDGED]),
        headline=f"rank correlation with closeness {interval(correlations[JUDGED])}, of failures "
        f"that hold the cube {interval(held[JUDGED])}; n = {len(correlations[JUDGED])}",
        header=[
            "policy, what the value model reads and, if not Feat2Go, learned from",
            "seeds",
            "failures",
            "value, cube held %",
            "not held %",
            "correlation with closeness, cube held",
            "all",
        ],
        rows=rows,
        remarks=[
            f"Verdict: the rank correlation by seed, all failures, {JUDGED}.",
            "A success is paid 100: what held cubes lack is all that reaching the goal earns.",
        ],
        draw=lambda: figures.values_of_failures(found),
    )


FAILURES = Claim(
    name="failures",
    title="What the value says of the policy's own failures",
    source="premise of Feat2Go's Eq. 4; check of ours",
    hypothesis="Where a failed episode of the policy ended nearer to success, its last frame has a "
    "higher value.",
    setting="Failures in 96 training episodes per seed of the cloned policy, and of the weak one. "
    "Near is the gripper to the goal, which the wrist camera does not see, but the state tells.",
    runs=ARMS.runs,
    judge=judge,
)
