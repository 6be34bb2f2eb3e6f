"""The whole job on the real simulator, small: every stage of the quickstart."""

import json
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from integration_tests.pipelines import quickstart

pytestmark = [pytest.mark.simulator, pytest.mark.slow]
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One finished run."""
    out = tmp_path_factory.mktemp("quickstart")
    assert quickstart.main(["--profile", "ci", "--out", str(out)]) == 0
    return out


def outcomes(out):
    """Every evaluated episode of a run, by policy and mode."""
    results = (out / "6-evaluate").glob("*-*.json")
    return {path.stem: json.loads(path.read_text())["episodes"] for path in results}


def test_recorded_dataset_passes_the_doctor_of_lerobot(run):
    command = [sys.executable, "-m", "lerobot_doctor.cli", "check", str(run / "1-record/dataset")]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout
    assert "FAIL" not in finished.stdout.replace("0 FAIL", "")


def test_labels_cover_the_dataset(run):
    dataset = run / "1-record/dataset"
    labels = pq.read_table(dataset / "feat2go_progress.parquet").to_pydict()
    info = json.loads((dataset / "meta/info.json").read_text())
    assert labels["index"] == list(range(info["total_frames"]))
    known = [value for value in labels["progress"] if value == value]  # NaN marks failures
    assert 0 < len(known) < info["total_frames"]
    assert min(known) >= 0.0
    assert max(known) == 1.0


def test_report_holds_its_pictures(run):
    page = (run / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 4
    assert "data:video/mp4;base64," in page
    assert "held-out episodes" in page


def test_result_says_how_it_was_made_and_counts_the_episodes(run):
    result = json.loads((run / "result.json").read_text())
    assert result["command"] == "nox -s quickstart -- --profile ci --seed 0"
    assert {"torch", "mani_skill", "vla-rl"} <= set(result["versions"])
    for name, rows in outcomes(run).items():
        score = result["stages"]["evaluate"][name.replace("-", ", ")]["success_once"]
        assert score["count"] == sum(row["success_once"] for row in rows)
        assert score["total"] == len(rows)


def test_evaluation_is_held_out_and_complete(run):
    episodes = outcomes(run)
    assert set(episodes) == {
        f"{policy}-{mode}" for policy in ("before", "feat2go") for mode in ("sampled", "greedy")
    }
    info = json.loads((run / "1-record/stage.json").read_text())["settings"]
    for rows in episodes.values():
        seeds = {row["seed"] for row in rows}
        assert len(seeds) == len(rows) == 8
        assert min(seeds) > info["seed"] + info["num_episodes"]
        assert all(row["success_at_end"] <= row["success_once"] for row in rows)


def test_second_start_reuses_every_stage(run, capsys):
    results = [*run.glob("*/done.json"), run / "result.json"]
    before = {path: path.stat().st_mtime_ns for path in results}
    assert quickstart.main(["--profile", "ci", "--out", str(run)]) == 0
    assert capsys.readouterr().out.count(": reused") == len(before) - 1 == 6
    assert {path: path.stat().st_mtime_ns for path in results} == before


def test_a_run_stopped_between_evaluations_continues_to_the_same_figures(run, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(run, out)
    (out / "6-evaluate/done.json").unlink()
    (out / "6-evaluate/feat2go-greedy.json").unlink()
    (out / "result.json").write_text("{}")
    assert quickstart.main(["--profile", "ci", "--out", str(out)]) == 0
    assert outcomes(out) == outcomes(run)
    assert json.loads((out / "result.json").read_text())["seed"] == 0


def test_interrupted_run_continues_to_the_same_figures(run, tmp_path):
    options = ["--profile", "ci", "--out", str(tmp_path)]
    command = [sys.executable, "-m", "integration_tests.pipelines.quickstart", *options]
    # A shell that runs the tests in the background makes its children deaf to Ctrl-C.
    listen = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, cwd=ROOT, preexec_fn=listen)
    checkpoint = tmp_path / "5-finetune-feat2go/fit/last.ckpt"
    deadline = time.monotonic() + 600
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert not (tmp_path / "5-finetune-feat2go/done.json").exists()
    assert quickstart.main(options) == 0
    assert outcomes(tmp_path) == outcomes(run)
