"""Lightning shell of the distributional progress model."""

from jaxtyping import Float
from torch import Tensor

from value_models.distributed import global_count
from value_models.functional.losses import distributional_cross_entropy
from value_models.progress_model import DistributionalProgressModel
from value_models.types import ProgressBatch
from value_models.value_module import ValueModule


class ProgressModule(ValueModule):
    """Trains a `DistributionalProgressModel` by cross-entropy on binned labels.

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
        state_dim: Width of ``observation.state`` to read too; 0 leaves it out.
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
        state_dim: int = 0,
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
            state_dim=state_dim,
        )
        self.feature_key = f"observation.features.{camera}"

    def loss(self, batch: ProgressBatch) -> Float[Tensor, ""]:
        """Cross-entropy of labelled frames."""
        return distributional_cross_entropy(
            self.model(batch[self.feature_key], batch["task"], self.model.read_state(batch)).logits,
            batch["progress"],
            sigma_bins=self.hparams["sigma_bins"],
            count=global_count(batch["progress"].isfinite()),
        )
