"""Lightning shells of SARM and SARM2: stages, primitives, gated experts."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from value_models.distributed import global_count, known_class_loss, known_squared_error
from value_models.functional.experts import (
    collapse_score,
    expert_load,
    importance_variance,
    routing_entropy,
    switch_balance_loss,
)
from value_models.functional.windows import length_mask
from value_models.metrics import ClassAccuracy
from value_models.primitives import NULL_INDEX, primitive_group
from value_models.sarm import StageAwareModel
from value_models.sarm2 import GatedOutput, GatedValueModel, PrimitiveEstimator, PrimitiveOutput
from value_models.types import ProgressBatch
from value_models.window_modules import WindowModule, progress_loss


class StageModule(WindowModule):
    """SARM: cross-entropy of the stage and squared error of the progress within it.

    Reads ``stage`` for the first head of ``priors`` and ``stage_<head>`` for the others.

    Args:
        tell_stage: Share of windows in which the second transformer is told the true stage.
        kwargs: See `WindowModule`; ``network`` needs ``priors``.
    """

    model_class = StageAwareModel

    def __init__(self, *, tell_stage: float = 0.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def loss(self, batch: ProgressBatch) -> Float[Tensor, ""]:
        """Sum over heads."""
        model: StageAwareModel = self.model
        tokens = model.embed(model.read_features(batch), model.read_state(batch))
        words = model.instruction(batch["task"])
        total = torch.zeros((), device=tokens.device)
        for head, shares in model.priors.items():
            suffix = "" if head == model.default_head else f"_{head}"
            if f"stage{suffix}" not in batch:
                raise KeyError(f"Expected 'stage{suffix}' for head {head!r} in the episodes.")
            stage, tau = batch[f"stage{suffix}"], batch[f"tau{suffix}"]
            if stage.max() >= len(shares):
                raise ValueError(
                    f"Head {head!r} has {len(shares)} stages in `priors`, the labels have stage "
                    f"{int(stage.max())}."
                )
            told = torch.rand(len(stage), 1, device=stage.device) < self.hparams["tell_stage"]
            out = model.decode(tokens, words, head=head, stage=torch.where(told, stage, -1))
            total = total + known_class_loss(out.logits, stage)
            total = total + known_squared_error(out.tau, tau)
        return total

    def metrics(self) -> dict[str, Any]:
        """Those of progress, and the accuracy of stages."""
        return {**super().metrics(), "stage_accuracy": ClassAccuracy()}

    def evaluate(self, batch: ProgressBatch, stage: str) -> None:
        """Update and log all metrics."""
        if "stage" in batch:
            self.val_metrics["stage_accuracy"].update(
                self.model.compute_stages(batch), batch["stage"]
            )
        super().evaluate(batch, stage)


class PrimitiveModule(WindowModule):
    """SARM2's estimator of action primitives, trained on its own.

    Args:
        group_weight: Weight of the cross-entropy of the groups.
        kwargs: See `WindowModule`.
    """

    model_class = PrimitiveEstimator

    def __init__(self, *, group_weight: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def loss(self, batch: ProgressBatch) -> Float[Tensor, ""]:
        """Cross-entropy of the newest frame's primitive."""
        label = newest_primitive(batch, self.model.num_frames)
        return primitive_loss(self.model(batch), label, group_weight=self.hparams["group_weight"])

    def metrics(self) -> dict[str, Any]:
        """Accuracy over all frames, and over those that are not null."""
        return {"accuracy": ClassAccuracy(), "accuracy_no_null": ClassAccuracy(ignore=NULL_INDEX)}

    def evaluate(self, batch: ProgressBatch, stage: str) -> None:
        """Update and log the accuracies."""
        predicted = self.model.compute_primitives(batch)
        for metric in self.val_metrics.values():
            metric.update(predicted, batch["primitive"])
        self.log_metrics(stage)

    def predict_step(self, batch: ProgressBatch, batch_idx: int) -> dict[str, Tensor]:
        """Primitive ``(b, t)`` and ``episode_index`` ``(b,)`` of whole episodes."""
        primitive = self.model.compute_primitives(batch)
        return {"episode_index": batch["episode_index"], "primitive": primitive}


