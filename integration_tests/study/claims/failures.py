"""Whether values tell the policy's own failures apart."""

import numpy as np
from scipy.stats import spearmanr

from integration_tests.study import figures
from integration_tests.study.comparison import Arms, Score, arm, column
from integration_tests.study.design import Claim, Finding, Profile, Result, Results
from integration_tests.study.statistics import interval, verdict_of

ARMS = Arms({"picture": arm("failures"), "picture and state": arm("failures", reads="state")})
JUDGED = "picture"
"""What Feat2Go's model reads."""


def ends(result: Result, key: str) -> list[float]:
    """Return what was noted of each failure."""
    return [float(end[key]) for end in result["failures"]]


def closeness(result: Result) -> float:
    """Return the rank correlation of a failure's value with how near the gripper is to the goal."""
    return float(spearmanr(ends(result, "value"), np.negative(ends(result, "distance"))).statistic)


SCORES: dict[str, Score] = {
    "cube in the gripper %": lambda result: float(np.mean(ends(result, "held"))),
    "mean value %": lambda result: float(np.mean(ends(result, "value"))),
    "spread (standard deviation) %": lambda result: float(np.std(ends(result, "value"))),
    "valued above 0.9 %": lambda result: float(np.mean(np.array(ends(result, "value")) > 0.9)),
}


def judge(profile: Profile, results: Results) -> Finding:
    """Correlate values with distances."""
    found = ARMS.found(profile, results)
    correlations = {name: [closeness(r) for r in group.values()] for name, group in found.items()}
    rows = [
        [
            name,
            str(len(group)),
            str(sum(len(result["failures"]) for result in group.values())),
            *(column(group, score) for score in SCORES.values()),
            interval(correlations[name]),
        ]
        for name, group in found.items()
    ]
    return Finding(
        verdict=verdict_of(correlations[JUDGED]),
        headline=", ".join(f"{interval(x)} ({name})" for name, x in correlations.items()),
        header=["input", "seeds", "failures", *SCORES, "rank correlation with closeness"],
        rows=rows,
        remarks=[
            f"Verdict: the rank correlation by seed, {JUDGED}.",
            "A success stands out by one minus the mean value, failures by their spread.",
        ],
        draw=lambda: figures.values_of_failures(found),
    )


FAILURES = Claim(
    name="failures",
    title="What the value says of the policy's own failures",
    source="premise of Feat2Go's Eq. 4; check of ours",
    hypothesis="Where a failed episode of the policy ended nearer to success, its last frame has a "
    "higher value.",
    setting="The cloned policy's failures in 96 training episodes per seed. Near is the gripper to "
    "the goal, which the wrist camera does not see: most failures hold the cube.",
    runs=ARMS.runs,
    judge=judge,
)
