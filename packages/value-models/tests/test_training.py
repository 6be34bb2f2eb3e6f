import csv

import numpy as np
import pytest
import torch
from torch import nn

from value_models.data import ProgressDataModule
from value_models.evaluation import evaluate_progress
from value_models.networks import PatchTrunk
from value_models.progress_model import DistributionalProgressModel
from value_models.testing import (
    PixelEncoder,
    check_progress_model,
    make_episodes,
    make_observation,
)
from value_models.training import fit_progress_model

EPISODES = make_episodes(8, num_failures=2)


def _fit(out_dir, episodes=EPISODES, **changes):
    options = {"camera": "hand", "max_epochs": 4, "batch_size": 32, "hidden_dim": 16, "seed": 1}
    return fit_progress_model(
        episodes, PixelEncoder(), out_dir=out_dir, progress_bar=False, **{**options, **changes}
    )


class _PullPlug:
    """Raises in the ``step``-th training forward of any trunk."""

    def __init__(self, step):
        self.left = step

    def __call__(self, module, args):
        if isinstance(module, PatchTrunk) and module.training:
            self.left -= 1
            if self.left < 0:
                raise ConnectionAbortedError("plug pulled")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return _fit(tmp_path_factory.mktemp("whole"))


def test_learns_what_time_cannot_tell(tmp_path):
    episodes = make_episodes(40, num_failures=8, length=(15, 20))
    result = _fit(tmp_path, episodes, max_epochs=40, batch_size=64, hidden_dim=32)
    model, clock = result.evaluation.model, result.evaluation.baseline
    assert model.order_accuracy > 0.95
    assert model.mean_absolute_error < 0.75 * clock.mean_absolute_error
    assert model.final_progress_auroc == 1.0
    assert clock.final_progress_auroc < 0.9


@pytest.mark.parametrize("step", [0, 9, 13])
def test_resumed_run_equals_the_whole_run(tmp_path, whole, step):
    hook = nn.modules.module.register_module_forward_pre_hook(_PullPlug(step))
    try:
        with pytest.raises(ConnectionAbortedError, match="plug pulled"):
            _fit(tmp_path)
    finally:
        hook.remove()
    assert not (tmp_path / "model").exists()
    torch.rand(5)
    resumed = _fit(tmp_path)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    assert resumed.evaluation.to_dict() == whole.evaluation.to_dict()


def test_same_seed_same_figures_and_the_callers_random_state_is_kept(tmp_path, whole):
    torch.manual_seed(123)
    expected = torch.rand(3)
    torch.manual_seed(123)
    again = _fit(tmp_path)
    assert torch.equal(torch.rand(3), expected)
    assert again.evaluation.to_dict() == whole.evaluation.to_dict()


def test_finished_run_is_reused(tmp_path):
    first = _fit(tmp_path, max_epochs=1)
    again = _fit(tmp_path, max_epochs=1)
    assert again.evaluation.to_dict() == first.evaluation.to_dict()


def test_saved_model_gives_the_same_progress(whole):
    loaded = DistributionalProgressModel.from_pretrained(whole.model_dir)
    loaded.attach_encoder(PixelEncoder())
    obs = make_observation(4)
    assert torch.equal(loaded.progress(obs), whole.model.progress(obs))
    check_progress_model(whole.model, obs)


def test_evaluation_is_of_the_held_out_episodes(whole):
    indices = {p.episode_index for p in whole.evaluation.predictions if p.success}
    assert len(indices) == 2
    held_out = [e for e in EPISODES if e["episode_index"] in indices or not e["success"]]
    again = evaluate_progress(
        whole.model,
        held_out,
        encoder=PixelEncoder(),
        mean_length=whole.mean_train_length,
        progress_bar=False,
    )
    assert again.to_dict() == whole.evaluation.to_dict()
    train = [e for e in EPISODES if e["success"] and e["episode_index"] not in indices]
    assert whole.num_train_frames == sum(len(e["progress"]) for e in train)
    assert whole.mean_train_length == pytest.approx(np.mean([len(e["progress"]) for e in train]))


def test_logged_metrics_are_those_of_the_evaluation(whole):
    with (whole.model_dir.parent / "logs" / "version_0" / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["val/order_accuracy"]]
    scores = whole.evaluation.model
    assert float(rows[-1]["val/order_accuracy"]) == pytest.approx(scores.order_accuracy)
    assert float(rows[-1]["val/rank_correlation"]) == pytest.approx(scores.rank_correlation)
    assert float(rows[-1]["val/mean_absolute_error"]) == pytest.approx(scores.mean_absolute_error)


def test_checkpoint_loads_without_pickled_code(whole):
    checkpoint = torch.load(whole.model_dir.parent / "last.ckpt", weights_only=True)
    assert checkpoint["hyper_parameters"]["camera"] == "hand"
    assert not any("encoder" in name for name in checkpoint["state_dict"])


def test_another_run_in_the_folder_is_refused(tmp_path):
    _fit(tmp_path, max_epochs=1)
    before = (tmp_path / "last.ckpt").read_bytes()
    with pytest.raises(ValueError, match=r"holds a run with lr=0.001, asked for 0.1; choose"):
        _fit(tmp_path, max_epochs=1, lr=0.1)
    with pytest.raises(ValueError, match=r"holds a run with labels="):
        _fit(tmp_path, make_episodes(8, seed=5), max_epochs=1)
    assert (tmp_path / "last.ckpt").read_bytes() == before


def test_a_foreign_model_folder_is_refused_before_training(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "notes.txt").touch()
    with pytest.raises(FileExistsError, match=r"model' exists and is not known to be a saved"):
        _fit(tmp_path)
    assert not (tmp_path / "last.ckpt").exists()


def test_broken_checkpoint_is_named(tmp_path):
    _fit(tmp_path, max_epochs=1)
    path = tmp_path / "last.ckpt"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"(?s)Cannot continue the run.*delete"):
        _fit(tmp_path, max_epochs=1)


def test_nothing_is_written_for_broken_labels(tmp_path):
    broken = [{**EPISODES[0], "progress": EPISODES[0]["progress"] + 1}, EPISODES[1]]
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        _fit(tmp_path / "run", broken)
    assert not (tmp_path / "run").exists()


def test_epochs_must_be_positive(tmp_path):
    with pytest.raises(ValueError, match="`max_epochs` of at least 1, got 0"):
        _fit(tmp_path, max_epochs=0)


def test_data_module_is_what_the_fit_used(whole):
    data = ProgressDataModule(
        episodes=EPISODES, encoder=PixelEncoder(), camera="hand", seed=1, progress_bar=False
    )
    data.setup()
    held_out = [e.episode_index for e in (*data.val_episodes, *data.unlabelled_episodes)]
    assert held_out == [p.episode_index for p in whole.evaluation.predictions]
