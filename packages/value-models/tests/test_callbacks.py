import pytest
import torch

from value_models.callbacks import AtomicCheckpointIO


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
