"""What the token policy and the regressor on OpenVLA share: reading batches, adapters."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vla_rl.errors import CheckpointError
from vla_rl.observations import image_key, require, to_tensor
from vla_rl.policies.openvla import lora
from vla_rl.policies.openvla.action_tokens import Bounds
from vla_rl.policies.openvla.heads import ProprioProjector
from vla_rl.policies.openvla.inputs import Tokenizer, prepare_images, tokenize_prompts
from vla_rl.policies.openvla.network import OpenVLANetwork, Prefix
from vla_rl.policies.openvla.saving import (
    fingerprint,
    keep_trained_only,
    load_trained,
    read_description,
    save_trained,
)
from vla_rl.policies.small_policy import require_replay
from vla_rl.types import ImitationBatch


class OpenVLABase(nn.Module):
    """An OpenVLA network and how observations become its inputs."""

    def __init__(
        self,
        network: OpenVLANetwork,
        *,
        tokenizer: Tokenizer,
        action_bounds: Bounds,
        proprio_bounds: Bounds | None,
        cameras: Sequence[str],
        chunk: int,
        max_prompt_tokens: int,
        crop_area: float,
        stop_token: bool,
    ) -> None:
        super().__init__()
        if chunk < 1 or isinstance(cameras, str) or not cameras:
            raise ValueError(
                f"Expected `chunk` >= 1 and a list of `cameras`, got {chunk} and {cameras!r}."
            )
        self.network, self.tokenizer = network, tokenizer
        self.action_bounds, self.proprio_bounds = action_bounds, proprio_bounds
        self.cameras, self.chunk, self.action_dim = list(cameras), chunk, len(action_bounds.low)
        self.max_prompt_tokens, self.crop_area = max_prompt_tokens, crop_area
        self.stop_token = stop_token
        self.proprio_projector = None
        if proprio_bounds is not None:
            self.proprio_projector = ProprioProjector(
                proprio_dim=len(proprio_bounds.low), text_dim=network.hidden_dim
            )
        self._has_adapters = False
        self._description: dict[str, Any] = {}

    @property
    def _hub_mixin_config(self) -> dict[str, Any]:
        """What a checkpoint of a run must agree on; see `vla_rl.checkpoints.identity_of`."""
        bounds = {
            "action_low": self.action_bounds.low.tolist(),
            "action_high": self.action_bounds.high.tolist(),
        }
        settings = {"crop_area": self.crop_area, "stop_token": self.stop_token}
        own = {
            name: getattr(self, name)
            for name in ("decoding", "log_prob_over", "temperature")
            if hasattr(self, name)
        }
        return {
            "cameras": self.cameras,
            "chunk": self.chunk,
            **bounds,
            **settings,
            **own,
            **self._description,
        }

    @property
    def disable_adapter(self) -> Any:
        """Context in which the adapters are off: the policy before fine-tuning.

        Only a policy with adapters has it, so ``hasattr`` tells whether there is a reference.
        """
        if not self._has_adapters:
            raise AttributeError("Expected adapters; call `add_lora` first.")
        return self._adapters_off

    def _adapters_off(self) -> AbstractContextManager[None]:
        return lora.adapters_off(self.network)

    def add_lora(self, *, rank: int = 32, alpha: int | None = None) -> None:
        """Freeze the network and give its linear layers trainable low-rank adapters.

        Other heads of the policy stay trainable. From here on ``state_dict`` holds no frozen
        parameter: checkpoints are small, and are loaded into a policy with the same adapters.

        Args:
            rank: Of the adapters.
            alpha: Adapters are scaled by ``alpha / rank``; OpenVLA's min(rank, 16) when None.

        Raises:
            ModuleNotFoundError: If peft is missing; install ``vla-rl[lora]``.
            ValueError: If there are adapters already.
        """
        if self._has_adapters:
            raise ValueError("Expected a policy without adapters, got one that has them.")
        alpha = min(rank, 16) if alpha is None else alpha
        network = fingerprint(self.network)
        lora.add_adapters(self.network, rank=rank, alpha=alpha)
        keep_trained_only(self)
        self._has_adapters = True
        self._description = {"lora_rank": rank, "lora_alpha": alpha, "network": network}

    def save_pretrained(self, folder: str | Path) -> None:
        """Write what was trained to a folder; `load_trained` reads it."""
        save_trained(self, Path(folder), self._description)

    def load_trained(self, folder: str | Path) -> None:
        """Add the adapters that `save_pretrained` wrote and load them with the other heads.

        Args:
            folder: Written by a policy on the same network.

        Raises:
            CheckpointError: If the weights do not fit, or were trained on another network.
            ValueError: If there are adapters already.
        """
        found = read_description(Path(folder))
        if "lora_rank" in found:
            present = fingerprint(self.network)
            if found["network"] != present:
                raise CheckpointError(
                    f"Expected adapters in {folder} of the network {present}, got those of "
                    f"{found['network']}. Load the checkpoint that they were trained on."
                )
            self.add_lora(rank=found["lora_rank"], alpha=found["lora_alpha"])
        load_trained(self, Path(folder))

    def enable_gradient_checkpointing(self) -> None:
        """Recompute activations in the backward pass: a third more time, far less memory.

        In every mode: algorithms score decisions in evaluation mode.
        """
        vision = self.network.vision_backbone
        layers = self.network.language_model.model.layers
        for layer in (*layers, *vision.featurizer.blocks, *vision.fused_featurizer.blocks):
            # An instance's attribute wins over its class; a partial survives copy.deepcopy.
            layer.forward = partial(_recompute, layer.forward)

    def read(self, obs: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return what the network reads of an observation, as tensors on its device.

        Raises:
            ValueError: If an image, the state or the task is missing or has another shape.
        """
        device = self.network.projector.fc1.weight.device
        tasks = list(require(obs, "task"))
        ids, mask = tokenize_prompts(self.tokenizer, tasks, length=self.max_prompt_tokens)
        size = self.network.config.towers[0].image_size
        images = []
        for camera in self.cameras:
            image = to_tensor(require(obs, image_key(camera)), device)
            wrong = image.ndim != 4 or len(image) != len(tasks) or image.shape[-1] != 3
            if wrong or image.dtype != torch.uint8:
                raise ValueError(
                    f"Expected `{image_key(camera)}` uint8 of shape ({len(tasks)}, h, w, 3), "
                    f"got {image.dtype} of shape {tuple(image.shape)}."
                )
            images.append(prepare_images(image, size=size, crop_area=self.crop_area))
        inputs = {
            "images": torch.stack(images, dim=1),
            "prompt_ids": ids.to(device),
            "prompt_mask": mask.to(device),
        }
        if self.proprio_bounds is not None:
            state = to_tensor(require(obs, "observation.state"), device).float()
            if state.shape != (len(tasks), len(self.proprio_bounds.low)):
                raise ValueError(
                    "Expected `observation.state` of shape "
                    f"({len(tasks)}, {len(self.proprio_bounds.low)}), got {tuple(state.shape)}."
                )
            inputs["proprio"] = self.proprio_bounds.normalize(state)
        return inputs

    def _prefix(self, inputs: Mapping[str, Tensor]) -> Prefix:
        device = self.network.projector.fc1.weight.device
        state = None
        if self.proprio_projector is not None:
            state = self.proprio_projector(require_replay(inputs, "proprio", device))
        images, ids, mask = (
            require_replay(inputs, key, device) for key in ("images", "prompt_ids", "prompt_mask")
        )
        return self.network.prefix(images, ids, mask, state)

    def _demonstrations(
        self, batch: ImitationBatch
    ) -> tuple[Float[Tensor, "n k a"], Bool[Tensor, "n k"]]:
        """Return the normalised actions and which of them count."""
        device = self.network.projector.fc1.weight.device
        action = to_tensor(require(batch, "action"), device).float()
        if action.shape[1:] != (self.chunk, self.action_dim):
            raise ValueError(
                f"Expected `action` of shape (n, {self.chunk}, {self.action_dim}), "
                f"got {tuple(action.shape)}."
            )
        mask = ~to_tensor(require(batch, "action_is_pad"), device)
        # Beyond the quantiles is clipped, as published; NaN would silently become some token.
        if not bool(action[mask].isfinite().all()):
            row = int((mask & ~action.isfinite().all(-1)).any(-1).nonzero()[0])
            raise ValueError(
                f"Expected finite numbers in `action`, got {action[row].tolist()} in row {row}."
            )
        # What stands in padding must not reach the gradients, as NaN would through any mask.
        return self.action_bounds.normalize(torch.where(mask[..., None], action, 0.0)), mask


def _recompute(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)
