"""RFTF's value model orders frames after one epoch, and falls where an attempt fails."""

import numpy as np

from bench_adapters import wilson_interval
from integration_tests.study import figures
from integration_tests.study.comparison import arm, done, with_seeds
from integration_tests.study.design import Claim, Finding, Profile, Results, Verdict
from integration_tests.study.statistics import percent

ORDER_BAR, FALL_BAR = 0.94, 0.9
MODEL = arm("ranking")


def judge(profile: Profile, results: Results) -> Finding:
    """Compare accuracy and falling curves with the bars."""
    models = done(profile, results, MODEL)
    if not models:
        return Finding(verdict="not run")
    accuracies = [item["order_accuracy"] for item in models.values()]
    fell, drops = (sum(item[key] for item in models.values()) for key in ("fell", "drops"))
    rows = [
        [f"after epoch {number + 1}", percent(epoch)]
        for number, epoch in enumerate(zip(*accuracies, strict=True))
    ]
    if drops:
        low, high = (100 * bound for bound in wilson_interval(fell, drops))
        share = f"{100 * fell / drops:.1f} [{low:.1f}, {high:.1f}] of {drops}"
        rows.append(["curves that fall after the cube is dropped", share])
    accurate = float(np.mean([epochs[0] for epochs in accuracies])) >= ORDER_BAR
    falls = drops > 0 and fell / drops >= FALL_BAR
    verdict: Verdict = "holds" if accurate and falls else "does not hold"
    return Finding(
        verdict=verdict if len(models) >= 3 else "undecided",
        header=["held-out order accuracy", "% (mean over seeds)"],
        rows=rows,
        remarks=[f"{len(models)} seeds. Bars: 94 % after one epoch, and 90 % of the curves."],
        draw=lambda: figures.curves_at_drops(models),
    )


RANKING = Claim(
    name="ranking",
    title="Order of frames, learned in one epoch; curves fall at failures",
    source="RFTF, section 4.3 and figure 6",
    hypothesis="After one epoch the ranking model orders at least 94 % of held-out pairs of "
    "frames, and its curve falls after the cube is dropped.",
    setting="PickCube, wrist camera, shipped encoder; successes only in training.",
    runs=lambda profile: with_seeds(profile, MODEL),
    judge=judge,
)
