"""What the small policies share: a trunk, a critic, the reading of batches, their files."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import torch
from huggingface_hub import PyTorchModelHubMixin
from huggingface_hub.constants import SAFETENSORS_SINGLE_FILE
from jaxtyping import Bool, Float
from safetensors.torch import save_model
from torch import Tensor, nn

from vla_rl.errors import CheckpointError
from vla_rl.functional.action_bins import check_action_range
from vla_rl.observations import require, to_tensor
from vla_rl.policies.trunk import ObservationTrunk, as_vector
from vla_rl.types import ImitationBatch

CLIPPED_SHARE = 0.5
"""Demonstrated actions outside the range by at most this share of its width are taken for its ends.

Ranges are often quantiles, and what lies outside is clipped (OpenVLA, RT-2). Actions farther
outside are errors: they are in other units.
"""


class SmallPolicy(nn.Module, PyTorchModelHubMixin, library_name="vla-rl", tags=["robotics"]):
    """Base of the policies that act and train on a laptop CPU; about 1 M parameters.

    One trunk over images, state and instruction, one critic that reads its features but sends no
    gradient back. A subclass turns features into action chunks.
    """

    model_type: ClassVar[str]
    """What ``config.json`` calls the architecture."""
    action_low: Tensor
    action_high: Tensor

    def __init__(
        self,
        *,
        action_dim: int,
        chunk: int,
        action_low: float | Sequence[float],
        action_high: float | Sequence[float],
        hidden_dim: int,
        shift_pixels: int,
        **trunk: Any,
    ) -> None:
        """Build the trunk and the actions' side.

        Args:
            action_dim: See the subclasses for this and all that is not described here.
            chunk: Primitive actions per decision.
            action_low: Lower end of the range of actions.
            action_high: Upper end.
            hidden_dim: Width of the features of the trunk.
            shift_pixels: Of images, in imitation.
            trunk: Other arguments of `ObservationTrunk`.
        """
        super().__init__()
        self.trunk = ObservationTrunk(hidden_dim=hidden_dim, **trunk)
        self.chunk, self.action_dim, self.shift_pixels = chunk, action_dim, shift_pixels
        low = as_vector(action_low, action_dim, "action_low")
        high = as_vector(action_high, action_dim, "action_high")
        if not bool((high > low).all()):
            raise ValueError(
                "Expected `action_low` < `action_high` everywhere, got "
                f"{low.tolist()} and {high.tolist()}."
            )
        self.register_buffer("action_low", low, persistent=False)
        self.register_buffer("action_high", high, persistent=False)
        self._hub_mixin_config = {
            **cast(dict[str, Any], self._hub_mixin_config),
            # As plain lists: the mixin would drop arrays from config.json without a word.
            "action_low": low.tolist(),
            "action_high": high.tolist(),
            "state_mean": self.trunk.state_mean.tolist(),
            "state_std": self.trunk.state_std.tolist(),
            "cameras": self.trunk.cameras,
            "model_type": self.model_type,
        }
        self.feature_dim = hidden_dim
        """Width of the features of the trunk."""

    def _add_critic(self) -> None:
        """Build the critic; the last layer a subclass builds."""
        self.value_head = nn.Sequential(
            nn.Linear(self.feature_dim, 128), nn.ReLU(), nn.Linear(128, 1)
        )

    def _value(self, features: Float[Tensor, "n hidden"]) -> Float[Tensor, " n"]:
        # The critic learns from the features but must not bend them: its errors are large at first.
        with torch.autocast(features.device.type, enabled=False):  # and it is float32
            value: Tensor = self.value_head(features.detach().float())[:, 0]
        return value

    def _normalize(self, action: Float[Tensor, "*b a"]) -> Float[Tensor, "*b a"]:
        """Map actions to [-1, 1] over the range that the policy was built with."""
        return 2.0 * (action - self.action_low) / (self.action_high - self.action_low) - 1.0

    def _unnormalize(self, action: Float[Tensor, "*b a"]) -> Float[Tensor, "*b a"]:
        return self.action_low + 0.5 * (action + 1.0) * (self.action_high - self.action_low)

    def _read_demonstrations(
        self, batch: ImitationBatch
    ) -> tuple[dict[str, Tensor], Float[Tensor, "n k a"], Bool[Tensor, "n k"]]:
        """Return the inputs, shifted while training, the actions and which of them count.

        Actions are clipped to their range, and what stands in padding is replaced.

        Raises:
            ValueError: If a key is missing, the chunk length is another, or an action is not
                finite or so far outside the range of actions that its units must be others.
        """
        inputs = self.trunk.shift_images(self.trunk.read(batch), max_pixels=self.shift_pixels)
        device = self.action_low.device
        action = to_tensor(require(batch, "action"), device).to(torch.float32)
        if action.shape[1:] != (self.chunk, self.action_dim):
            raise ValueError(
                f"Expected `action` of shape (n, {self.chunk}, {self.action_dim}), "
                f"got {tuple(action.shape)}."
            )
        mask = ~to_tensor(require(batch, "action_is_pad"), device)
        real = torch.where(mask[..., None], action, self.action_low)
        check_action_range(real, self.action_low, self.action_high, beyond=CLIPPED_SHARE)
        return inputs, real.clamp(self.action_low, self.action_high), mask

    def _save_pretrained(self, save_directory: Path) -> None:
        partial = save_directory / f".{SAFETENSORS_SINGLE_FILE}.partial"
        save_model(self, str(partial))
        os.replace(partial, save_directory / SAFETENSORS_SINGLE_FILE)

    @classmethod
    def _from_pretrained(
        cls, *, model_id: str, config: dict[str, Any] | None = None, **kwargs: Any
    ) -> Self:
        # The mixin hands over the whole config.json because this signature names `config`.
        found = (config or {}).get("model_type")
        if found != cls.model_type:
            raise CheckpointError(
                f"Expected a checkpoint with model_type {cls.model_type!r} at {model_id!r}, got "
                f"{found!r}. Load it with the class that saved it."
            )
        try:
            policy = super()._from_pretrained(model_id=model_id, **(kwargs | {"strict": True}))
        except RuntimeError as error:
            raise CheckpointError(
                f"The weights at {model_id!r} do not fit their config: {error}"
            ) from error
        return cast(Self, policy)


def require_replay(replay: Mapping[str, Tensor], key: str, device: torch.device) -> Tensor:
    """Return an entry of a replay on ``device``.

    Raises:
        ValueError: If it is missing: the decision was made by another kind of policy.
    """
    if key not in replay:
        raise ValueError(f"Expected {key!r} in the replay of a decision, got {sorted(replay)}.")
    return replay[key].to(device)
