"""The README's numbers are those of the result files in the repository."""

import json
from pathlib import Path

import pytest

from integration_tests.study.__main__ import PAGE
from integration_tests.study.design import PROFILES
from integration_tests.study.records import Records
from integration_tests.study.report import VERDICTS, judge_all, verdict_section

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
RESULTS = ROOT / "integration_tests" / "results"
QUICKSTART = json.loads((RESULTS / "quickstart-seed0.json").read_text())
THROUGHPUT = json.loads((RESULTS / "throughput.json").read_text())


def row(*cells):
    """A table's row."""
    return "| " + " | ".join(cells) + " |"


def cell(score, *, bold=False):
    """A success rate with its interval."""
    rate = f"{100 * score['rate']:.1f} %"
    rate = f"**{rate}**" if bold else rate
    return f"{rate} [{100 * score['low']:.1f}, {100 * score['high']:.1f}]"


@pytest.mark.parametrize(
    ("policy", "label"),
    [
        ("before", "cloned from 30 demonstrations"),
        ("feat2go", "+ 54 updates of PPO, Feat2Go's reward"),
    ],
)
def test_success_of_the_quickstart(policy, label):
    scores = QUICKSTART["stages"]["evaluate"]
    modes = [scores[f"{policy}, {mode}"]["success_once"] for mode in ("sampled", "greedy")]
    assert row(label, *(cell(score, bold=policy == "feat2go") for score in modes)) in README


def test_value_model_of_the_quickstart():
    scores = QUICKSTART["stages"]["value"]["scores"]
    for key in (
        "order_accuracy",
        "rank_correlation",
        "mean_absolute_error",
        "final_progress_auroc",
    ):
        ours, clock = (scores[name][key] for name in ("model", "linear time"))
        assert f"| {ours:.3f} | {clock:.3f} |" in README, key


def test_time_of_the_quickstart():
    minutes = sum(QUICKSTART["seconds"].values()) / 60
    assert f"took {minutes:.0f} minutes" in " ".join(README.split())


def test_speed_of_the_simulator():
    for scores in THROUGHPUT["table"].values():
        speed, ratio = scores["steps_per_second"], scores["of_stock"]
        if ratio < 100:  # not the policy without a simulator
            assert f"| {speed:.1f} | {ratio:.1f} |" in README


def test_verdicts_of_the_study():
    findings = judge_all(PROFILES["full"], Records((ROOT / PAGE).parent, "full"))
    assert f"{VERDICTS}{verdict_section(findings, PAGE)}{VERDICTS}" in README


def test_results_say_how_they_were_made():
    for result in (QUICKSTART, THROUGHPUT):
        assert result["command"].startswith("nox -s ")
        assert {"mani_skill", "torch"} <= set(result["versions"])
        assert result["date"]
    assert QUICKSTART["seed"] == 0
