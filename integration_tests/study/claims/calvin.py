"""RFTF on CALVIN, by the rules of its challenge."""

import numpy as np

from integration_tests.study import figures
from integration_tests.study.comparison import (
    Arms,
    arm,
    column,
    differences,
    trained,
    training_success,
)
from integration_tests.study.design import Claim, Finding, Profile, Result, Results
from integration_tests.study.statistics import interval_of_mean, verdict_of

START = "start, cloned"
ARMS = Arms(
    {
        START: arm("calvin", shaping="none"),
        "RFTF": arm("calvin", shaping="dense"),
        "RFTF, sparse": arm("calvin", shaping="sparse"),
    }
)
PAIRS = [("RFTF", START), ("RFTF", "RFTF, sparse"), ("RFTF, sparse", START)]


def average_length(result: Result) -> float:
    """Return how many subtasks of a chain are solved in a row, on average."""
    return float(np.mean(result["after"]["chains"]))


def at_least(num: int, result: Result) -> float:
    """Return the share of chains of which so many subtasks are solved."""
    return float(np.mean(np.array(result["after"]["chains"]) >= num))


def judge(profile: Profile, results: Results) -> Finding:
    """Compare average lengths after and before."""
    found = ARMS.found(profile, results)
    rows, remarks = [], []
    for name, group in found.items():
        lengths = [average_length(item) for item in group.values()]
        shares = [column(group, lambda r, n=num: at_least(n, r)) for num in (1, 2, 3)]  # type: ignore[misc]
        rows.append([name, str(len(group)), _lengths(lengths) if group else "–", *shares,
                     column(group, training_success)])  # fmt: skip
    for one, other in PAIRS:
        gain = differences(found[one], found[other], average_length)
        if gain:
            remarks.append(f"{one} minus {other}: {_lengths(gain)} subtasks.")
    return Finding(
        verdict=verdict_of(differences(found["RFTF"], found[START], average_length)),
        header=["", "seeds", "average length", "L1 %", "L2 %", "L3 %", "mean training success %"],
        rows=rows,
        remarks=[*remarks, "Verdict: average length after against before."],
        draw=lambda: figures.learning_curves(trained(found)),
    )


def _lengths(values: list[float]) -> str:
    mean, low, high = interval_of_mean(values)
    return f"{mean:.2f}" if np.isnan(low) else f"{mean:.2f} [{low:.2f}, {high:.2f}]"


CALVIN = Claim(
    name="calvin",
    title="Chains of instructions in CALVIN's scene D",
    source="RFTF, table 2 (adaptation)",
    hypothesis="Fine-tuning on single instructions lengthens the chains that a policy solves.",
    setting="Scene D, static camera of 200 pixels, six subtasks without blocks, cloned from "
    "scripted motions; evaluated on the first official chains that begin with two of them, 360 "
    "steps per instruction. The instructions are those of the challenge in training, too. Needs "
    "CALVIN_ROOT.",
    runs=ARMS.runs,
    judge=judge,
)
