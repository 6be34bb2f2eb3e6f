"""SPIRAL's rounds with three rewards."""

from collections.abc import Mapping

import numpy as np

from integration_tests.study.comparison import Arms, Comparison, Done, arm, success
from integration_tests.study.design import Claim
from integration_tests.study.lab import curve_of

FROZEN = "start, frozen"


def look_into(found: Mapping[str, Done]) -> str:
    """Say how success of the rounds' own episodes changes."""
    rounds = {
        name: np.mean([curve_of(item["curve"]) for item in found[name].values()], axis=0)
        for name in ("SARM2", "single head", "sparse")
    }
    told = "; ".join(
        f"{', '.join(f'{100 * rate:.0f}' for rate in rates)} % ({name})"
        for name, rates in rounds.items()
    )
    return (
        f"success of the episodes of each round, the first being the frozen policy's: {told}. The "
        "96 of a seed have a standard error of 5 points."
    )


JUDGE = Comparison(
    arms=Arms(
        {
            FROZEN: arm("spiral", reward="none"),
            "SARM2": arm("spiral", reward="sarm2"),
            "single head": arm("spiral", reward="single_head"),
            "sparse": arm("spiral", reward="sparse"),
        }
    ),
    scores={"success %": success},
    ours="SARM2",
    others=(FROZEN, "single head", "sparse"),
    by="success %",
    told=[("sparse", FROZEN)],
    look_into=look_into,
)

ROUNDS = Claim(
    name="rounds",
    title="Rounds of self-improvement of a frozen policy",
    source="SPIRAL, section 5",
    hypothesis="Success rises over rounds, and more with SARM2's reward than with that of a single "
    "head or the sparse one.",
    setting="SPIRAL with its published losses on a frozen Gaussian policy; 96 episodes and 1000 "
    "steps per round.",
    runs=JUDGE.arms.runs,
    judge=JUDGE,
)
