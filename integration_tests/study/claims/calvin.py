"""RFTF on CALVIN, by the rules of its challenge."""

from collections.abc import Mapping
from functools import partial

import numpy as np

from bench_adapters.functional.calvin_sequences import CHAIN_LENGTH
from integration_tests.study.comparison import Arms, Comparison, Done, arm, training_success
from integration_tests.study.design import Claim, Result

START = "start, cloned"


def solved(result: Result) -> float:
    """Return the share of a chain's five subtasks that is solved in a row, on average."""
    return float(np.mean(result["after"]["chains"])) / CHAIN_LENGTH


def at_least(num: int, result: Result) -> float:
    """Return the share of chains of which so many subtasks are solved."""
    return float(np.mean(np.array(result["after"]["chains"]) >= num))


def look_into(found: Mapping[str, Done]) -> str:
    """Say how many chains go on after their first subtask."""
    results = [result for group in found.values() for result in group.values()]
    chains = np.concatenate([result["after"]["chains"] for result in results])
    return (
        f"of {len(chains)} chains, of all arms, {(chains >= 1).sum()} solve the first subtask and "
        f"{(chains >= 2).sum()} the second, which was trained as well. Training episodes all begin "
        "with the arm at home, where the second does not."
    )


JUDGE = Comparison(
    arms=Arms(
        {
            START: arm("calvin", shaping="none"),
            "RFTF": arm("calvin", shaping="dense"),
            "RFTF, sparse": arm("calvin", shaping="sparse"),
        }
    ),
    scores={
        "solved of five %": solved,
        **{f"L{num} %": partial(at_least, num) for num in (1, 2, 3)},
        "mean training success %": training_success,
    },
    ours="RFTF",
    others=[START],
    by="solved of five %",
    told=[("RFTF", "RFTF, sparse"), ("RFTF, sparse", START)],
    look_into=look_into,
)

CALVIN = Claim(
    name="calvin",
    title="Chains of instructions in CALVIN's scene D",
    source="RFTF, table 2 (adaptation)",
    hypothesis="Fine-tuning on single instructions lengthens the chains that a policy solves.",
    setting="Scene D, static camera of 200 pixels, six subtasks without blocks, cloned from "
    "scripted motions; evaluated on the first official chains that begin with two of them, 360 "
    "steps per instruction. The instructions are those of the challenge in training, too. Needs "
    "CALVIN_ROOT.",
    runs=JUDGE.arms.runs,
    judge=JUDGE,
)
