"""RECIPE.md: how an encoder was trained, on what, and what it is worth."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from progress_labels.clips import FrameBank


def write_recipe(
    folder: Path,
    *,
    bank: FrameBank,
    sources: Sequence[Path],
    settings: Mapping[str, object],
    history: Sequence[Mapping[str, float]],
    scores: Mapping[str, Mapping[str, float]],
    minutes: float,
) -> None:
    """Write ``RECIPE.md`` beside trained weights.

    Args:
        folder: Holds ``model.safetensors``.
        bank: The frames that were trained on.
        sources: Where they came from; only the folders' names are written.
        settings: Of the training.
        history: One row per epoch: loss, std, effective_rank.
        scores: Probe results of ``"random"`` and ``"trained"`` weights by target.
        minutes: Wall time of the training (of this start, where it was resumed).
    """
    data = hashlib.sha256(bank.frames.numpy().tobytes()).hexdigest()
    weights = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    frames, size = bank.frames.shape[:2]
    lines = [
        "# Recipe",
        "",
        "A V-JEPA 2 encoder trained by masked latent prediction with `progress-labels pretrain`.",
        "",
        "| | |",
        "|---|---|",
        f"| sources | {', '.join(source.name for source in sources)} |",
        f"| frames | {frames} of {size} × {size} px, {len(np.unique(bank.episode))} episodes |",
        f"| sha256 of the frames | `{data}` |",
        f"| sha256 of `model.safetensors` | `{weights}` |",
        f"| torch | {torch.__version__.split('+')[0]} |",
        f"| minutes | {minutes:.1f} |",
        *(f"| {name} | `{value}` |" for name, value in settings.items()),
        "",
        "## Training",
        "",
        "Spread and effective rank are of the target encoder's features over frames.",
        "",
        "| epoch | loss | spread | effective rank |",
        "|---|---|---|---|",
    ]
    for epoch, row in enumerate(history, 1):
        if epoch % max(1, len(history) // 10) == 0 or epoch == len(history):
            numbers = f"{row['loss']:.4f} | {row['std']:.3f} | {row['effective_rank']:.1f}"
            lines.append(f"| {epoch} | {numbers} |")
    lines += ["", "## Linear probes", "", *_probe_table(scores)]
    (folder / "RECIPE.md").write_text("\n".join(lines) + "\n")


def _probe_table(scores: Mapping[str, Mapping[str, float]]) -> list[str]:
    if not scores["trained"]:
        return ["Fewer than five episodes: not measured."]
    return [
        "R² of a ridge regression on frozen features, on held-out episodes (1 is perfect). The",
        "frames themselves were in the training set; no label was.",
        "",
        "| target | random weights | trained |",
        "|---|---|---|",
        *(
            f"| {name} | {scores['random'][name]:.3f} | {value:.3f} |"
            for name, value in scores["trained"].items()
        ),
    ]
