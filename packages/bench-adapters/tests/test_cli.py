import json
import subprocess
import sys
from pathlib import Path

import pytest


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "bench_adapters", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--help"], ["doctor", "list", "record", "convert", "evaluate"]),
        (["record", "--help"], ["--episodes", "--noise", "--failure-fraction", "--set KEY=VALUE"]),
        (["evaluate", "--help"], ["--policy", "module:factory", "--num-workers", "--out"]),
        (["doctor", "--help"], ["--fix"]),
        (["convert", "--help"], ["maniskill,calvin,robotwin", "--max-episodes", "--set KEY=VALUE"]),
    ],
)
def test_help(arguments, words):
    done = run(*arguments)
    assert done.returncode == 0
    assert [word for word in words if word not in done.stdout] == []


def test_help_imports_no_simulator():
    code = (
        "import sys; sys.argv = ['bench-adapters', '--help']\n"
        "from bench_adapters.cli import main\n"
        "try: main()\n"
        "except SystemExit: print(sorted({'torch', 'sapien', 'av', 'pyarrow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_record_and_evaluate(tmp_path):
    root, out = tmp_path / "data", tmp_path / "result.json"
    done = run("record", "toy:reach", str(root), "--episodes", "3", "--set", "image_size=64")
    assert done.returncode == 0, done.stderr
    assert f"{root}: 3 episodes (3 new)" in done.stdout
    info = json.loads((root / "meta/info.json").read_text())
    assert info["features"]["observation.images.top"]["shape"] == [64, 64, 3]
    done = run(
        "evaluate",
        "toy:reach",
        "--policy",
        "bench_adapters.testing:random_policy",
        "--out",
        str(out),
        "--episodes",
        "10",
        "--num-envs",
        "4",
        "--seed",
        "7",
        "--videos",
        "2",
    )
    assert done.returncode == 0, done.stderr
    films = sorted(path.name for path in (tmp_path / "result.json.videos").iterdir())
    assert films == ["episode_000000_seed_7.mp4", "episode_000001_seed_8.mp4"]
    result = json.loads(out.read_text())
    assert [episode["seed"] for episode in result["episodes"]] == list(range(7, 17))
    assert f"{result['success_once']['count']} of 10" in done.stdout


def test_episodes_that_could_not_be_run_are_said(tmp_path, monkeypatch):
    """Seed 1 of a benchmark of somebody else's fails each time."""
    info = tmp_path / "faulty-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: faulty\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[bench_adapters.envs]\nfaulty = faulty:make\n")
    (tmp_path / "faulty.py").write_text(
        "from bench_adapters.testing import FaultyEnvironment\n"
        "def make(name): return FaultyEnvironment(fault='raise')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    out = str(tmp_path / "result.json")
    command = ["evaluate", "faulty:one", *RANDOM, "--out", out, "--num-envs", "2"]
    done = run(*command, "--episodes", "4")
    assert done.returncode == 1
    assert "not run: episode 1 of seed 1: environment 1 failed" in done.stdout
    assert [error["seed"] for error in json.loads(Path(out).read_text())["errors"]] == [1]


RANDOM = ["--policy", "bench_adapters.testing:random_policy"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["record", "gym:x", "OUT", "--episodes", "1"], "unknown environment family 'gym'"),
        (["record", "toy:push", "OUT", "--episodes", "1"], "unknown toy task 'push'"),
        (["record", "toy:reach", "/proc/x/y", "--episodes", "1"], "cannot write to /proc/x/y"),
        (
            ["record", "toy:reach", "OUT", "--episodes", "1", "--set", "size"],
            "key=value, got 'size'",
        ),
        (["record", "toy:reach", "OUT", "--episodes", "1", "--set", "size=1"], "argument 'size'"),
        (
            ["evaluate", "toy:reach", "--policy", "json", "--out", "OUT"],
            "module:factory, got 'json'",
        ),
        (
            ["evaluate", "toy:reach", "--policy", "json:nope", "--out", "OUT"],
            "json:nope` cannot be",
        ),
        (["evaluate", "toy:reach", *RANDOM, "--out", "OUT", "--episodes", "0"], "`episodes` ≥ 1"),
        (["evaluate", "toy:reach", *RANDOM, "--out", "OUT", "--num-workers", "9"], "got 9"),
        (["convert", "calvin", "/nowhere", "OUT", "--set", "speed=2"], "argument 'speed'"),
        (["convert", "calvin", "/nowhere", "OUT"], "/nowhere/lang_annotations"),
        (["convert", "robotwin", "/nowhere", "OUT"], "/nowhere"),
        (["convert", "maniskill", "/nowhere/x.h5", "OUT"], "/nowhere/x.json"),
    ],
)
def test_a_users_error_is_one_line(tmp_path, arguments, message):
    out = tmp_path / "out"
    done = run(*[str(out) if argument == "OUT" else argument for argument in arguments])
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not out.exists()


def test_doctor_reports_every_finding():
    done = run("doctor")
    lines = [line for line in done.stdout.splitlines() if line[:3] in ("ok ", "BAD")]
    for name in ("python", "torchvision", "simulator", "mesa", "vulkan device", "libraries"):
        assert sum(line[5:].startswith(name) for line in lines) == 1, name
    assert done.returncode == int(any(line.startswith("BAD") for line in lines))
