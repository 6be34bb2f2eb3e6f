"""Training of a progress model from labelled episodes in one call, resumable."""

import hashlib
import json
import logging
import os
import pickle
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities.seed import isolate_rng

from value_models.callbacks import AtomicCheckpointIO
from value_models.data import ProgressDataModule
from value_models.evaluation import Evaluation, evaluate_encoded
from value_models.module import ProgressModule
from value_models.pretrained import check_replaceable, save_folder
from value_models.progress_model import DistributionalProgressModel
from value_models.types import FrameEncoder, ProgressEpisode

MODEL_FOLDER = "model"
CHECKPOINT_NAME = "last.ckpt"
SETTINGS_NAME = "settings.json"


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """A trained model and what it is worth on the held-out episodes."""

    model: DistributionalProgressModel
    """In eval mode, with its encoder attached."""
    model_dir: Path
    """Folder for `DistributionalProgressModel.from_pretrained`."""
    evaluation: Evaluation
    """On the held-out labelled episodes and all unlabelled ones."""
    mean_train_length: float
    """Frames; what the clock baseline knows."""
    num_train_frames: int
    """Labelled frames of the training episodes."""
    fit_s: float
    """Wall-clock seconds of training alone, without encoding; of this start if resumed."""


def fit_progress_model(
    episodes: Sequence[ProgressEpisode],
    encoder: FrameEncoder,
    *,
    camera: str,
    out_dir: str | os.PathLike[str],
    max_epochs: int = 25,
    batch_size: int = 256,
    lr: float = 1e-3,
    seed: int = 0,
    progress_bar: bool = True,
    val_fraction: float = 0.2,
    **model_options: Any,
) -> FitResult:
    """Train a `DistributionalProgressModel`, save it and score it on held-out episodes.

    ``out_dir`` receives ``last.ckpt`` after every epoch, ``model/`` at the end and CSV logs. A
    second call with the same arguments continues from ``last.ckpt``; on a CPU the result is the
    one of a run that was never stopped, bit by bit. The weights are those of the last epoch:
    nothing is selected on the held-out episodes. The caller's random state is left alone.

    Args:
        episodes: Labelled episodes; unlabelled ones (failures) are evaluated only.
        encoder: Frozen encoder; each frame is encoded once per call.
        camera: Camera to look through.
        out_dir: Folder of this run.
        max_epochs: Passes over the training frames.
        batch_size: Frames per step.
        lr: Peak learning rate of AdamW.
        seed: Seed of split, weights, shuffle and dropout.
        progress_bar: Whether to show progress bars.
        val_fraction: Share of the labelled episodes to hold out.
        model_options: Other arguments of `ProgressModule`, such as ``hidden_dim``.

    Raises:
        ValueError: If episodes or labels are broken, or ``out_dir`` holds a run with other
            arguments or labels, or an unreadable checkpoint.
        FileExistsError: If ``out_dir/model`` holds anything but such a model.
    """
    if max_epochs < 1:
        raise ValueError(f"Expected `max_epochs` of at least 1, got {max_epochs}.")
    out_dir = Path(out_dir)
    data = ProgressDataModule(
        episodes=episodes,
        encoder=encoder,
        camera=camera,
        batch_size=batch_size,
        val_fraction=val_fraction,
        seed=seed,
        progress_bar=progress_bar,
    )
    data.setup()
    settings = {
        "camera": camera,
        "encoder_id": data.encoder_id,
        "feature_shape": [data.num_patches, data.feature_dim],
        "labels": _fingerprint(data),
        "max_epochs": max_epochs,
        "batch_size": batch_size,
        "lr": lr,
        "seed": seed,
        **model_options,
    }
    checkpoint = _claim(out_dir, settings)
    start = time.perf_counter()
    with isolate_rng():
        lightning.seed_everything(seed, verbose=False)
        module = ProgressModule(
            camera=camera,
            encoder_id=data.encoder_id,
            num_patches=data.num_patches,
            feature_dim=data.feature_dim,
            lr=lr,
            seed=seed,
            **model_options,
        )
        check_replaceable(module.model, out_dir / MODEL_FOLDER)
        _fit(module, data, out_dir, checkpoint, max_epochs=max_epochs, progress_bar=progress_bar)
    fit_s = time.perf_counter() - start
    model = module.model.cpu().eval().attach_encoder(encoder)
    held_out = [*data.val_episodes, *data.unlabelled_episodes]
    return FitResult(
        model=model,
        model_dir=save_folder(model, out_dir / MODEL_FOLDER),
        evaluation=evaluate_encoded(model, held_out, mean_length=data.mean_train_length),
        mean_train_length=data.mean_train_length,
        num_train_frames=sum(int(e.progress.isfinite().sum()) for e in data.train_episodes),
        fit_s=fit_s,
    )


def _fit(
    module: ProgressModule,
    data: ProgressDataModule,
    out_dir: Path,
    checkpoint: Path | None,
    *,
    max_epochs: int,
    progress_bar: bool,
) -> None:
    with warnings.catch_warnings(), _quiet("lightning.pytorch"):
        # The features are in memory: workers would only copy them.
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        # The folder is ours, and what it holds was checked against the settings.
        warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty.*")
        trainer = Trainer(
            max_epochs=max_epochs,
            accelerator="auto",
            devices=1,
            logger=CSVLogger(out_dir, name="logs"),
            callbacks=[
                ModelCheckpoint(
                    out_dir,
                    Path(CHECKPOINT_NAME).stem,
                    enable_version_counter=False,
                    every_n_epochs=1,
                )
            ],
            plugins=[AtomicCheckpointIO()],
            enable_progress_bar=progress_bar,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            log_every_n_steps=1,
        )
        trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)


@contextmanager
def _quiet(logger: str) -> Iterator[None]:
    """Leave out the Trainer's remarks on devices and loggers; warnings still show."""
    log = logging.getLogger(logger)
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        log.setLevel(level)


def _claim(out_dir: Path, settings: dict[str, Any]) -> Path | None:
    """Return the checkpoint to continue from, if any; refuse a folder of another run."""
    out_dir.mkdir(parents=True, exist_ok=True)
    path = out_dir / SETTINGS_NAME
    checkpoint = out_dir / CHECKPOINT_NAME
    if not checkpoint.exists():
        fresh = path.with_name(f".{path.name}.tmp")
        fresh.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
        os.replace(fresh, path)
        return None
    remedy = f"choose another `out_dir` or delete {str(out_dir)!r} to start over"
    try:
        found = json.loads(path.read_text())
        torch.load(checkpoint, map_location="cpu", weights_only=True)
    except (OSError, ValueError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"Cannot continue the run in {str(out_dir)!r} ({error}); {remedy}."
        ) from error
    wanted = json.loads(json.dumps(settings))
    for key in sorted({*found, *wanted}):
        if found.get(key) != wanted.get(key):
            raise ValueError(
                f"{str(out_dir)!r} holds a run with {key}={found.get(key)!r}, asked for "
                f"{wanted.get(key)!r}; {remedy}."
            )
    return checkpoint


def _fingerprint(data: ProgressDataModule) -> str:
    """Identify labels and split, so that a run is not continued on other ones."""
    digest = hashlib.sha256()
    for part in (data.train_episodes, data.val_episodes):
        for episode in part:
            digest.update(f"{episode.episode_index} {episode.task}\n".encode())
            digest.update(episode.progress.numpy().tobytes())
        digest.update(b"--")
    return digest.hexdigest()[:16]
