"""Feat2Go's reward with values that tell less, and other ways to pay progress."""

from integration_tests.study import figures
from integration_tests.study.comparison import (
    Arms,
    against_best,
    arm,
    remarks,
    success,
    table,
    trained,
    training_success,
)
from integration_tests.study.design import Claim, Finding, Profile, Results

ARMS = Arms(
    {
        "start": arm("start"),
        "sparse": arm("ppo", reward="sparse"),
        "Feat2Go": arm("ppo", reward="feat2go"),
        "its mean": arm("ppo", reward="feat2go", control="mean"),
        "shuffled": arm("ppo", reward="feat2go", control="shuffled"),
        "naive bonus": arm("ppo", reward="naive"),
        "potential": arm("ppo", reward="potential"),
    }
)
UNINFORMED = ("its mean", "shuffled")


def judge(profile: Profile, results: Results) -> Finding:
    """Compare success with that of uninformed values."""
    found = ARMS.found(profile, results)
    pairs = [("Feat2Go", other) for other in trained(found) if other != "Feat2Go"]
    return Finding(
        verdict=against_best(found, "Feat2Go", UNINFORMED, success),
        **table(found, {"success %": success, "mean training success %": training_success}),
        remarks=[
            *remarks(found, pairs, success),
            "Verdict: success against the better of its mean and shuffled.",
        ],
        draw=lambda: figures.learning_curves(trained(found)),
    )


CONTROLS = Claim(
    name="controls",
    title="Is it the information in the value?",
    source="control of ours on Feat2Go's reward (Eq. 4); Ng et al. (1999) on shaping",
    hypothesis="Replaced by its mean or given to other episodes, the value no longer helps; paid "
    "at every step as it is, it does harm.",
    setting="PPO from the same cloned policy; only the reward differs.",
    runs=ARMS.runs,
    judge=judge,
)
