"""Feat2Go's reward with values that tell less, and other ways to pay progress."""

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
            "sparse": arm("ppo", reward="sparse"),
            "Feat2Go": arm("ppo", reward="feat2go"),
            "its mean": arm("ppo", reward="feat2go", control="mean"),
            "shuffled": arm("ppo", reward="feat2go", control="shuffled"),
            "naive bonus": arm("ppo", reward="naive"),
            "potential": arm("ppo", reward="potential"),
        }
    ),
    scores={"success %": success, "mean training success %": training_success},
    ours="Feat2Go",
    others=("its mean", "shuffled"),
    by="success %",
    told=[("Feat2Go", other) for other in ("sparse", "naive bonus", "potential")],
)

CONTROLS = Claim(
    name="controls",
    title="Is it the information in the value?",
    source="control of ours on Feat2Go's reward (Eq. 4); Ng et al. (1999) on shaping",
    hypothesis="Replaced by its mean or given to other episodes, the value no longer helps; paid "
    "at every step as it is, it does harm.",
    setting="PPO from the same cloned policy; only the reward differs.",
    runs=JUDGE.arms.runs,
    judge=JUDGE,
    looked_into="wrong values do harm, right ones do no better than a constant. The constant is "
    "the mean of recorded failures, 0.27 to 0.35; the cloned policy's own failures earn 0.77 to "
    "0.79, nearly a success, so that little contrast is left, less than with the constant "
    "(`reward_shaping` over the share of failures, first update, seeds 0 to 2).",
)
