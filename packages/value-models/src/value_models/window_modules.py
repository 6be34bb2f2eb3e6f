"""Lightning shells: what all have in common, and those of one head."""

from abc import abstractmethod
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from lightning import LightningModule
from torch import Tensor, nn

from value_models.base import FrozenFeatureModel
from value_models.checkpoints import refuse_other_checkpoint
from value_models.distributed import known_squared_error, window_mean
from value_models.functional.ranking import (
    pairwise_ranking_loss,
    sample_pairs,
    sampled_ranking_loss,
)
from value_models.functional.windows import length_mask
from value_models.metrics import (
    EpisodeMean,
    OrderAccuracy,
    ProgressError,
    RankCorrelation,
    SquaredError,
)
from value_models.progress_model import TemporalRankingModel
from value_models.types import ProgressBatch
from value_models.window_model import RewindRegressor, SuccessClassifier, WindowModel


class WindowModule(LightningModule):
    """Trains a model on windows of frames; subclasses bring the loss.

    AdamW, linear warm-up, cosine to zero. Losses are sums over real frames of all processes
    divided by their number.

    Args:
        camera: Camera that the model looks through.
        encoder_id: Identity of the frozen encoder.
        num_patches: Patches per frame.
        feature_dim: Width of a patch feature.
        network: Other arguments of the network, such as ``hidden_dim``; unknown ones are refused.
            ``num_frames`` and ``stride`` must be those of the data's windows.
        lr: Peak learning rate.
        weight_decay: AdamW's weight decay.
        warmup_steps: Steps of linear warm-up.
        seed: Seed of dropout and other draws; with the step it fixes each of them.
    """

    model_class: ClassVar[Any]

    def __init__(
        self,
        *,
        camera: str,
        encoder_id: str,
        num_patches: int,
        feature_dim: int,
        network: dict[str, Any] | None = None,
        lr: float = 1e-3,
        weight_decay: float = 0.01,
        warmup_steps: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        try:
            self.model: Any = self.model_class(
                camera=camera,
                encoder_id=encoder_id,
                num_patches=num_patches,
                feature_dim=feature_dim,
                **(network or {}),
            )
        except TypeError as error:
            raise ValueError(f"`network` {network} does not fit: {error}.") from error
        assert isinstance(self.model, FrozenFeatureModel)
        # Typed loosely: what is in a ModuleDict is a Module to mypy, and no metric.
        self.val_metrics: Any = nn.ModuleDict(self.metrics())

    @abstractmethod
    def loss(self, batch: ProgressBatch) -> Float[Tensor, ""]:
        """Loss of a batch of windows."""

    def metrics(self) -> dict[str, Any]:
        """Metrics of validation, by name."""
        return {
            "order_accuracy": OrderAccuracy(),
            "rank_correlation": RankCorrelation(),
            "mean_absolute_error": ProgressError(),
            "squared_error": SquaredError(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another encoder or architecture."""
        refuse_other_checkpoint(self, checkpoint)

    def on_fit_start(self) -> None:
        """Refuse windows that differ from those the model looks at when used."""
        data = getattr(self.trainer, "datamodule", None)
        spec = getattr(data, "windows", None)
        if data is not None and spec is None:
            raise ValueError("Expected `data.windows`, got none: this model trains on windows.")
        if spec is not None and isinstance(self.model, WindowModel):
            wanted = (self.model.num_frames, self.model.stride)
            if (spec.num_frames, spec.stride) != wanted:
                raise ValueError(
                    f"The model looks at (num_frames, stride) {wanted}, `data.windows` has "
                    f"{(spec.num_frames, spec.stride)}; make them equal."
                )

    def on_train_epoch_start(self) -> None:
        """Tell the windows which epoch it is.

        With several processes the Trainer wraps the sampler in one of its own, and tells only that.
        """
        sampler = getattr(getattr(self.trainer.train_dataloader, "dataset", None), "sampler", None)
        if sampler is not None:
            sampler.set_epoch(self.current_epoch)

    def on_train_batch_start(self, batch: ProgressBatch, batch_idx: int) -> None:
        """Seed by seed, step and rank, so that a resumed run draws the same numbers."""
        step_seed = self.hparams["seed"] * 1_000_003 + self.global_step
        torch.manual_seed(step_seed * 1009 + self.global_rank)

    def training_step(self, batch: ProgressBatch, batch_idx: int) -> Float[Tensor, ""]:
        """Loss of one batch of windows."""
        loss = self.loss(batch)
        num = len(batch["length"])
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
        progress = self.model.compute_progress(batch)
        return {"episode_index": batch["episode_index"], "progress": progress}

    def evaluate(self, batch: ProgressBatch, stage: str) -> None:
        """Update and log the metrics of progress."""
        predicted = self.model.compute_progress(batch)
        for progress, target in zip(predicted, batch["progress"], strict=True):
            for metric in self.val_metrics.values():
                if isinstance(metric, EpisodeMean):
                    metric.update(progress, target)
        self._log_metrics(stage)

    def configure_optimizers(self) -> Any:
        """AdamW, warm-up and cosine, stepped per batch."""
        optimizer = torch.optim.AdamW(
            (p for p in self.parameters() if p.requires_grad),
            lr=self.hparams["lr"],
            weight_decay=self.hparams["weight_decay"],
        )
        total = int(self.trainer.estimated_stepping_batches)
        warmup = min(self.hparams["warmup_steps"], total - 1)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=total - warmup)
        scheduler: Any = cosine
        if warmup:
            rise = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0 / warmup, 1.0, warmup)
            scheduler = torch.optim.lr_scheduler.SequentialLR(optimizer, [rise, cosine], [warmup])
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def _log_metrics(self, stage: str) -> None:
        named: Any = {f"{stage}/{name}": metric for name, metric in self.val_metrics.items()}
        self.log_dict(named, on_step=False, on_epoch=True, prog_bar=True, batch_size=1)


class RankingModule(WindowModule):
    """RFTF: later frames of a successful episode are worth more; no label is read.

    Windows of failures, and those with another task's instruction, are left out.

    Args:
        num_pairs: Pairs to draw per window; all if None.
        centring: Weight of the mean square of the values.
        kwargs: See `WindowModule`.
    """

    model_class = TemporalRankingModel

    def __init__(
        self, *, num_pairs: int | None = None, centring: float = 1e-3, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)

    def loss(self, batch: ProgressBatch) -> Float[Tensor, ""]:
        """Mean over windows of the pairwise logistic loss, plus the centring penalty."""
        time, length = batch["frame_index"], batch["length"]
        mask = length_mask(length, time.shape[1])
        values = self.model(self.model.read_features(batch), batch["task"]).value
        num_pairs = self.hparams["num_pairs"]
        if num_pairs is None:
            losses = pairwise_ranking_loss(values, time, mask)
        else:
            losses = sampled_ranking_loss(values, time, sample_pairs(length, num_pairs=num_pairs))
        # Later is better only where the task is being done.
        has_pair = (time.masked_fill(~mask, 0).amax(1) > 0) & batch["demonstrates"]
        # `functional.centring_penalty`, over the frames of all processes.
        centred: Tensor = self.hparams["centring"] * window_mean(values.square(), mask)
        return window_mean(losses, has_pair) + centred


class RewindModule(WindowModule):
    """One head, squared error: the baseline."""

    model_class = RewindRegressor

    def loss(self, batch: ProgressBatch) -> Float[Tensor, ""]:
        """Squared error of progress."""
        return progress_loss(self.model(batch).progress, batch)


class SuccessModule(WindowModule):
    """Binary cross-entropy on whether the task is done; train it on failures too."""

    model_class = SuccessClassifier

    def loss(self, batch: ProgressBatch) -> Float[Tensor, ""]:
        """Cross-entropy of done frames against all others."""
        logits, target = self.model(batch).logits, batch["success"]
        known = target.isfinite() & length_mask(batch["length"], target.shape[1])
        filled = torch.where(known, target, 0.0)
        losses = F.binary_cross_entropy_with_logits(logits, filled, reduction="none")
        return window_mean(losses, known)


def progress_loss(progress: Tensor, batch: ProgressBatch) -> Tensor:
    """Squared error over the labelled places of windows."""
    return known_squared_error(progress, batch["progress"])
