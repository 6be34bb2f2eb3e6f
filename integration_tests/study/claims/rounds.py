"""SPIRAL's rounds with three rewards."""

from integration_tests.study.comparison import (
    Arms,
    Comparison,
    arm,
    success,
)
from integration_tests.study.design import Claim

FROZEN = "start, frozen"
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
