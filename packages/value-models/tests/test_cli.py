import json
import subprocess
import sys

import pytest
import torch
from torch.nn.utils import parameters_to_vector

from value_models import __version__
from value_models.cli import main
from value_models.progress_model import DistributionalProgressModel
from value_models.stock import STOCK
from value_models.window_model import RewindRegressor

# Lightning's own calls into jsonargparse, and its remarks on folders that a test fills on purpose.
pytestmark = [
    pytest.mark.filterwarnings("ignore:(?s).*JsonargparseDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:(?s).*was deprecated in v4"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]

DATA = """
data:
  camera: hand
  batch_size: 64
  progress_bar: false
  episodes:
    class_path: value_models.testing.SyntheticEpisodes
    init_args: {num: 6, num_failures: 2}
  encoder:
    class_path: value_models.testing.PixelEncoder
"""
CONFIG = f"""{DATA}
model:
  class_path: value_models.module.ProgressModule
  init_args: {{hidden_dim: 16}}
"""

# The stock configs name objects of an optional sibling package.
STAND_INS = {
    "progress_labels.episodes.LabeledEpisodes": "value_models.testing.SyntheticEpisodes",
    "progress_labels.encoders.load_encoder": "value_models.testing.PixelEncoder",
    "name: offline": "grid: 4",
    "hand_camera": "hand",
    "      root: demos\n      camera": "      num: 4\n      camera",
    "          root: demos\n": "          num: 4\n",
}


@pytest.fixture
def run(write_config, monkeypatch):
    write_config(CONFIG)

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["value-models", *args])
        main()

    return run


def test_help_names_every_command(run, capsys):
    run("--help")
    out = capsys.readouterr().out
    for command in ("fit", "validate", "test", "predict", "report", "config"):
        assert f"\n  {command} " in out
    run("--version")
    assert capsys.readouterr().out.strip() == __version__


def test_neither_help_nor_the_package_imports_lightning():
    code = (
        "import sys; sys.argv = ['value-models', '--help']\n"
        "import value_models; from value_models.cli import main; main()\n"
        "assert not {'lightning', 'torchmetrics', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_unknown_command(run):
    with pytest.raises(SystemExit, match="unknown command 'train'; choose one of fit"):
        run("train")


def test_fit_validate_predict(run, tmp_path, capsys, caplog):
    caplog.set_level("INFO", logger="lightning.pytorch")
    run("fit", "--config", "config.yaml", "--data.episodes.init_args.num", "5")
    assert "Memory: 0." in caplog.text
    model = DistributionalProgressModel.from_pretrained(tmp_path / "model")
    assert model.encoder_id == "pixel-4x4-2"
    assert model.feature_shape == (16, 24)
    run("validate", "--config", "config.yaml", "--ckpt_path", "checkpoints/last.ckpt")
    assert "val/order_accuracy" in capsys.readouterr().out
    run("predict", "--config", "config.yaml", "--ckpt_path", "last")
    header, *rows = (tmp_path / "predictions.csv").read_text().splitlines()
    assert header == "episode_index,frame_index,progress"
    cells = torch.tensor([[float(cell) for cell in row.split(",")] for row in rows])
    assert cells[:, 0].unique().tolist() == list(range(8))
    assert ((cells[:, 2] >= 0) & (cells[:, 2] <= 1)).all()


@pytest.mark.filterwarnings("default:.*no last checkpoint available")  # as outside of tests
@pytest.mark.parametrize("command", ["validate", "test", "predict", "report"])
@pytest.mark.parametrize("path", [[], ["--ckpt_path", "last"]])
def test_without_a_checkpoint_nothing_is_overwritten(run, tmp_path, command, path):
    report = "    - class_path: value_models.callbacks.ReportWriter\n"
    with (tmp_path / "config.yaml").open("a") as config:
        config.write(f"{report}      init_args: {{path: report.html}}\n")
    good = [tmp_path / "predictions.csv", tmp_path / "report.html"]
    for file in good:
        file.write_text("good")
    message = "no last checkpoint available" if path else f"`value-models {command}` got no `--ckpt"
    with pytest.raises(SystemExit, match=message):
        run(command, "--config", "config.yaml", *path)
    assert [file.read_text() for file in good] == ["good", "good"]


WINDOWS = """
  windows: {num_frames: 3, stride: 2, max_rewind: 1, include_failures: true}
model:
  class_path: value_models.MODULE.CLASS
  init_args:
    network: NETWORK
"""
NETWORKS = {
    "RankingModule": "{hidden_dim: 8}",
    "RewindModule": "{hidden_dim: 8, num_frames: 3, stride: 2}",
    "SuccessModule": "{hidden_dim: 8, num_frames: 3, stride: 2}",
    "StageModule": "{hidden_dim: 8, num_frames: 3, stride: 2, priors: {sparse: [0.3, 0.3, 0.4]}}",
    "PrimitiveModule": "{hidden_dim: 8, num_frames: 3, stride: 2}",
    "GatedModule": "{hidden_dim: 8, num_frames: 3, stride: 2, num_experts: 3, expert_dim: 8}",
}


def _window_config(name, network):
    is_stage = name in ("StageModule", "PrimitiveModule", "GatedModule")
    module = "stage_modules" if is_stage else "window_modules"
    windows = WINDOWS.replace("MODULE", module).replace("CLASS", name).replace("NETWORK", network)
    return DATA.rstrip() + windows


@pytest.mark.parametrize("name", NETWORKS)
def test_every_model_is_trained_saved_and_used(run, write_config, tmp_path, name):
    write_config(_window_config(name, NETWORKS[name]))
    run("fit", "--config", "config.yaml", "--trainer.max_epochs", "1")
    saved = json.loads((tmp_path / "model" / "config.json").read_text())
    assert saved["encoder_id"] == "pixel-4x4-2"
    run("predict", "--config", "config.yaml", "--ckpt_path", "checkpoints/last.ckpt")
    header, *rows = (tmp_path / "predictions.csv").read_text().splitlines()
    column = "primitive" if name == "PrimitiveModule" else "progress"
    assert header == f"episode_index,frame_index,{column}"
    assert len({row.split(",")[0] for row in rows}) == 8


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ("{hidden_dim: 8, num_frames: 4, stride: 2}", r"\(4, 2\), `data.windows` has \(3, 2\)"),
        ("{hidden: 8}", "`network`.*'hidden'"),
    ],
)
def test_a_network_that_does_not_fit_is_one_line(run, write_config, network, message):
    write_config(_window_config("RewindModule", network))
    with pytest.raises(SystemExit, match=message):
        run("fit", "--config", "config.yaml")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (("batch_size", "batchsize"), "batchsize"),
        (("hidden_dim", "hidden"), "'hidden' is not accepted"),
        (("num_failures", "failures"), "'failures' is not accepted"),
        (("PixelEncoder", "VoxelEncoder"), "VoxelEncoder"),
    ],
)
def test_unknown_keys_are_rejected(run, write_config, capsys, edit, message):
    write_config(CONFIG.replace(*edit))
    with pytest.raises(SystemExit):
        run("fit", "--config", "config.yaml")
    assert message in capsys.readouterr().err


