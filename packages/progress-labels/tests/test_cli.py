import subprocess
import sys

import pytest

from progress_labels import cli
from progress_labels.labels import read_labels
from progress_labels.testing import make_dataset


@pytest.fixture
def root(tmp_path):
    make_dataset(tmp_path / "set", num_episodes=2, failures=1)
    return tmp_path / "set"


def _run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["progress-labels", *map(str, arguments)])
    cli.main()


def test_label_then_plot(root, tmp_path, monkeypatch, capsys):
    _run(monkeypatch, "label", root, "--camera", "base", "--compat", "sarm")
    printed = capsys.readouterr().out
    assert "labelled   1 episodes with offline@" in printed
    assert "unknown    1 failed episodes" in printed
    assert str(root / "feat2go_progress.parquet") in printed
    assert (root / "sarm_progress.parquet").exists()
    before = read_labels(root / "feat2go_progress.parquet")[0]
    _run(monkeypatch, "label", root, "--overwrite", "--max-stages", "1")
    after = read_labels(root / "feat2go_progress.parquet")[0]
    assert (before.num_stages, after.num_stages) != (1, 1)
    assert after.num_stages == 1
    _run(monkeypatch, "plot", root, "--episode", "0", "--out", tmp_path / "e.png")
    assert (tmp_path / "e.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["label", "nowhere"], r"No .*info.json"),
        (["label", "{root}", "--camera", "top"], r"No camera 'top'"),
        (["label", "{root}", "--encoder", "./nothing"], r"No folder './nothing'"),
        (["plot", "{root}", "--out", "x.png"], r"No label file .*label DATASET"),
        (["pretrain", "{root}", "--out", "{root}"], r"exists; remove it"),
        (["pretrain", "{root}/meta", "--out", "x"], r"neither meta/info.json nor mp4"),
    ],
)
def test_user_errors_are_one_line_and_a_status(root, monkeypatch, arguments, message):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    arguments = [argument.format(root=root) for argument in arguments]
    with pytest.raises(SystemExit, match=message) as stopped:
        _run(monkeypatch, *arguments)
    assert stopped.value.code.startswith("progress-labels: ")
    assert "\n" not in stopped.value.code


def test_bad_settings_are_named(root, monkeypatch, capsys):
    with pytest.raises(SystemExit, match="2"):
        _run(monkeypatch, "label", root, "--window", "1")
    assert "Expected `window` ≥ 2, got 1" in capsys.readouterr().err


def test_import_and_help_leave_heavy_libraries_alone():
    code = (
        "import sys, progress_labels, progress_labels.cli;"
        "print(*{'lightning', 'transformers', 'matplotlib'} & set(sys.modules))"
    )
    done = subprocess.run(  # a fresh interpreter: this one has imported everything
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.stderr) == ("", "")


def test_shards_from_the_shell_merge_into_one_file(root, monkeypatch, capsys):
    for shard in ("0/2", "1/2"):
        _run(monkeypatch, "label", root, "--shard", shard, "--cache", root.parent / "cache")
    assert not (root / "feat2go_progress.parquet").exists()
    _run(monkeypatch, "merge", root, "--compat", "sarm")
    assert "labelled   1 episodes" in capsys.readouterr().out
    assert sorted(read_labels(root / "sarm_progress.parquet")) == [0, 1]
    with pytest.raises(SystemExit, match=r"`shard` as i/n, for example 0/4, got 'two'"):
        _run(monkeypatch, "label", root, "--shard", "two")


def test_an_episode_without_labels_is_a_status_and_the_others_are_labelled(
    tmp_path, monkeypatch, capsys
):
    root, short = tmp_path / "long", tmp_path / "short"
    make_dataset(root, num_episodes=2)
    make_dataset(short, num_episodes=1)
    video = "videos/observation.images.base/chunk-000/file-000.mp4"
    (root / video).write_bytes((short / video).read_bytes())
    with pytest.raises(SystemExit, match="1 episodes could not be labelled"):
        _run(monkeypatch, "label", root)
    assert "problem    episode 1: " in capsys.readouterr().out
    assert read_labels(root / "feat2go_progress.parquet")[0].num_stages > 0
    with pytest.raises(SystemExit, match="1"):
        _run(monkeypatch, "doctor", root)
    assert "FAIL  episode 1" in capsys.readouterr().out
    _run(monkeypatch, "report", root, "--out", tmp_path / "report")
    assert "of 2 episodes" in capsys.readouterr().out
    assert (tmp_path / "report" / "index.html").exists()


def test_one_video_with_a_picture_of_its_goal(root, tmp_path, monkeypatch, capsys):
    video = tmp_path / "video.mp4"
    video.write_bytes((root / "videos/observation.images.base/chunk-000/file-000.mp4").read_bytes())
    _run(monkeypatch, "label", video, "--goal", video)
    assert "labelled   1 episodes" in capsys.readouterr().out
    labels = read_labels(tmp_path / "video.progress.parquet")
    assert labels[0].progress[0] == labels[0].progress.max()  # the goal is its first frame
    _run(monkeypatch, "label", tmp_path / "set" / "videos")
    assert (tmp_path / "set" / "videos" / "feat2go_progress.parquet").exists()
    for option in (["--camera", "base"], ["--failures", "reference"], ["--common-stages"]):
        with pytest.raises(SystemExit, match=r"Expected .*videos"):
            _run(monkeypatch, "label", video, "--overwrite", *option)
