"""RFTF's value model orders frames after one epoch, and falls where an attempt fails."""

import numpy as np

from integration_tests.study import figures
from integration_tests.study.comparison import Arms, Done, arm, column
from integration_tests.study.design import Claim, Finding, Profile, Result, Results, Verdict
from integration_tests.study.statistics import share

ORDER_BAR, FALL_BAR = 0.94, 0.9
ARMS = Arms({"picture": arm("ranking"), "picture and state": arm("ranking", reads="state")})
JUDGED = "picture and state"
"""The paper's model reads what the policy does."""


def judge(profile: Profile, results: Results) -> Finding:
    """Compare accuracy and falling curves with the bars."""
    found = ARMS.found(profile, results)
    rows = [
        [name, str(len(group)), column(group, after_one), column(group, at_the_end), _falls(group)]
        for name, group in found.items()
    ]
    fell, drops = _counts(found[JUDGED])
    return Finding(
        verdict=_verdict(found[JUDGED]),
        headline=f"{column(found[JUDGED], after_one)} % in order, from pictures alone "
        f"{column(found['picture'], after_one)} %; {fell} of {drops} curves fall; "
        f"n = {len(found[JUDGED])}",
        header=["input", "seeds", "in order after one epoch %", "at the end %", "curves that fall"],
        rows=rows,
        remarks=[f"Bars: 94 % after one epoch and 90 % of the curves; verdict: {JUDGED}."],
        draw=lambda: figures.curves_at_drops(found),
    )


def after_one(result: Result) -> float:
    """Return the share of held-out pairs in order after the first epoch."""
    return float(result["order_accuracy"][0])


def at_the_end(result: Result) -> float:
    """Return the same after the last epoch."""
    return float(result["order_accuracy"][-1])


def _verdict(models: Done) -> Verdict:
    if len(models) < 3:
        return "undecided"
    fell, drops = _counts(models)
    accurate = np.mean([after_one(item) for item in models.values()]) >= ORDER_BAR
    return "holds" if accurate and fell >= FALL_BAR * drops else "does not hold"


def _counts(models: Done) -> tuple[int, int]:
    fell, drops = (sum(int(item[key]) for item in models.values()) for key in ("fell", "drops"))
    return fell, drops


def _falls(models: Done) -> str:
    fell, drops = _counts(models)
    if not drops:
        return "–"
    return f"{fell} of {drops}, {share(fell, drops)} %"


RANKING = Claim(
    name="ranking",
    title="Order of frames, learned in one epoch; curves fall at failures",
    source="RFTF, section 4.3 and figure 6",
    hypothesis="After one epoch the ranking model orders at least 94 % of held-out pairs of "
    "frames, and its curve falls after the cube is dropped.",
    setting="PickCube, wrist camera, shipped encoder; successes only in training. The state is the "
    "policy's, which knows where the goal is and whether the cube is held.",
    runs=ARMS.runs,
    judge=judge,
)
