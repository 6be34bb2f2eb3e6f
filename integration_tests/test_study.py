"""The study's arithmetic and pages; the runs themselves are those of the packages."""

import json
import os
from functools import partial

import numpy as np
import pytest
import torch

from bench_adapters.functional.put_on_plate import CATEGORIES
from integration_tests.study import __main__ as command
from integration_tests.study.ablation import MODELS
from integration_tests.study.claims import CLAIMS
from integration_tests.study.claims.degraded import DEGRADED
from integration_tests.study.claims.failures import FAILURES
from integration_tests.study.design import PROFILES, make_run
from integration_tests.study.lab import Constant, Shuffled, Target
from integration_tests.study.plates import run_names
from integration_tests.study.records import Records
from integration_tests.study.report import write_report
from integration_tests.study.runs import mean_weights
from integration_tests.study.shifts import SHIFTS
from integration_tests.study.statistics import band_of_mean, interval_of_mean, verdict_of, weakest

PROFILE = PROFILES["full"]


def result_of(run, rng):
    """A made-up result in which shaping and Feat2Go's reward help."""
    if run.kind == "ranking":
        shown = [{"event": 2, "values": [0.1, 0.5, 0.9, 0.4]}]
        return {"order_accuracy": [0.95, 0.96], "drops": 20, "fell": 19, "shown": shown}
    if run.kind == "ablation":
        errors = 0.01 * np.arange(1, len(MODELS) + 1) + rng.uniform(0.0, 0.001, size=len(MODELS))
        return {name: {"mse_macro": x} for name, x in zip(MODELS, errors.tolist(), strict=True)}
    if run.kind == "failures":
        distances = rng.uniform(0.02, 0.2, size=60)
        values = (0.9 - distances + rng.normal(0.0, 0.01, size=60)).tolist()
        ends = [
            {"value": value, "distance": distance, "held": distance < 0.1}
            for value, distance in zip(values, distances.tolist(), strict=True)
        ]
        return {"successes": 36, "episodes": 96, "failures": ends}
    options = dict(run.options)
    good = options.get("reward", options.get("shaping")) in (
        "feat2go",
        "dense",
        "potential",
        "sarm2",
    )
    good |= options.get("method") == "rabc"
    good &= options.get("control", "none") == "none"
    rate = (0.4 if run.kind == "start" else 0.7 if good else 0.5) + rng.uniform(-0.04, 0.04)
    score = {"successes": round(100 * rate), "episodes": 100}
    curve = [
        {
            "episodes": 96 * (i + 1),
            "episode_length": 40.0,
            "success_once": rate * i / 10,
            "success_at_end": rate * i / 10,
            "kept_groups_share": rate,
            "reward_shaping": 0.2,
        }
        for i in range(10)
    ]
    if run.kind == "calvin":
        chains = rng.integers(0, 2, size=30) + 2 * good
        return {"curve": curve, "after": {"chains": chains.tolist()}}
    if run.kind == "plates":
        runs = [name for category in CATEGORIES for name in run_names(category)]
        judged = {"auroc": 0.7, "success": 0.8, "failure": 0.6, "episodes": 4}
        return {"curve": curve, "after": dict.fromkeys(runs, score), "value_model": judged}
    after = dict.fromkeys(["in_distribution", *SHIFTS], score)
    return {"curve": curve, "after": after, "glimpses": {"3": after, "7": after}}


@pytest.fixture
def records(tmp_path):
    """Results of every run."""
    rng = np.random.default_rng(0)
    records = Records(tmp_path / "results", "full")
    for claim in CLAIMS:
        for run in claim.runs(PROFILE):
            if run.name not in records.results():
                records.add(run, partial(result_of, run, rng))
    return records


@pytest.mark.parametrize(
    ("interval", "size", "least", "most"),
    [
        (interval_of_mean, 3, 0.93, 0.97),
        (interval_of_mean, 5, 0.93, 0.97),
        (band_of_mean, 20, 0.88, 0.96),  # the percentile bootstrap is a little too narrow
        (band_of_mean, 3, 0.65, 0.85),  # and of few seeds much too narrow for a verdict
    ],
)
def test_intervals_cover_a_mean_as_often_as_is_said(interval, size, least, most):
    rng, num = np.random.default_rng(1), 200 if interval is band_of_mean else 2000
    covered = sum(
        low <= 0.0 <= high for _, low, high in (interval(rng.normal(size=size)) for _ in range(num))
    )
    assert least <= covered / num <= most


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ([], "undecided"),
        ([0.2, 0.3], "undecided"),
        ([0.2, 0.3, 0.25], "holds"),
        ([0.2, 0.2, 0.2], "holds in direction"),  # of counts, which have no interval then
        ([0.2, 0.3, 0.1], "holds in direction"),
        ([0.4, -0.2, 0.1], "undecided"),  # 0.1 with a standard error of 0.17
        ([0.2, -0.3, -0.1], "undecided"),
        ([-0.2, -0.3, -0.25], "does not hold"),
    ],
)
def test_verdicts(differences, verdict):
    assert verdict_of(differences) == verdict


