"""SARM2 and what is left of it without its parts."""

from itertools import pairwise

import numpy as np

from integration_tests.study import figures
from integration_tests.study.ablation import MODELS
from integration_tests.study.comparison import arm, done, with_seeds
from integration_tests.study.design import Claim, Finding, Profile, Results
from integration_tests.study.statistics import interval, weakest

BENCH = arm("ablation")


def judge(profile: Profile, results: Results) -> Finding:
    """Compare errors step by step of the ablation."""
    tables = done(profile, results, BENCH)
    errors = {name: [item[name]["mse_macro"] for item in tables.values()] for name in MODELS}
    rows = [[name, interval(errors[name], ".4f")] for name in MODELS if tables]
    remarks = ["Verdict: both steps."]
    if tables:
        ratio = np.mean(errors["SARM2"]) / np.mean(errors["single head (ReWiND)"])
        remarks.append(f"SARM2 over single head: {ratio:.2f}; the paper's is at most 0.56.")
    steps = {
        other: [worse - better for better, worse in zip(errors[one], errors[other], strict=True)]
        for one, other in pairwise(MODELS[:3])
    }
    for name, step in steps.items():
        if step:
            remarks.append(f"{name} above the one before: {interval(step, '+.4f')}.")
    if len(tables) > 1:
        spread = np.mean([np.std(errors[name], ddof=1) for name in MODELS[:4]])
        remarks.append(
            "Looked into: a step counts beside what seeds make of one model, a standard deviation "
            f"of {spread:.4f} (mean of the first four)."
        )
    return Finding(
        verdict=weakest(steps)[1],
        headline="error "
        + ", ".join(f"{np.mean(errors[name]):.4f} ({name})" for name in MODELS[:4])
        + f"; n = {len(tables)}",
        header=["model", f"error (mean over {len(tables)} seeds)"],
        rows=rows,
        remarks=remarks,
        draw=lambda: figures.errors(errors),
    )


PARTS = Claim(
    name="parts",
    title="Which part of SARM2 does it",
    source="SARM2, ablation table",
    hypothesis="The error grows without the gates, and more without the stage estimator.",
    setting="Ten recorded tasks, shipped encoder and the robot's state, equal steps; mean square "
    "error of held-out progress, plain mean over tasks.",
    runs=lambda profile: with_seeds(profile, BENCH),
    judge=judge,
)