def test_broken_data_is_one_line(run):
    with pytest.raises(SystemExit, match=r"^value-models: Episode 0 has no 'observation.images.x'"):
        run("fit", "--config", "config.yaml", "--data.camera", "x")


@pytest.mark.parametrize("name", STOCK)
def test_stock_configs_parse(run, tmp_path, capsys, name):
    run("config", name)
    stock = capsys.readouterr().out
    for old, new in STAND_INS.items():
        stock = stock.replace(old, new)
    (tmp_path / "stock.yaml").write_text(stock)
    with pytest.raises(SystemExit) as stop:
        run("fit", "--config", "stock.yaml", "--print_config")
    assert stop.value.code == 0
    assert f"class_path: value_models.{STOCK[name].module}" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["feat2go", "rftf", "sarm", "success"])
def test_stock_configs_train_in_one_command_and_report(run, tmp_path, capsys, name):
    run("config", name)
    stock = capsys.readouterr().out
    for old, new in STAND_INS.items():
        stock = stock.replace(old, new)
    # The made-up episodes have three stages and are short.
    stock = stock.replace("[0.25, 0.25, 0.25, 0.25]", "[0.3, 0.3, 0.4]")
    stock = stock.replace("num_frames: 8, stride: 4", "num_frames: 5, stride: 4")
    (tmp_path / "stock.yaml").write_text(stock)
    quiet = ["--trainer.enable_progress_bar", "false", "--data.progress_bar", "false"]
    run("fit", "--config", "stock.yaml", "--trainer.max_epochs", "1", *quiet)
    report = tmp_path / "runs" / name / "report.html"
    assert "Held-out scores" in report.read_text()
    report.write_text("old")
    (last,) = (tmp_path / "runs" / name).glob("version_0/checkpoints/last.ckpt")
    run("report", "--config", "stock.yaml", "--ckpt_path", str(last), *quiet)
    assert "Held-out scores" in report.read_text()


def test_unknown_stock_config(run):
    with pytest.raises(SystemExit, match="No stock configuration 'sarm3'; choose one of feat2go"):
        run("config", "sarm3")


def test_a_report_needs_its_callback(run):
    run("fit", "--config", "config.yaml", "--trainer.max_epochs", "1")
    with pytest.raises(SystemExit, match=r"Expected `value_models.callbacks.ReportWriter` in the"):
        run("report", "--config", "config.yaml", "--ckpt_path", "checkpoints/last.ckpt")


def test_two_processes_by_flag_train_one_model(write_config, tmp_path):
    write_config(_window_config("RewindModule", NETWORKS["RewindModule"]))
    weights = []
    for strategy in ("ddp", "fsdp2"):
        folder = tmp_path / strategy
        folder.mkdir()
        command = [sys.executable, "-m", "value_models.cli", "fit"]
        command += ["--config", "../config.yaml", "--trainer.devices", "2"]
        command += ["--trainer.strategy", strategy]
        # The second start goes on from a checkpoint.
        for more in (["1"], ["2", "--ckpt_path", "checkpoints/last.ckpt"]):
            run = [*command, "--trainer.max_epochs", *more]
            subprocess.run(run, cwd=folder, check=True, capture_output=True, timeout=300)
        model = RewindRegressor.from_pretrained(folder / "model")
        weights.append(parameters_to_vector(model.parameters()))
    # Adam makes whole steps of gradients that are all rounding: few weights, and by a little.
    difference = (weights[0] - weights[1]).detach().abs()
    assert float(difference.mean()) < 1e-6
    assert float(difference.max()) < 1e-4