def test_the_weakest_of_several_differences_decides():
    clear, wide, one = [0.2, 0.3, 0.25], [0.9, -0.5, 0.4], [0.9]
    assert weakest({"a": clear, "b": clear}) == ("a", "holds")
    assert weakest({"a": clear, "b": wide}) == ("b", "undecided")
    assert weakest({"a": one, "b": clear}) == ("a", "undecided")
    assert weakest({"a": clear, "b": []}) == ("b", "undecided")


def test_only_seeds_that_both_have_are_compared():
    """Success is the seed over ten, and a tenth more with RA-BC; seeds differ by the share."""
    seeds = {0.3: (0, 1, 2, 3), 0.6: (1, 2, 3, 4)}
    results = {
        f"cloning-{method}-{share}-seed{seed}": {
            "after": {"in_distribution": {"successes": seed + (method == "rabc"), "episodes": 10}}
        }
        for share, some in seeds.items()
        for seed in some
        for method in ("bc", "rabc")
    }
    finding = DEGRADED.judge(PROFILE, results)
    assert finding.headline == "+10.0 points at 30 and 60 %; n = 3"


def test_other_seeds_need_a_folder_of_their_own(tmp_path, capsys):
    with pytest.raises(SystemExit):
        command.main(["failures", "--seeds", "40", "--report-only"])
    assert "for others give --out" in capsys.readouterr().err
    out = ["--out", str(tmp_path)]
    Records(tmp_path / "results", "full").add(
        make_run("failures", 40), partial(dict, failures=[], successes=0, episodes=0)
    )
    assert command.main(["failures", "--seeds", "40", "--report-only", *out]) == 0
    assert "failures   undecided" in capsys.readouterr().out


def test_every_claim_is_judged_by_its_results(records, tmp_path):
    verdicts = {claim.name: claim.judge(PROFILE, records.results()).verdict for claim in CLAIMS}
    assert verdicts == dict.fromkeys(verdicts, "holds")
    write_report(PROFILE, records, tmp_path)
    page, text = (tmp_path / "study.html").read_text(), (tmp_path / "README.md").read_text()
    assert page.count("data:image/png") == len(CLAIMS)
    for claim in CLAIMS:
        assert claim.hypothesis in text
        assert (tmp_path / f"{claim.name}.png").exists()


def test_without_results_nothing_is_claimed(tmp_path):
    records = Records(tmp_path / "none", "full")
    assert write_report(PROFILE, records, tmp_path).count("not run") == len(CLAIMS)


def test_a_run_alone_decides_nothing(records, tmp_path):
    for claim in CLAIMS:
        alone = Records(tmp_path / claim.name, "full")
        run = claim.runs(PROFILE)[-1]
        alone.add(run, partial(records.results().get, run.name))
        lines = write_report(PROFILE, alone, tmp_path / claim.name).splitlines()
        assert next(x for x in lines if x.startswith(claim.name)).split()[1] == "undecided"


def test_without_failures_their_values_say_nothing():
    finding = FAILURES.judge(PROFILE, {f"failures-seed{i}": {"failures": []} for i in range(3)})
    assert finding.verdict == "undecided"
    assert finding.rows[0] == ["clone, picture", "3", "0", "–", "–", "–", "–"]


def test_a_result_says_how_it_was_made(records):
    path = records.folder / "ppo-feat2go-seed0.json"
    content = json.loads(path.read_text())
    assert content["seed"] == 0
    assert content["options"] == {"reward": "feat2go"}
    assert {"torch", "vla-rl"} <= set(content["versions"])
    assert content["command"].startswith("nox -s study")


def test_results_of_another_profile_are_refused(tmp_path, capsys):
    Records(tmp_path / "results", "ci").add(make_run("start", 0), dict)
    assert command.main(["failures", "--report-only", "--out", str(tmp_path)]) == 1
    assert "is of the profile 'ci', not of 'full'" in capsys.readouterr().err