class GatedModule(WindowModule):
    """SARM2's value decoder: squared error, routing terms, and the estimator jointly or frozen.

    Args:
        estimator_folder: Saved `PrimitiveEstimator` to begin with; needed if not joint.
        joint: Train the estimator too, by its own loss, which needs ``primitive`` in the episodes,
            and by the decoder's.
        estimator_weight: Weight of the estimator's loss if joint.
        auxiliary: Weight of the three routing terms together.
        balance: Weight of the Switch balance loss.
        importance: Weight of the variance of the experts' importance.
        entropy: Weight of the routing entropy, which is rewarded.
        kwargs: See `WindowModule`.

    Raises:
        ValueError: If an estimator would stay as random as it is.
    """

    model_class = GatedValueModel

    def __init__(
        self,
        *,
        estimator_folder: str | None = None,
        joint: bool = True,
        estimator_weight: float = 0.25,
        auxiliary: float = 0.2,
        balance: float = 0.05,
        importance: float = 0.1,
        entropy: float = 0.01,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if estimator_folder is not None:
            self.model.load_estimator(PrimitiveEstimator.from_pretrained(estimator_folder))
        if not joint and self.model.estimator is not None:
            if estimator_folder is None:
                raise ValueError(
                    "Expected an `estimator_folder` where `joint` is false, got None: nobody would "
                    "train the estimator. Name a saved one, or set `use_estimator` false in "
                    "`network`."
                )
            self.model.estimator.requires_grad_(requires_grad=False)

    def on_train_batch_start(self, batch: ProgressBatch, batch_idx: int) -> None:
        """Seed; a frozen estimator also estimates without dropout."""
        super().on_train_batch_start(batch, batch_idx)
        if not self.hparams["joint"] and self.model.estimator is not None:
            self.model.estimator.eval()

    def loss(self, batch: ProgressBatch) -> Float[Tensor, ""]:
        """Squared error of progress, routing terms and the estimator's loss."""
        out: GatedOutput = self.model(batch)
        loss = progress_loss(out.progress, batch) + self._routing_loss(out, batch)
        if self.hparams["joint"] and out.estimate is not None:
            label = newest_primitive(batch, self.model.num_frames)
            estimate = primitive_loss(out.estimate, label, group_weight=1.0)
            loss = loss + self.hparams["estimator_weight"] * estimate
        return loss

    def _routing_loss(self, out: GatedOutput, batch: ProgressBatch) -> Tensor:
        real = length_mask(batch["length"], out.progress.shape[1])
        probs, chosen = out.probs[real], out.experts[real]
        load = expert_load(chosen, num_experts=probs.shape[-1])
        self.log("train/expert_collapse", collapse_score(load), on_step=False, on_epoch=True,
                 batch_size=len(real))  # fmt: skip
        terms: Tensor = (
            self.hparams["balance"] * switch_balance_loss(probs, chosen)
            + self.hparams["importance"] * importance_variance(probs)
            - self.hparams["entropy"] * routing_entropy(probs)
        )
        # Each process routes its own tokens; it counts by how many of all they are.
        share = len(probs) / global_count(real).clamp(min=1.0)
        return float(self.hparams["auxiliary"]) * share * terms


def newest_primitive(batch: ProgressBatch, num_frames: int) -> Tensor:
    """Label of the newest frame of each window, before any rewinding."""
    if "primitive" not in batch:
        raise KeyError(
            "Expected 'primitive' in the episodes: the estimator learns from it. Record it, or "
            "train a `GatedModule` with `joint` false and an `estimator_folder`, or with "
            "`use_estimator` false in its `network`."
        )
    label: Tensor = batch["primitive"][:, num_frames]
    return label


def primitive_loss(estimate: PrimitiveOutput, label: Tensor, *, group_weight: float) -> Tensor:
    """Cross-entropy of the primitive plus ``group_weight`` times that of its group."""
    group = torch.where(label >= 0, primitive_group(label.clamp(min=0)), -1)
    loss = known_class_loss(estimate.primitive_logits, label)
    return loss + group_weight * known_class_loss(estimate.group_logits, group)
