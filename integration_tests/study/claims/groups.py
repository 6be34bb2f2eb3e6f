"""GRPO where whole groups fail."""

import numpy as np

from integration_tests.study import figures
from integration_tests.study.comparison import (
    Arms,
    arm,
    differences,
    remarks,
    success,
    table,
    trained,
    training_success,
)
from integration_tests.study.design import Claim, Finding, Profile, Result, Results
from integration_tests.study.lab import curve_of
from integration_tests.study.statistics import verdict_of

ARMS = Arms(
    {
        "start": arm("start"),
        **{
            f"{name}, from {begin}": arm("grpo", reward=reward, begin=begin)
            for begin in ("clone", "weak")
            for name, reward in (("Feat2Go", "feat2go"), ("sparse", "sparse"))
        },
    }
)
PAIRS = [(f"Feat2Go, from {begin}", f"sparse, from {begin}") for begin in ("clone", "weak")]


def told_apart(result: Result) -> float:
    """Return the share of groups whose episodes were not all paid the same."""
    curve = result.get("curve", [])
    return float(np.mean(curve_of(curve, "kept_groups_share"))) if curve else float("nan")


def judge(profile: Profile, results: Results) -> Finding:
    """Compare how fast the weak policy learns."""
    found = ARMS.found(profile, results)
    scores = {
        "success %": success,
        "mean training success %": training_success,
        "groups that tell episodes apart %": told_apart,
    }
    ours, sparse = (found[name] for name in PAIRS[1])
    return Finding(
        verdict=verdict_of(differences(ours, sparse, training_success)),
        **table(found, scores),
        remarks=[
            *remarks(found, PAIRS, training_success, ", mean training success"),
            "Verdict: mean training success from the weak policy.",
        ],
        draw=lambda: figures.learning_curves(trained(found)),
    )


GROUPS = Claim(
    name="groups",
    title="GRPO's groups that all fail",
    source="Feat2Go, section 3.4",
    hypothesis="With Feat2Go's reward fewer groups are without contrast, and groups that fail "
    "throughout teach something.",
    setting="GRPO, groups of 8, from the cloned policy and from one that hardly ever succeeds.",
    runs=ARMS.runs,
    judge=judge,
)
