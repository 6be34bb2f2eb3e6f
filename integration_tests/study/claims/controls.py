"""Feat2Go's reward with values that tell less, and other ways to pay progress."""

from collections.abc import Mapping

from integration_tests.study.comparison import (
    Arms,
    Comparison,
    Done,
    arm,
    column,
    first_failure,
    success,
    training_success,
)
from integration_tests.study.design import Claim


def look_into(found: Mapping[str, Done]) -> str:
    """Say what failures are paid."""
    paid = {name: column(found[name], first_failure) for name in ("Feat2Go", "its mean")}
    return (
        f"in the first update a failure earns {paid['Feat2Go']} % of a success from the value "
        f"model and {paid['its mean']} % as their mean over recorded failures. `failures` shows "
        "what its values tell of the policy's own."
    )


JUDGE = Comparison(
    arms=Arms(
        {
            "start": arm("start"),
            "sparse": arm("ppo", reward="sparse"),
            "Feat2Go": arm("ppo", reward="feat2go"),
            "its mean": arm("ppo", reward="feat2go", control="mean"),
            "shuffled": arm("ppo", reward="feat2go", control="shuffled"),
            "capped at a half": arm("ppo", reward="feat2go", control="capped"),
            "naive bonus": arm("ppo", reward="naive"),
            "potential": arm("ppo", reward="potential"),
        }
    ),
    scores={"success %": success, "mean training success %": training_success},
    ours="Feat2Go",
    others=("its mean", "shuffled"),
    by="success %",
    told=[
        ("Feat2Go", "sparse"),
        ("Feat2Go", "naive bonus"),
        ("Feat2Go", "potential"),
        ("capped at a half", "Feat2Go"),
        ("capped at a half", "sparse"),
    ],
    look_into=look_into,
)

CONTROLS = Claim(
    name="controls",
    title="Is it the information in the value?",
    source="control of ours on Feat2Go's reward (Eq. 4); Ng et al. (1999) on shaping",
    hypothesis="The value helps by what it says of the episode: more than a constant, or than the "
    "value of another one.",
    setting="PPO from the same cloned policy; only the reward differs. Its mean is that of "
    "recorded failures; shuffled values are each another's of the failures among 16 episodes that "
    "are played at a time. A half is what the first of the task's two stages is worth.",
    runs=JUDGE.arms.runs,
    judge=JUDGE,
)
