"""Lightning shells of models on windows: what they have in common, and those of one head."""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from value_models.base import FrozenFeatureModel
from value_models.distributed import known_squared_error, window_mean
from value_models.functional.ranking import (
    pairwise_ranking_loss,
    sample_pairs,
    sampled_ranking_loss,
)
from value_models.functional.windows import length_mask
from value_models.progress_model import TemporalRankingModel
from value_models.types import ProgressBatch
from value_models.value_module import ValueModule
from value_models.window_model import RewindRegressor, SuccessClassifier, WindowModel


class WindowModule(ValueModule):
    """Trains a model on windows of frames; subclasses bring the loss.

    Losses are sums over real frames of all processes divided by their number.

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
        model: TemporalRankingModel = self.model
        values = model(model.read_features(batch), batch["task"], model.read_state(batch)).value
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
