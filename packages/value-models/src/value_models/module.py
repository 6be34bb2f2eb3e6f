"""Lightning shell of the distributional progress model."""

from typing import Any

import torch
from jaxtyping import Float
from lightning import LightningModule
from torch import Tensor

from value_models.checkpoints import refuse_other_checkpoint
from value_models.distributed import global_count
from value_models.functional.losses import distributional_cross_entropy
from value_models.metrics import OrderAccuracy, ProgressError, RankCorrelation
from value_models.progress_model import DistributionalProgressModel
from value_models.types import ProgressBatch


class ProgressModule(LightningModule):
    """Trains a `DistributionalProgressModel` by cross-entropy on binned labels.

    AdamW with a cosine schedule to zero over the whole run. Logs ``train/loss``,
    ``val/order_accuracy``, ``val/rank_correlation`` and ``val/mean_absolute_error``.

    Args:
        camera: Camera that the model looks through.
        encoder_id: Identity of the frozen encoder.
        num_patches: Patches per frame.
        feature_dim: Width of a patch feature.
        hidden_dim: Width of the trunk and head.
        num_bins: Progress bins on [0, 1].
        patch_dim: Width that the trunk squeezes each patch to.
        dropout: Dropout of the squeezed patches.
        sigma_bins: Width of the Gaussian targets in bins; None for two-hot targets.
        lr: Peak learning rate.
        weight_decay: AdamW's weight decay.
        seed: Seed of dropout; with the step it fixes every random number of that step.
    """

    def __init__(  # noqa: PLR0913 - a LightningModule's scalars are its config
        self,
        *,
        camera: str,
        encoder_id: str,
        num_patches: int,
        feature_dim: int,
        hidden_dim: int = 128,
        num_bins: int = 201,
        patch_dim: int = 16,
        dropout: float = 0.3,
        sigma_bins: float | None = 0.75,
        lr: float = 1e-3,
        weight_decay: float = 0.01,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.model = DistributionalProgressModel(
            camera=camera,
            encoder_id=encoder_id,
            num_patches=num_patches,
            feature_dim=feature_dim,
            hidden_dim=hidden_dim,
            num_bins=num_bins,
            patch_dim=patch_dim,
            dropout=dropout,
        )
        self.feature_key = f"observation.features.{camera}"
        self.order_accuracy = OrderAccuracy()
        self.rank_correlation = RankCorrelation()
        self.progress_error = ProgressError()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another encoder or architecture."""
        refuse_other_checkpoint(self, checkpoint)

    def on_train_batch_start(self, batch: ProgressBatch, batch_idx: int) -> None:
        """Seed dropout by seed, step and rank, so that a resumed run draws the same numbers.

        Per step and not per epoch: loaders draw from the same generator, and a Trainer that
        restarts creates them at other moments.
        """
        step_seed = self.hparams["seed"] * 1_000_003 + self.global_step
        torch.manual_seed(step_seed * 1009 + self.global_rank)

    def training_step(self, batch: ProgressBatch, batch_idx: int) -> Float[Tensor, ""]:
        """Loss of one batch of labelled frames."""
        logits = self.model(batch[self.feature_key], batch["task"]).logits
        loss = distributional_cross_entropy(
            logits,
            batch["progress"],
            sigma_bins=self.hparams["sigma_bins"],
            count=global_count(batch["progress"].isfinite()),
        )
        num = len(batch["progress"])
        self.log("train/loss", loss, prog_bar=True, on_step=False, on_epoch=True, batch_size=num)
        return loss

    def validation_step(self, batch: ProgressBatch, batch_idx: int) -> None:
        """Update the episode metrics with whole episodes."""
        self._evaluate(batch, "val")

    def test_step(self, batch: ProgressBatch, batch_idx: int) -> None:
        """Update the episode metrics with whole episodes."""
        self._evaluate(batch, "test")

    def predict_step(self, batch: ProgressBatch, batch_idx: int) -> dict[str, Tensor]:
        """Progress ``(b, t)`` and ``episode_index`` ``(b,)`` of whole episodes."""
        return {
            "episode_index": batch["episode_index"],
            "progress": self.model.compute_progress(batch),
        }

    def configure_optimizers(self) -> Any:
        """AdamW and a cosine schedule, stepped per batch."""
        optimizer = torch.optim.AdamW(
            self.parameters(), lr=self.hparams["lr"], weight_decay=self.hparams["weight_decay"]
        )
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(
            optimizer, T_max=int(self.trainer.estimated_stepping_batches)
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def _evaluate(self, batch: ProgressBatch, stage: str) -> None:
        metrics = {
            f"{stage}/order_accuracy": self.order_accuracy,
            f"{stage}/rank_correlation": self.rank_correlation,
            f"{stage}/mean_absolute_error": self.progress_error,
        }
        predicted = self.model.compute_progress(batch)
        for progress, target in zip(predicted, batch["progress"], strict=True):
            for metric in metrics.values():
                metric.update(progress, target)
        self.log_dict(metrics, on_step=False, on_epoch=True, prog_bar=True, batch_size=1)
