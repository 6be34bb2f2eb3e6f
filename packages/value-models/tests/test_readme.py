import re
import shlex
import sys
import types
from pathlib import Path

import pytest

from value_models.cli import main
from value_models.testing import SyntheticEpisodes

README = Path(__file__).parents[1] / "README.md"


def test_example_runs_as_printed(capsys):
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert len(example.splitlines()) <= 15
    exec(compile(example, str(README), "exec"), {})
    out = capsys.readouterr().out
    assert "linear time" in out
    assert re.search(r"tensor\(\[0\.\d+, 0\.\d+, 0\.\d+\]\)", out)


class Recording(SyntheticEpisodes):
    """Stands in for the reader of an optional sibling; there is one dataset."""

    def __init__(self, root: str, camera: str) -> None:
        if root != "my_dataset":
            raise FileNotFoundError(f"No dataset at {root!r}.")
        super().__init__(num=4)


# Lightning's own calls into jsonargparse, and its remark that each run has a folder of its own.
@pytest.mark.filterwarnings("ignore:(?s).*JsonargparseDeprecationWarning")
@pytest.mark.filterwarnings("ignore:(?s).*was deprecated in v4")
@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_commands_run_as_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "recording", types.ModuleType("recording"))
    monkeypatch.setattr(Recording, "__module__", "recording")
    sys.modules["recording"].Recording = Recording
    text = README.read_text().replace("\\\n", " ")
    commands = [shlex.split(line, comments=True) for line in text.splitlines()
                if line.startswith("value-models ")]  # fmt: skip
    config, *others = commands
    assert config[1:] == ["config", "feat2go", ">", "feat2go.yaml"]
    monkeypatch.setattr(sys, "argv", config[:3])
    main()
    stock = capsys.readouterr().out
    for old, new in {
        "progress_labels.episodes.LabeledEpisodes": "recording.Recording",
        "progress_labels.encoders.load_encoder": "value_models.testing.PixelEncoder",
        "name: offline": "grid: 4",
        "hand_camera": "hand",
        "max_epochs: 25": "max_epochs: 1\n  enable_progress_bar: false",
    }.items():
        assert old in stock
        stock = stock.replace(old, new)
    Path("feat2go.yaml").write_text(stock)
    written = {"fit": "report.html", "predict": "predictions.csv", "report": "report.html"}
    assert [command[1] for command in others] == list(written)
    for command in others:
        monkeypatch.setattr(sys, "argv", [*command])
        main()
        Path("runs/feat2go", written[command[1]]).unlink()  # an error if it was not written
