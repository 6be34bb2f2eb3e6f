"""Checkpoints of self-supervised training: all state, so that a resumed run is the same run."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn
from torch.optim import Optimizer

from progress_labels.clips import FrameBank

History = list[dict[str, float]]
"""One row of figures per finished epoch."""


def fingerprint_of(bank: FrameBank, settings: Mapping[str, object]) -> str:
    """Return a hash of the frames and the settings of a run."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    digest.update(bank.frames.numpy().tobytes())
    return digest.hexdigest()


def save_checkpoint(
    path: Path,
    model: nn.Module,
    optimizer: Optimizer,
    generator: torch.Generator,
    history: History,
    fingerprint: str,
) -> None:
    """Write the state after an epoch; the file appears whole or not at all."""
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "generator": generator.get_state(),
        "history": history,
        "fingerprint": fingerprint,
    }
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)


def restore_checkpoint(
    path: Path,
    model: nn.Module,
    optimizer: Optimizer,
    generator: torch.Generator,
    fingerprint: str,
) -> History:
    """Load the state after the last finished epoch and return the history up to it.

    Raises:
        ValueError: If the checkpoint belongs to a run with other frames or settings.
    """
    state = torch.load(path, map_location="cpu", weights_only=True)
    if state["fingerprint"] != fingerprint:
        raise ValueError(
            f"{path} belongs to a run with other frames or settings; remove {path.parent} to start "
            "anew, or repeat the settings of that run."
        )
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    generator.set_state(state["generator"])
    history: History = state["history"]
    return history
