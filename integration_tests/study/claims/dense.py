"""RFTF's advantage with and without its shaping."""

from integration_tests.study.comparison import (
    Arms,
    Comparison,
    arm,
    success,
    training_success,
)
from integration_tests.study.design import Claim

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
)

DENSE = Claim(
    name="dense",
    title="Dense against sparse advantages",
    source="RFTF, table 3",
    hypothesis="RFTF's shaped advantage gives more success than its sparse ablation, which can "
    "fall below the policy it starts from.",
    setting="RFTF with a KL penalty of fixed weight 0.01, from the same cloned policy; η = 2 "
    "balances its success of a third. On seed 40, with η = 1 ten updates changed nothing, and with "
    "a learning rate of 1e-3 success fell to 3 %.",
    runs=JUDGE.arms.runs,
    judge=JUDGE,
    looked_into="shaping adds 0.15 to 0.18 to the mean advantage of the first update "
    "(`reward_shaping`, seeds 0 to 2), a shift that favours what was done whatever its outcome.",
)
