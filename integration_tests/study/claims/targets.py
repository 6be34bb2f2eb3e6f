"""Feat2Go's targets for the value model against two that count time."""

from integration_tests.study import figures
from integration_tests.study.comparison import (
    Arms,
    against_best,
    arm,
    remarks,
    shifted_success,
    success,
    table,
    trained,
    training_success,
)
from integration_tests.study.design import Claim, Finding, Profile, Results

ARMS = Arms(
    {
        "start": arm("start"),
        "Feat2Go": arm("ppo", reward="feat2go"),
        "steps to go": arm("ppo", reward="steps_to_go"),
        "time fraction": arm("ppo", reward="time_fraction"),
    }
)
OTHERS = ("steps to go", "time fraction")
SCORES = {
    "success %": success,
    "mean training success %": training_success,
    "shifted %": shifted_success,
}


def judge(profile: Profile, results: Results) -> Finding:
    """Compare success under shifts."""
    found = ARMS.found(profile, results)
    pairs = [("Feat2Go", other) for other in OTHERS]
    lines = [
        line
        for what, score in SCORES.items()
        for line in remarks(found, pairs, score, f", {what.removesuffix(' %')}")
    ]
    return Finding(
        verdict=against_best(found, "Feat2Go", OTHERS, shifted_success),
        **table(found, SCORES),
        remarks=[*lines, "Verdict: shifted success against the better of the two others."],
        draw=lambda: figures.learning_curves(trained(found)),
    )


TARGETS = Claim(
    name="targets",
    title="Feat2Go's targets against counting time",
    source="Feat2Go, section 4",
    hypothesis="As a terminal reward of PPO, a value model trained on feature-grounded progress "
    "gives more success under shifts than one trained to count time.",
    setting="PPO from the same cloned policy; the value model's training differs in its targets "
    "alone.",
    runs=ARMS.runs,
    judge=judge,
)
