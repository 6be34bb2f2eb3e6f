"""SPIRAL's rounds with three rewards."""

from integration_tests.study import figures
from integration_tests.study.comparison import (
    Arms,
    against_best,
    arm,
    remarks,
    success,
    table,
    trained,
)
from integration_tests.study.design import Claim, Finding, Profile, Results

FROZEN = "start, frozen"
ARMS = Arms(
    {
        FROZEN: arm("spiral", reward="none"),
        "SARM2": arm("spiral", reward="sarm2"),
        "single head": arm("spiral", reward="single_head"),
        "sparse": arm("spiral", reward="sparse"),
    }
)
PAIRS = [*(("SARM2", other) for other in ARMS if other != "SARM2"), ("sparse", FROZEN)]


def judge(profile: Profile, results: Results) -> Finding:
    """Compare success after the last round."""
    found = ARMS.found(profile, results)
    others = [name for name in ARMS if name != "SARM2"]
    return Finding(
        verdict=against_best(found, "SARM2", others, success),
        **table(found, {"success %": success}),
        remarks=[
            *remarks(found, PAIRS, success),
            "Verdict: SARM2 against the best of the three others.",
        ],
        draw=lambda: figures.learning_curves(trained(found)),
    )


ROUNDS = Claim(
    name="rounds",
    title="Rounds of self-improvement of a frozen policy",
    source="SPIRAL, section 5",
    hypothesis="Success rises over rounds, and more with SARM2's reward than with that of a single "
    "head or the sparse one.",
    setting="SPIRAL with its published losses on a frozen Gaussian policy; 96 episodes and 1000 "
    "steps per round.",
    runs=ARMS.runs,
    judge=judge,
)
