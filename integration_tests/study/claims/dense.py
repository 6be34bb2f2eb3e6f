"""RFTF's advantage with and without its shaping."""

from collections.abc import Mapping

from integration_tests.study.comparison import (
    Arms,
    Comparison,
    Done,
    arm,
    first_shaping,
    success,
    training_success,
)
from integration_tests.study.design import Claim
from integration_tests.study.statistics import interval


def look_into(found: Mapping[str, Done]) -> str:
    """Say how much shaping there is."""
    shaping = interval([first_shaping(item) for item in found["dense"].values()])
    return (
        f"shaping adds {shaping} to the mean advantage of the first "
        "update, where failures have -1 and successes 2: it favours what was done whatever its "
        "outcome."
    )


JUDGE = Comparison(
    arms=Arms(
        {
            "start": arm("start"),
            "dense": arm("rftf", shaping="dense"),
            "sparse": arm("rftf", shaping="sparse"),
        }
    ),
    scores={"success %": success, "mean training success %": training_success},
    ours="dense",
    others=["sparse"],
    by="success %",
    told=[("dense", "start"), ("sparse", "start")],
    look_into=look_into,
)

DENSE = Claim(
    name="dense",
    title="Dense against sparse advantages",
    source="RFTF, table 3",
    hypothesis="RFTF's shaped advantage gives more success than its sparse ablation.",
    setting="RFTF with a KL penalty of fixed weight 0.01, from the same cloned policy; η = 2 "
    "balances its success of a third. On another seed η = 1 changed little in ten updates, and a "
    "learning rate of 1e-3 destroyed the policy.",
    runs=JUDGE.arms.runs,
    judge=JUDGE,
)
