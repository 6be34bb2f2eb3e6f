"""GRPO where whole groups fail."""

import numpy as np

from integration_tests.study.comparison import (
    Arms,
    Comparison,
    arm,
    success,
    training_success,
)
from integration_tests.study.design import Claim, Result
from integration_tests.study.lab import curve_of


def told_apart(result: Result) -> float:
    """Return the share of groups whose episodes were not all paid the same."""
    curve = result.get("curve", [])
    return float(np.mean(curve_of(curve, "kept_groups_share"))) if curve else float("nan")


JUDGE = Comparison(
    arms=Arms(
        {
            "start": arm("start"),
            **{
                f"{name}, from {begin}": arm("grpo", reward=reward, begin=begin)
                for begin in ("clone", "weak")
                for name, reward in (("Feat2Go", "feat2go"), ("sparse", "sparse"))
            },
        }
    ),
    scores={
        "success %": success,
        "mean training success %": training_success,
        "groups that tell episodes apart %": told_apart,
    },
    ours="Feat2Go, from weak",
    others=["sparse, from weak"],
    by="mean training success %",
    told=[("Feat2Go, from clone", "sparse, from clone")],
)

GROUPS = Claim(
    name="groups",
    title="GRPO's groups that all fail",
    source="Feat2Go, section 3.4",
    hypothesis="With Feat2Go's reward fewer groups are without contrast, and groups that fail "
    "throughout teach something.",
    setting="GRPO, groups of 8, from the cloned policy and from a weak one, of 22 demonstrations "
    "and fewer epochs, that hardly ever succeeds (6 of 100 on seed 40). On that seed a still "
    "weaker one (0 of 100) raised its predicted progress from 0.25 to 0.65 in 22 updates with a "
    "learning rate of 1e-3, and never succeeded; the same rate took the cloned policy from 45 % to "
    "0.",
    runs=JUDGE.arms.runs,
    judge=JUDGE,
)
