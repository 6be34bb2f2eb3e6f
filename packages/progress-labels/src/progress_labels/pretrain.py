"""Self-supervised training of a small patch encoder on a user's own frames (V-JEPA style)."""

import json
import math
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from lightning.fabric import Fabric
from torch import Tensor
from tqdm import tqdm
from transformers import VJEPA2Model

from progress_labels.checkpoint import fingerprint_of, restore_checkpoint, save_checkpoint
from progress_labels.clips import FrameBank, load_frames, sample_clips
from progress_labels.encoders import VJEPA2Encoder, load_encoder
from progress_labels.errors import CollapseError
from progress_labels.functional import multi_block_mask
from progress_labels.jepa import JEPA, Mask, export_encoder, tiny_config
from progress_labels.preprocess import Preprocess
from progress_labels.probe import Spread, feature_spread, probe
from progress_labels.recipe import write_recipe

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_CHECKPOINT = "last.ckpt"


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Settings of the self-supervised training."""

    epochs: int = 6
    """Passes over the frames."""
    batch_size: int = 64
    lr: float = 1e-3
    """Peak learning rate of AdamW; linear warm-up over a tenth of the steps, then cosine."""
    weight_decay: float = 0.05
    momentum: tuple[float, float] = (0.99, 0.999)
    """Of the target encoder, at the first and the last step (linear in between)."""
    static_share: float = 0.5
    """Share of clips that repeat one frame, which is how single frames are encoded later."""
    max_gap: int = 8
    """Otherwise the second frame of a clip comes 1 … max_gap frames later."""
    pixels: float = 1.0
    """Weight of the pixels of hidden patches beside their features."""
    variance: float = 1.0
    """Weight of the hinge on too little variance of the context features."""
    covariance: float = 0.01
    """Weight of the penalty on correlated context features."""
    target_std: float = 0.3
    """Spread over frames that is enough; features are layer-normed, so 1 would be all there is."""
    blocks: tuple[tuple[int, float], ...] = ((6, 0.25),)
    """Masks per step: (rectangles, area of each as a share of the image)."""
    min_std: float = 0.02
    """Collapse: feature spread over frames below this …"""
    min_rank: float = 2.0
    """… or effective rank below this, in any epoch."""
    seed: int = 0
    precision: str = "32-true"
    """Fabric's precision; ``"bf16-mixed"`` is faster where the processor has it."""
    size: dict[str, int] | None = None
    """Overrides of the encoder's configuration, for example ``{"num_hidden_layers": 4}``."""

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 2:
            raise ValueError(
                f"Expected `epochs` ≥ 1 and `batch_size` ≥ 2: {self.epochs}, {self.batch_size}."
            )
        if not 0.0 <= self.static_share <= 1.0:
            raise ValueError(f"Expected `static_share` in [0, 1], got {self.static_share}.")
        if self.max_gap < 1:
            raise ValueError(f"Expected `max_gap` ≥ 1, got {self.max_gap}.")


