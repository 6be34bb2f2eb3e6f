"""Out of distribution, before and after fine-tuning."""

from collections.abc import Sequence

import numpy as np

from integration_tests.study import figures
from integration_tests.study.comparison import (
    Arms,
    Done,
    Score,
    Success,
    arm,
    categories,
    column,
    differences,
    shifted_success,
    success,
    success_in,
)
from integration_tests.study.design import Claim, Finding, Profile, Results
from integration_tests.study.shifts import SHIFTS
from integration_tests.study.statistics import points, verdict_of

ARMS = Arms({"before": arm("start"), "after": arm("ppo", reward="feat2go")})


def judge(profile: Profile, results: Results) -> Finding:
    """Compare success under shifts before and after."""
    before, after = ARMS.found(profile, results).values()
    means: dict[str, Score] = {
        "in distribution": success,
        **{name: success_in(name) for name in categories()},
        "mean of the three": shifted_success,
    }
    single: dict[str, Score] = {
        f"{shift.category}: {shift.what}": Success(name) for name, shift in SHIFTS.items()
    }
    rows = []
    for name, score in (means | single).items():
        gain = differences(after, before, score)
        cells = [column(before, score), column(after, score), points(gain) if gain else "–"]
        rows.append([name, *cells])
    bars = {
        name: ([score(item) for item in before.values()], [score(item) for item in after.values()])
        for name, score in means.items()
    }
    gain = differences(after, before, shifted_success)
    return Finding(
        verdict=verdict_of(gain),
        headline=_headline(before, after, gain) if gain else "",
        header=["", "before %", "after %", "difference, points"],
        rows=rows,
        remarks=[
            f"{len(before)} seeds before, {len(after)} after.",
            "Categories are plain means of their rows.",
        ],
        draw=lambda: figures.before_and_after(bars),
    )


def _headline(before: Done, after: Done, gain: Sequence[float]) -> str:
    shared = before.keys() & after.keys()
    at_first, at_last = (
        100 * float(np.mean([shifted_success(group[seed]) for seed in shared]))
        for group in (before, after)
    )
    return (
        f"success {at_first:.1f} % before, {at_last:.1f} % after; {points(gain)} points; "
        f"n = {len(gain)}"
    )


OUT_OF_DISTRIBUTION = Claim(
    name="shifts",
    title="Out of distribution",
    source="Feat2Go, tables 1 and 2",
    hypothesis="Reinforcement fine-tuning raises success under changes that it never saw.",
    setting="The policies of `targets` on PickCube changed in eight ways; sampled actions. The "
    "25-object suites are not part of it: no policy has been trained for them yet.",
    runs=ARMS.runs,
    judge=judge,
)
