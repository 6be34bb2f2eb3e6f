"""OpenVLA-OFT with continuous actions: a regressor, which other policies can build on."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from vla_rl.functional.policy_losses import imitation_mean
from vla_rl.policies.openvla.action_tokens import Bounds
from vla_rl.policies.openvla.base import OpenVLABase
from vla_rl.policies.openvla.checkpoint import DType, load_head, load_published
from vla_rl.policies.openvla.heads import RegressionHead
from vla_rl.policies.openvla.inputs import Tokenizer
from vla_rl.policies.openvla.network import OpenVLANetwork
from vla_rl.types import ImitationBatch


class OpenVLARegressor(OpenVLABase):
    """Images and an instruction to a chunk of actions by regression, decoded in parallel.

    It gives no probabilities; `vla_rl.policies.discretized_policy.DiscretizedPolicy` adds them.

    Source: Kim, Finn, Liang (2025), arXiv 2502.19645.
    """

    def __init__(
        self,
        network: OpenVLANetwork,
        *,
        tokenizer: Tokenizer,
        action_bounds: Bounds,
        proprio_bounds: Bounds | None = None,
        cameras: Sequence[str] = ("front",),
        chunk: int = 8,
        max_prompt_tokens: int = 64,
        crop_area: float = 1.0,
    ) -> None:
        """Wrap a network; see `vla_rl.policies.openvla.policy.OpenVLAPolicy` for the arguments."""
        super().__init__(
            network,
            tokenizer=tokenizer,
            action_bounds=action_bounds,
            proprio_bounds=proprio_bounds,
            cameras=cameras,
            chunk=chunk,
            max_prompt_tokens=max_prompt_tokens,
            crop_area=crop_area,
            stop_token=True,
        )
        self.action_head = RegressionHead(text_dim=network.hidden_dim, action_dim=self.action_dim)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str,
        *,
        unnorm_key: str | None = None,
        proprio: bool = True,
        revision: str | None = None,
        dtype: DType = "bfloat16",
        **settings: Any,
    ) -> "OpenVLARegressor":
        """Load a published checkpoint of OpenVLA-OFT with its heads.

        Args:
            name_or_path: Folder, or repository on the Hugging Face hub.
            unnorm_key: Data set whose statistics scale actions; None where there is only one.
            proprio: Whether the checkpoint reads ``observation.state``.
            revision: Branch, tag or commit on the hub.
            dtype: Of the network's weights.
            settings: Other arguments of the constructor.

        Raises:
            CheckpointError: If it is another model, or its weights do not fit.
        """
        published = load_published(name_or_path, revision=revision, dtype=dtype)
        bounds = Bounds.from_norm_stats(published.norm_stats, unnorm_key)
        arguments: dict[str, Any] = {"tokenizer": None, "action_bounds": bounds} | settings
        if arguments["tokenizer"] is None:
            arguments["tokenizer"] = published.tokenizer()
        if proprio and "proprio_bounds" not in settings:
            arguments["proprio_bounds"] = Bounds.from_norm_stats(
                published.norm_stats, unnorm_key, of="proprio"
            )
        policy = cls(published.network, **arguments)
        load_head(policy.action_head, published.folder, "action_head")
        if policy.proprio_projector is not None:
            load_head(policy.proprio_projector, published.folder, "proprio_projector")
        return policy

    def predict(self, inputs: Mapping[str, Tensor]) -> Float[Tensor, "n k a"]:
        """Return action chunks in the environment's units, with gradients."""
        return self.action_bounds.unnormalize(self._regress(inputs))

    def imitation_loss(
        self, batch: ImitationBatch, *, reduction: Literal["none", "mean"] = "none"
    ) -> Tensor:
        """Return the absolute error of normalised actions, per sample ``(n,)`` or its mean.

        Raises:
            ValueError: If a key is missing, the chunk length is another or an action is not finite.
        """
        action, mask = self._demonstrations(batch)
        return imitation_mean(
            (self._regress(self.read(batch)) - action).abs(), mask, reduction=reduction
        )

    def _regress(self, inputs: Mapping[str, Tensor]) -> Float[Tensor, "n k a"]:
        prefix = self._prefix(inputs)
        hidden = self.network.read_parallel(prefix, self.chunk * self.action_dim)
        actions: Tensor = self.action_head(hidden)
        return actions