def pretrain(
    sources: list[Path],
    out: Path,
    *,
    config: PretrainConfig | None = None,
    progress_bar: bool = True,
) -> Path:
    """Train an encoder and write it as a folder that `load_encoder` reads.

    A run that was stopped continues from its last epoch, kept in ``<out>.partial``, and ends in the
    same weights as a run that was never stopped.

    Args:
        sources: LeRobot v3 datasets (all cameras) or folders of mp4 files.
        out: Folder to write; must not exist yet.
        config: Settings; defaults when None.
        progress_bar: Show progress.

    Returns:
        ``out``, with ``config.json``, ``model.safetensors`` (float16, encoder only),
        ``preprocessor_config.json`` and ``RECIPE.md``.

    Raises:
        CollapseError: If features turn constant or low-rank.
        DatasetError: If a source cannot be read.
        ValueError: If ``out`` exists, or a kept checkpoint belongs to other data or settings.
    """
    config = config or PretrainConfig()
    if out.exists():
        raise ValueError(f"{out} exists; remove it or choose another folder with --out.")
    torch.manual_seed(config.seed)
    jepa = JEPA(
        tiny_config(**(config.size or {})),
        pixels=config.pixels,
        variance=config.variance,
        covariance=config.covariance,
        target_std=config.target_std,
    )
    bank = load_frames(sources, size=jepa.config.crop_size, progress_bar=progress_bar)
    partial = out.with_name(out.name + ".partial")
    partial.mkdir(parents=True, exist_ok=True)  # an unwritable place fails now, not after training
    scores = {"random": _scores(export_encoder(jepa), bank)}
    started = time.monotonic()
    history = _train(jepa, bank, config, partial / _CHECKPOINT, progress_bar=progress_bar)
    minutes = (time.monotonic() - started) / 60.0
    folder = partial / "encoder"
    shutil.rmtree(folder, ignore_errors=True)
    export_encoder(jepa).save_pretrained(folder)
    _write_preprocessor(folder, jepa.config.crop_size)
    scores["trained"] = _scores(load_encoder(str(folder)).model, bank)
    write_recipe(
        folder,
        bank=bank,
        sources=sources,
        settings=asdict(config),
        history=history,
        scores=scores,
        minutes=minutes,
    )
    os.replace(folder, out)
    shutil.rmtree(partial)
    return out


def _train(
    jepa: JEPA, bank: FrameBank, config: PretrainConfig, checkpoint: Path, *, progress_bar: bool
) -> list[dict[str, float]]:
    fabric = Fabric(accelerator="auto", devices=1, precision=config.precision)  # type: ignore[arg-type]
    trained = [p for p in jepa.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.lr, weight_decay=config.weight_decay)
    model, optimizer = fabric.setup(jepa, optimizer)
    generator = torch.Generator().manual_seed(config.seed)
    history: list[dict[str, float]] = []
    fingerprint = fingerprint_of(bank, asdict(config))
    if checkpoint.exists():
        history = restore_checkpoint(checkpoint, jepa, optimizer, generator, fingerprint)
    per_epoch = _steps_per_epoch(bank, config)
    steps = per_epoch * config.epochs
    bar = tqdm(total=steps, initial=per_epoch * len(history), unit="step", disable=not progress_bar)
    for epoch in range(len(history), config.epochs):
        total = 0.0
        for step, positions in enumerate(_batches(bank, config, generator), epoch * per_epoch):
            clips, masks = _batch(bank, positions, config, jepa.config, generator)
            for group in optimizer.param_groups:
                group["lr"] = config.lr * _schedule(step, steps)
            loss = model(clips.to(fabric.device), masks)
            optimizer.zero_grad()
            fabric.backward(loss)
            fabric.clip_gradients(model, optimizer, max_norm=1.0)
            optimizer.step()
            start, end = config.momentum
            jepa.update_target(start + (end - start) * step / steps)
            total += float(loss.detach())
            bar.update()
        spread = _spread(jepa, bank)
        history.append({"loss": total / per_epoch, **spread._asdict()})
        bar.set_postfix(history[-1])
        _check_collapse(spread, config, epoch)
        save_checkpoint(checkpoint, jepa, optimizer, generator, history, fingerprint)
    bar.close()
    return history


