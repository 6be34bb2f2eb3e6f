"""Stages are done once, continued when stopped, and never mistaken for another run's."""

import os
import signal
import subprocess
import sys

import pytest

from integration_tests.pipelines import quickstart
from integration_tests.pipelines.stages import StageError, Stages, alone


def test_finished_stages_are_reused(tmp_path):
    calls = []

    def work(folder):
        calls.append(folder)
        return {"calls": len(calls)}

    for _ in range(2):
        assert Stages(tmp_path).run("count", {"n": 1}, work) == {"calls": 1}
    assert len(calls) == 1


def test_an_interrupted_stage_is_called_again_with_what_it_left(tmp_path):
    def work(folder):
        if not (folder / "half").exists():
            (folder / "half").touch()
            raise KeyboardInterrupt
        return {"continued": True}

    with pytest.raises(KeyboardInterrupt):
        Stages(tmp_path).run("work", {}, work)
    assert Stages(tmp_path).run("work", {}, work) == {"continued": True}


@pytest.mark.parametrize("changed", ["first", "second"])
def test_other_settings_are_refused_and_nothing_is_overwritten(tmp_path, changed):
    def both(settings):
        stages = Stages(tmp_path)
        for name in ("first", "second"):
            stages.run(name, settings[name], lambda folder: {"name": folder.name})

    both({"first": 1, "second": 1})
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.json")}
    with pytest.raises(StageError, match="made with other settings"):
        both({"first": 1, "second": 1, changed: 2})
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.json")} == before


def test_a_truncated_record_names_the_file(tmp_path):
    Stages(tmp_path).run("work", {}, lambda folder: {})
    (tmp_path / "1-work" / "done.json").write_text("{")
    with pytest.raises(StageError, match=r"done\.json.*remove its folder"):
        Stages(tmp_path).run("work", {}, lambda folder: {})


def test_an_unusable_output_folder_is_one_line_and_exit_status_1(tmp_path, capsys):
    (tmp_path / "file").touch()
    status = quickstart.main(["--profile", "ci", "--out", str(tmp_path / "file" / "run")])
    captured = capsys.readouterr()
    assert status == 1
    assert captured.err.startswith("error: cannot write to the output folder")
    assert captured.err.count(os.linesep) == 1


STOPPED = """
import sys, time
from integration_tests.pipelines.stages import interrupt_on_sigterm
interrupt_on_sigterm()
try:
    print("ready", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    sys.exit(130)
"""


def test_sigterm_stops_as_ctrl_c_does():
    with subprocess.Popen([sys.executable, "-c", STOPPED], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 130


def test_two_runs_do_not_share_a_folder(tmp_path, capsys):
    with alone(tmp_path / ".lock", wait=False):
        assert quickstart.main(["--profile", "ci", "--out", str(tmp_path)]) == 1
    assert f"another process works in '{tmp_path}'" in capsys.readouterr().err
    with alone(tmp_path / ".lock", wait=False):
        pass
