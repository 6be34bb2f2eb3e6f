import pytest
import torch
from lightning import LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader

from value_models.callbacks import AtomicCheckpointIO, ExportModel
from value_models.pretrained import PretrainedModule


def test_checkpoint_replaces_the_old_one(tmp_path):
    path = tmp_path / "run" / "last.ckpt"
    for step in (1, 2):
        AtomicCheckpointIO().save_checkpoint({"step": step}, path)
    assert torch.load(path, weights_only=True) == {"step": 2}
    assert [p.name for p in path.parent.iterdir()] == ["last.ckpt"]


def test_failed_save_leaves_the_old_checkpoint(tmp_path):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"step": 1}, path)
    with pytest.raises((AttributeError, TypeError), match=r"local|pickle"):
        AtomicCheckpointIO().save_checkpoint({"step": lambda: 2}, path)
    assert torch.load(path, weights_only=True) == {"step": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


class _Line(PretrainedModule):
    model_type = "line"

    def __init__(self, *, dim: int = 1) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, 1)


class _Fit(LightningModule):
    """The least that a Trainer fits; it counts its steps."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.steps = 0

    def training_step(self, batch, batch_idx):
        self.steps += 1
        return sum(p.square().sum() for p in self.model.parameters())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def _fit(module, folder):
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[ExportModel(str(folder))],
    )
    trainer.fit(module, DataLoader([0.0]))


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_export_replaces_its_own_folder_only(tmp_path):
    for _ in range(2):
        module = _Fit(_Line())
        _fit(module, tmp_path / "model")
        saved = _Line.from_pretrained(tmp_path / "model")
        assert torch.equal(saved.linear.weight, module.model.linear.weight)
    refused = _Fit(_Line())
    with pytest.raises(FileExistsError, match=f"'{tmp_path}' exists .* saved _Line"):
        _fit(refused, tmp_path)
    assert refused.steps == 0
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_what_cannot_be_exported_is_not_trained(tmp_path):
    module = _Fit(nn.Linear(1, 1))
    with pytest.raises(ValueError, match="cannot save the Linear of _Fit: it has no `save_pre"):
        _fit(module, tmp_path / "model")
    assert module.steps == 0