def test_a_run_of_other_seeds_says_that_it_needs_a_folder(tmp_path):
    records = Records(tmp_path, "full")
    for seed in (0, 40):
        records.add(make_run("start", seed), dict)
    first, other = (content["command"] for content in records.files().values())
    assert first == "nox -s study -- --profile full --seeds 0"
    assert other == "nox -s study -- --profile full --seeds 40 --out FOLDER"


def test_names_of_runs_differ():
    runs = {run for claim in CLAIMS for run in claim.runs(PROFILE)}
    assert len({run.name for run in runs}) == len(runs)
    assert make_run("ppo", 3, reward="sparse").name == "ppo-sparse-seed3"


def test_shards_share_out_every_run_once():
    runs = {run for claim in CLAIMS for run in claim.runs(PROFILE)}
    shards = [command.in_shard(runs, command._shard(f"{i}/3")) for i in range(3)]
    assert sorted(run.name for shard in shards for run in shard) == sorted(run.name for run in runs)
    assert max(map(len, shards)) - min(map(len, shards)) <= 1
    with pytest.raises(SystemExit):
        command.main(["--shard", "3/3"])


def test_weights_of_successes_their_ends_and_failures():
    weights = torch.tensor([1.0, 1.0, 0.4, 1.0, 0.0, 0.5, 0.1, 0.3])
    mean = mean_weights(weights, [3, 3, 2], 1)
    expected = {"success": 3.9 / 6, "end of success": 0.45, "failure": 0.2}
    assert mean == pytest.approx(expected)
    assert set(mean_weights(weights, [3, 3, 2], 0)) == {"success", "end of success"}


def test_targets_that_count_time():
    episodes = [
        {"success": True, "progress": np.zeros(5)},
        {"success": True, "progress": np.zeros(3)},
        {"success": False, "progress": np.full(4, np.nan)},
    ]
    fraction, to_go = Target(episodes, "time_fraction"), Target(episodes, "steps_to_go")
    np.testing.assert_allclose(fraction[1]["progress"], [0.0, 0.5, 1.0])
    np.testing.assert_allclose(to_go[1]["progress"], [0.5, 0.75, 1.0])
    np.testing.assert_allclose(to_go[0]["progress"], [0.0, 0.25, 0.5, 0.75, 1.0])
    assert np.isnan(to_go[2]["progress"]).all()


def test_controls_of_the_reward():
    obs = {"task": ["a"] * 3}
    assert Constant(0.25).progress(obs).tolist() == [0.25] * 3

    class Numbers(Constant):
        def progress(self, obs):
            return super().progress(obs).cumsum(0)

    shuffled = Shuffled(Numbers(1.0)).progress(obs).tolist()
    assert sorted(shuffled) == [1.0, 2.0, 3.0]
    assert all(given != own for given, own in zip(shuffled, [1.0, 2.0, 3.0], strict=True))


@pytest.mark.skipif(
    "CALVIN_ROOT" not in os.environ, reason="CALVIN_ROOT names no clone of mees/calvin"
)
def test_calvin_runs_through(tmp_path):
    assert command.main(["calvin", "--profile", "ci", "--out", str(tmp_path)]) == 0
    results = Records(tmp_path / "results", "ci").results()
    assert len(results) == 3
    assert all(len(result["after"]["chains"]) == 2 for result in results.values())
    assert len(results["calvin-dense-seed0"]["curve"]) == 1


@pytest.mark.skipif(
    "PUT_ON_PLATE_ASSETS" not in os.environ, reason="PUT_ON_PLATE_ASSETS names no assets"
)
def test_the_suites_run_through(tmp_path):
    assert command.main(["suites", "--profile", "ci", "--out", str(tmp_path)]) == 0
    results = Records(tmp_path / "results", "ci").results()
    assert set(results) == {"plates-none-seed0", "plates-feat2go-seed0"}
    assert all(len(result["after"]) == 16 for result in results.values())
    assert len(results["plates-feat2go-seed0"]["curve"]) == 1
    assert results["plates-none-seed0"]["value_model"]["episodes"] == 2


@pytest.mark.parametrize(
    ("claim", "variable", "message"),
    [
        ("calvin", "CALVIN_ROOT", "calvin-dense-seed0 is left out: CALVIN_ROOT is not set"),
        ("suites", "PUT_ON_PLATE_ASSETS", "plates-feat2go-seed0 is left out: the 25-object suites"),
    ],
)
def test_what_is_not_installed_is_left_out(claim, variable, message, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv(variable, raising=False)
    assert command.main([claim, "--profile", "ci", "--out", str(tmp_path)]) == 0
    assert message in capsys.readouterr().out
    assert Records(tmp_path / "results", "ci").results() == {}
