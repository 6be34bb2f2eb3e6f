"""RFTF's value model: trained on the order of frames, looked at where attempts fail."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning import Trainer
from torch import Tensor

from bench_adapters.record import record_dataset
from integration_tests.pipelines.quickstart import (
    CAMERA,
    ENV_ID,
    MAX_STEPS,
    NOISE,
    RECORD_SEEDS,
    SEED_STRIDE,
)
from integration_tests.study.design import Result
from integration_tests.study.lab import FIRST_SEED, STATE, Lab, named
from progress_labels.dataset import EpisodeDataset
from progress_labels.encoders import load_encoder
from value_models.data import ProgressDataModule
from value_models.functional import order_accuracy
from value_models.progress_model import TemporalRankingModel
from value_models.recordings import RecordedEpisodes
from value_models.window_modules import RankingModule
from value_models.windows import WindowSpec

NUM_EPOCHS = 3
WINDOWS = WindowSpec(num_frames=8, stride=3)
GRASPED = 9
"""Where ``observation.state`` says whether the cube is in the hand."""
FRAMES_AFTER = 5
"""Frames at the end of an attempt whose mean value is compared with that of the event."""


def ranking(lab: Lab, *, reads: str = "picture") -> Result:
    """Train on the order of frames; return accuracies by epoch and what curves do at drops.

    Args:
        lab: Of the seed.
        reads: ``picture``, or ``state`` for a model that reads ``observation.state`` besides.
    """

    def work(folder: Path) -> Result:
        episodes = lab.episodes()
        if reads == "state":
            episodes = RecordedEpisodes(episodes, lab.base().dataset, columns=[STATE])
        model, result = train_ranking(episodes, camera=CAMERA, seed=lab.seed, folder=folder)
        return {**result, **_falls(model, _drops(lab))}

    name = named("ranking", reads)
    with lab.alone(name):
        return lab.stages(name).run("fit", lab.profile.sizes(), work)


def train_ranking(
    episodes: Sequence[dict[str, Any]],
    *,
    camera: str,
    seed: int,
    folder: Path,
    num_epochs: int = NUM_EPOCHS,
) -> tuple[TemporalRankingModel, Result]:
    """Train RFTF's value model and keep it in ``folder / "model"``.

    Returns:
        The model, ready for frames, and ``order_accuracy`` of held-out episodes by epoch with their
        number, ``held_out``.
    """
    encoder = load_encoder("offline")
    data = ProgressDataModule(
        episodes=episodes, encoder=encoder, camera=camera, windows=WINDOWS, batch_size=64, seed=seed
    )
    data.setup()
    lightning.seed_everything(seed, verbose=False)
    signals = data.train_episodes[0].signals
    module = RankingModule(
        camera=camera,
        encoder_id=data.encoder_id,
        num_patches=data.num_patches,
        feature_dim=data.feature_dim,
        network={"state_dim": signals[STATE].shape[1]} if STATE in signals else {},
        lr=3e-3,
        seed=seed,
    )
    accuracies: list[float] = []
    trainer = Trainer(
        max_epochs=num_epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[_AfterEpoch(camera, data.val_episodes, accuracies)],
    )
    trainer.fit(module, data)
    model = module.model.eval()
    model.save_pretrained(folder / "model")
    result = {"order_accuracy": accuracies, "held_out": len(data.val_episodes)}
    return model.attach_encoder(encoder), result


def fit_ranking_model(lab: Lab) -> TemporalRankingModel:
    """Return the model that `ranking` trained."""
    ranking(lab)
    folder = lab.out / f"ranking-seed{lab.seed}" / "1-fit" / "model"
    model: TemporalRankingModel = TemporalRankingModel.from_pretrained(folder)
    return model.attach_encoder(load_encoder("offline"))


class _AfterEpoch(lightning.Callback):
    """Takes the order accuracy of held-out episodes after every epoch."""

    def __init__(self, camera: str, episodes: Any, accuracies: list[float]) -> None:
        self.camera, self.episodes, self.accuracies = camera, episodes, accuracies

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        pl_module.model.eval()
        scores = []
        for episode in self.episodes:
            batch: dict[str, Any] = {
                f"observation.features.{self.camera}": episode.features[None],
                "task": [episode.task],
            }
            batch |= {key: value[None] for key, value in episode.signals.items() if key == STATE}
            values = pl_module.model.compute_progress(batch)[0]
            scores.append(float(order_accuracy(values)))
        self.accuracies.append(sum(scores) / len(scores))
        pl_module.model.train()


def _drops(lab: Lab) -> Path:
    """Record attempts that drop the cube, once for the models of a seed."""
    root = lab.out / f"drops-seed{lab.seed}"
    with lab.alone("drops"):
        record_dataset(
            ENV_ID,
            root,
            num_episodes=max(4, lab.profile.base.num_evaluated // 2),
            seed=RECORD_SEEDS + (FIRST_SEED + lab.seed) * SEED_STRIDE + SEED_STRIDE // 2,
            noise=NOISE,
            failure_fraction=1.0,
            perturbations=["drop"],
            num_workers=lab.profile.base.num_workers,
            env_kwargs={"cameras": [CAMERA], "max_episode_steps": MAX_STEPS},
        )
    return root


def _falls(model: TemporalRankingModel, root: Path) -> Result:
    """Return how many curves fall from the drop to the end."""
    fell = num = 0
    shown: list[dict[str, Any]] = []
    for episode in EpisodeDataset(root, camera=CAMERA):
        held = torch.as_tensor(episode["state"])[:, GRASPED] > 0.5
        if episode["success"] or not bool(held.any()):
            continue
        event = int(held.nonzero()[-1])
        if event + FRAMES_AFTER >= len(held):
            continue
        frames = torch.as_tensor(episode["frames"])[None]
        batch = {
            f"observation.images.{CAMERA}": frames,
            STATE: torch.as_tensor(episode["state"])[None],
            "task": [episode["task"]],
        }
        values: Tensor = model.compute_progress(batch)[0]
        num += 1
        fell += bool(values[-FRAMES_AFTER:].mean() < values[event])
        if len(shown) < 4:
            shown.append({"event": event, "values": [round(float(v), 4) for v in values]})
    return {"drops": num, "fell": fell, "shown": shown}
