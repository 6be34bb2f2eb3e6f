"""RFTF's advantage with and without its shaping."""

from integration_tests.study import figures
from integration_tests.study.comparison import (
    Arms,
    arm,
    differences,
    remarks,
    success,
    table,
    trained,
    training_success,
)
from integration_tests.study.design import Claim, Finding, Profile, Results
from integration_tests.study.statistics import verdict_of

ARMS = Arms(
    {
        "start": arm("start"),
        "dense": arm("rftf", shaping="dense"),
        "sparse": arm("rftf", shaping="sparse"),
    }
)
PAIRS = [("dense", "sparse"), ("dense", "start"), ("sparse", "start")]


def judge(profile: Profile, results: Results) -> Finding:
    """Compare success of the two."""
    found = ARMS.found(profile, results)
    return Finding(
        verdict=verdict_of(differences(found["dense"], found["sparse"], success)),
        **table(found, {"success %": success, "mean training success %": training_success}),
        remarks=[
            *remarks(found, PAIRS, success),
            "Verdict: dense against sparse; the paper's sparse variant ends below its start.",
        ],
        draw=lambda: figures.learning_curves(trained(found)),
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
    runs=ARMS.runs,
    judge=judge,
)
