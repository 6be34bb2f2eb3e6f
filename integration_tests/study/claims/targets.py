"""Feat2Go's targets for the value model against two that count time."""

from collections.abc import Mapping

from integration_tests.study.comparison import (
    Arms,
    Comparison,
    Done,
    arm,
    column,
    first_failure,
    shifted_success,
    success,
    training_success,
)
from integration_tests.study.design import Claim


def look_into(found: Mapping[str, Done]) -> str:
    """Say what failures are paid."""
    paid = ", ".join(
        f"{column(group, first_failure)} % ({name})"
        for name, group in found.items()
        if name != "start"
    )
    return (
        f"in the first update a failure earns {paid} of a success. `failures` shows what the three "
        "value models tell of failures."
    )


JUDGE = Comparison(
    arms=Arms(
        {
            "start": arm("start"),
            "Feat2Go": arm("ppo", reward="feat2go"),
            "steps to go": arm("ppo", reward="steps_to_go"),
            "time fraction": arm("ppo", reward="time_fraction"),
        }
    ),
    scores={
        "success %": success,
        "mean training success %": training_success,
        "success under shifts %": shifted_success,
    },
    ours="Feat2Go",
    others=("steps to go", "time fraction"),
    by="success under shifts %",
    told=[("Feat2Go", "start")],
    look_into=look_into,
    start="start",
)

TARGETS = Claim(
    name="targets",
    title="Feat2Go's targets against counting time",
    source="Feat2Go, section 4",
    hypothesis="As a terminal reward of PPO, a value model trained on feature-grounded progress "
    "gives more success under shifts than one trained to count time.",
    setting="PPO from the same cloned policy; the value model's training differs in its targets "
    "alone. Under each of eight shifts 50 episodes at the end, 10 after a third and two thirds.",
    runs=JUDGE.arms.runs,
    judge=JUDGE,
)