def _batches(
    bank: FrameBank, config: PretrainConfig, generator: torch.Generator
) -> Iterator[Tensor]:
    """Draw batches within groups, so that features cannot spread by telling cameras apart."""
    batches: list[Tensor] = []
    for group in np.unique(bank.group):
        members = torch.from_numpy(np.flatnonzero(bank.group == group))
        order = members[torch.randperm(len(members), generator=generator)]
        # A short last batch is dropped unless it is the only one.
        full = max(1, len(order) // config.batch_size)
        batches += torch.split(order, config.batch_size)[:full]
    for number in torch.randperm(len(batches), generator=generator).tolist():
        yield batches[number]


def _steps_per_epoch(bank: FrameBank, config: PretrainConfig) -> int:
    _, sizes = np.unique(bank.group, return_counts=True)
    return int(np.maximum(1, sizes // config.batch_size).sum())


def _batch(
    bank: FrameBank,
    positions: Tensor,
    config: PretrainConfig,
    shape: Any,
    generator: torch.Generator,
) -> tuple[Float[Tensor, "b 2 3 size size"], list[Mask]]:
    clips = sample_clips(
        bank,
        positions,
        static_share=config.static_share,
        max_gap=config.max_gap,
        generator=generator,
    )
    clips = (clips - clips.new_tensor(IMAGENET_MEAN)[:, None, None]) / clips.new_tensor(
        IMAGENET_STD
    )[:, None, None]
    grid = shape.crop_size // shape.patch_size
    masks = [
        multi_block_mask(grid, num_blocks=count, scale=scale, generator=generator)
        for count, scale in config.blocks
    ]
    return clips, masks


def _schedule(step: int, steps: int) -> float:
    """Share of the peak learning rate: linear warm-up over a tenth, then half a cosine to 1 %."""
    warmup = max(1, steps // 10)
    if step < warmup:
        return (step + 1) / warmup
    return 0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def _preprocess(size: int) -> Preprocess:
    return Preprocess(image_size=size, mean=IMAGENET_MEAN, std=IMAGENET_STD)


def _encoder(model: VJEPA2Model) -> VJEPA2Encoder:
    preprocess = _preprocess(model.config.crop_size)
    return VJEPA2Encoder(model.float(), preprocess=preprocess, encoder_id="pretrain")


def _spread(jepa: JEPA, bank: FrameBank, *, count: int = 128) -> Spread:
    """Measure the target encoder on frames of the largest group."""
    groups, sizes = np.unique(bank.group, return_counts=True)
    members = torch.from_numpy(np.flatnonzero(bank.group == groups[sizes.argmax()]))
    chosen = members[torch.linspace(0, len(members) - 1, min(count, len(members))).long()]
    pixels = _preprocess(jepa.config.crop_size)(bank.frames[chosen])
    clips = pixels[:, None].expand(-1, 2, -1, -1, -1).to(next(jepa.parameters()).device)
    with torch.no_grad():
        features: Tensor = jepa.target(clips).last_hidden_state
    return feature_spread(features.float().cpu())


def _check_collapse(spread: Spread, config: PretrainConfig, epoch: int) -> None:
    if spread.std < config.min_std or spread.effective_rank < config.min_rank:
        raise CollapseError(
            f"Features collapsed in epoch {epoch + 1}: spread over frames {spread.std:.4f} (least "
            f"{config.min_std}), effective rank {spread.effective_rank:.1f} (least "
            f"{config.min_rank}). Lower --config.lr, or use more varied frames."
        )


def _scores(model: VJEPA2Model, bank: FrameBank, *, count: int = 4000) -> dict[str, float]:
    """Probe all patches together and their mean; nothing where there are too few episodes."""
    if min(len(np.unique(bank.episode[bank.group == g])) for g in np.unique(bank.group)) < 5:
        return {}
    chosen = np.sort(np.random.default_rng(0).permutation(len(bank.frames))[:count])
    part = FrameBank(
        frames=bank.frames[chosen],
        last=bank.last[chosen],
        episode=bank.episode[chosen],
        group=bank.group[chosen],
        fraction=bank.fraction[chosen],
        state=bank.state[chosen],
    )
    features = _encoder(model).encode(part.frames[None])[0]
    pooled = probe(features.mean(dim=1), part)
    return probe(features, part) | {f"{name} (mean patch)": r2 for name, r2 in pooled.items()}


def _write_preprocessor(folder: Path, size: int) -> None:
    values = {
        "do_resize": True,
        "size": {"height": size, "width": size},
        "resample": 2,
        "do_center_crop": False,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": IMAGENET_MEAN,
        "image_std": IMAGENET_STD,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(values, indent=2) + "\n")
