"""GRPO where whole groups fail."""

from collections.abc import Mapping

import numpy as np

from integration_tests.study.comparison import (
    Arms,
    Comparison,
    Done,
    arm,
    differences,
    success,
    training_success,
)
from integration_tests.study.design import Claim, Result
from integration_tests.study.lab import curve_of
from integration_tests.study.statistics import points, verdict_of


def told_apart(result: Result) -> float:
    """Return the share of groups whose episodes were not all paid the same."""
    curve = result.get("curve", [])
    return float(np.mean(curve_of(curve, "kept_groups_share"))) if curve else float("nan")


def look_into(found: Mapping[str, Done]) -> str:
    """Say whether there is more contrast."""
    more = differences(found["Feat2Go, from weak"], found["sparse, from weak"], told_apart)
    return (
        f"that more groups tell episodes apart: {verdict_of(more)} ({points(more)} points from the "
        f"weak policy, n = {len(more)}). `failures` shows what they are told apart by."
    )


JUDGE = Comparison(
    arms=Arms(
        {
            "clone": arm("start"),
            "weak": arm("start", begin="weak"),
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
    look_into=look_into,
    told=[
        ("Feat2Go, from clone", "sparse, from clone"),
        ("Feat2Go, from weak", "weak"),
        ("sparse, from weak", "weak"),
    ],
)

GROUPS = Claim(
    name="groups",
    title="GRPO's groups without contrast",
    source="Feat2Go, section 3.4",
    hypothesis="With Feat2Go's reward, which tells failures of a group apart, a weak policy learns "
    "sooner.",
    setting="GRPO, groups of 8, from the cloned policy and from a weak one of 22 demonstrations "
    "and fewer epochs. On another seed one that never succeeds raised its predicted progress at a "
    "learning rate of 1e-3, but not its success, and that rate destroyed the cloned policy.",
    runs=JUDGE.arms.runs,
    judge=JUDGE,
)
