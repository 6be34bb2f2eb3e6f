"""Lightning shell that all value models share: steps, metrics, seeding, optimizer."""

from abc import abstractmethod
from typing import Any

import torch
from jaxtyping import Float
from lightning import LightningModule
from torch import Tensor, nn

from value_models.base import STATE_KEY, FrozenFeatureModel
from value_models.checkpoints import refuse_other_checkpoint
from value_models.metrics import (
    EpisodeMean,
    OrderAccuracy,
    ProgressError,
    RankCorrelation,
    SquaredError,
)
from value_models.sharding import shard
from value_models.types import ProgressBatch


class ValueModule(LightningModule):
    """Trains ``model``; subclasses build it and bring the loss.

    AdamW, linear warm-up, cosine to zero over the whole run. Logs ``train/loss`` and, on held-out
    episodes, ``val/<metric>``. A subclass makes its model in ``__init__`` and calls
    `save_hyperparameters`; ``lr``, ``weight_decay``, ``seed`` and, if any, ``warmup_steps`` are
    read from there.
    """

    model: Any

    def __init__(self) -> None:
        super().__init__()
        # Typed loosely: what is in a ModuleDict is a Module to mypy, and no metric.
        self.val_metrics: Any = nn.ModuleDict(self.metrics())

    @abstractmethod
    def loss(self, batch: ProgressBatch) -> Float[Tensor, ""]:
        """Loss of a batch of frames or windows, normalised over all processes."""

    def metrics(self) -> dict[str, Any]:
        """Metrics of validation, by name."""
        return {
            "order_accuracy": OrderAccuracy(),
            "rank_correlation": RankCorrelation(),
            "mean_absolute_error": ProgressError(),
            "squared_error": SquaredError(),
        }

    def predict_progress(self, batch: ProgressBatch) -> Float[Tensor, "b t"]:
        """Progress of every frame of whole episodes."""
        progress: Tensor = self.model.compute_progress(batch)
        return progress

    def configure_model(self) -> None:
        """Share out the parameters under the strategy ``fsdp2``."""
        if self.device_mesh is not None:
            shard(self)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another encoder or architecture."""
        refuse_other_checkpoint(self, checkpoint)

    def on_train_start(self) -> None:
        """Normalise the robot state by the training data, if the model reads one."""
        columns = getattr(getattr(self.trainer.train_dataloader, "dataset", None), "columns", {})
        if isinstance(self.model, FrozenFeatureModel) and STATE_KEY in columns:
            self.model.fit_state(columns[STATE_KEY])

    def on_train_batch_start(self, batch: ProgressBatch, batch_idx: int) -> None:
        """Seed by seed, step and rank, so that a resumed run draws the same numbers.

        Per step and not per epoch: loaders draw from the same generator, and a Trainer that
        restarts creates them at other moments.
        """
        step_seed = self.hparams["seed"] * 1_000_003 + self.global_step
        torch.manual_seed(step_seed * 1009 + self.global_rank)

    def training_step(self, batch: ProgressBatch, batch_idx: int) -> Float[Tensor, ""]:
        """Loss of one batch."""
        loss = self.loss(batch)
        num = len(batch["task"])
        self.log("train/loss", loss, prog_bar=True, on_step=False, on_epoch=True, batch_size=num)
        return loss

    def validation_step(self, batch: ProgressBatch, batch_idx: int) -> None:
        """Update the metrics with whole episodes."""
        self.evaluate(batch, "val")

    def test_step(self, batch: ProgressBatch, batch_idx: int) -> None:
        """Update the metrics with whole episodes."""
        self.evaluate(batch, "test")

    def predict_step(self, batch: ProgressBatch, batch_idx: int) -> dict[str, Tensor]:
        """Progress ``(b, t)`` and ``episode_index`` ``(b,)`` of whole episodes."""
        return {"episode_index": batch["episode_index"], "progress": self.predict_progress(batch)}

    def evaluate(self, batch: ProgressBatch, stage: str) -> None:
        """Update the metrics of progress and log all."""
        predicted = self.predict_progress(batch)
        for progress, target in zip(predicted, batch["progress"], strict=True):
            for metric in self.val_metrics.values():
                if isinstance(metric, EpisodeMean):
                    metric.update(progress, target.to(progress.device))
        self.log_metrics(stage)

    def log_metrics(self, stage: str) -> None:
        """Log all metrics under ``<stage>/<name>``."""
        named: Any = {f"{stage}/{name}": metric for name, metric in self.val_metrics.items()}
        self.log_dict(named, on_step=False, on_epoch=True, prog_bar=True, batch_size=1)

    def optimizer(self) -> torch.optim.Optimizer:
        """AdamW on what is trained."""
        return torch.optim.AdamW(
            (p for p in self.parameters() if p.requires_grad),
            lr=self.hparams["lr"],
            weight_decay=self.hparams["weight_decay"],
        )

    def configure_optimizers(self) -> Any:
        """AdamW, warm-up and cosine, stepped per batch."""
        optimizer = self.optimizer()
        total = int(self.trainer.estimated_stepping_batches)
        warmup = min(self.hparams.get("warmup_steps", 0), total - 1)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=total - warmup)
        scheduler: Any = cosine
        if warmup:
            rise = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0 / warmup, 1.0, warmup)
            scheduler = torch.optim.lr_scheduler.SequentialLR(optimizer, [rise, cosine], [warmup])
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }
