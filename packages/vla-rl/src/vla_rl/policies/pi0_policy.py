"""π0 on transformers' own classes, with the log-probabilities that reinforcement learning needs."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor, nn
from transformers import PI0ForConditionalGeneration

from vla_rl.functional.flow import hold_last_action
from vla_rl.functional.policy_losses import imitation_mean
from vla_rl.observations import image_key, require, to_tensor
from vla_rl.policies.noisy_walk import NoisyWalk
from vla_rl.policies.pi0_inputs import Tokenize, image_prompt, scale_images
from vla_rl.policies.small_policy import require_replay
from vla_rl.policies.trunk import as_vector
from vla_rl.types import ActOutput, EvaluateOutput, ImitationBatch, Observation

_SETTINGS = "vla_rl.json"


class _Encoded(NamedTuple):
    """Images, instruction and state of a decision, ready for the steps of a walk."""

    cache: Any
    attention_mask: Tensor
    state: Tensor
    summary: Tensor


class PI0Policy(nn.Module):
    """Images, state and instruction to a chunk of actions by a flow-matching vision-language model.

    It acts by a `vla_rl.policies.noisy_walk.NoisyWalk` ("Flow-SDE"). The vision-language prefix is
    encoded once per decision; each step of the walk reads its cache. The critic reads the state and
    the mean embedding of the prefix, and sends no gradient back.

    Source: π0 (arXiv 2410.24164); Flow-GRPO (arXiv 2505.05470) for the walk.
    """

    action_mean: Tensor
    action_std: Tensor
    state_mean: Tensor
    state_std: Tensor

    def __init__(
        self,
        model: PI0ForConditionalGeneration,
        tokenize: Tokenize,
        *,
        cameras: Sequence[str],
        action_mean: Sequence[float],
        action_std: Sequence[float],
        state_mean: Sequence[float],
        state_std: Sequence[float],
        num_steps: int = 4,
        noise_level: float = 0.5,
    ) -> None:
        """Wrap a model.

        Args:
            model: Trained in place.
            tokenize: See `Tokenize`; `vla_rl.policies.pi0_inputs.tokenizer_of` makes one of a
                transformers tokenizer.
            cameras: Names of the cameras, in the order the model was trained with.
            action_mean: What normalised actions are multiples of deviations from, per dimension; as
                many as the robot has, at most ``config.max_action_dim``.
            action_std: Standard deviation of each.
            state_mean: The same for ``observation.state``.
            state_std: Standard deviation of each.
            num_steps: Steps from noise to actions, at least 2; fewer than the model's 10 cost less
                memory in training.
            noise_level: Of the noisy walk, positive.

        Raises:
            ValueError: If a list does not fit the model or a number is out of its range.
        """
        super().__init__()
        config = model.config
        self.model, self.tokenize, self.cameras = model, tokenize, list(cameras)
        self.action_dim, self.state_dim = len(action_mean), len(state_mean)
        self.chunk = config.chunk_size
        if self.action_dim > config.max_action_dim or self.state_dim > config.max_state_dim:
            raise ValueError(
                f"Expected at most {config.max_action_dim} actions and {config.max_state_dim} "
                f"states, got {self.action_dim} and {self.state_dim}."
            )
        self.walk = NoisyWalk(num_steps=num_steps, noise_level=noise_level)
        for name, values in (
            ("action_mean", action_mean),
            ("action_std", action_std),
            ("state_mean", state_mean),
            ("state_std", state_std),
        ):
            size = self.action_dim if name.startswith("action") else self.state_dim
            self.register_buffer(name, as_vector(values, size, name))
        width = config.vlm_config.text_config.hidden_size
        width += config.max_state_dim
        self.value_head = nn.Sequential(nn.Linear(width, 256), nn.SiLU(), nn.Linear(256, 1))

    @classmethod
    def from_pretrained(cls, name: str | Path, tokenize: Tokenize, **settings: Any) -> Self:
        """Load a model by name or folder; other arguments are those of ``__init__``.

        In a folder that `save_pretrained` wrote they are those of the policy, unless given.
        """
        file = Path(name) / _SETTINGS
        saved = json.loads(file.read_text()) if file.is_file() else {}
        model = PI0ForConditionalGeneration.from_pretrained(str(name))
        return cls(model, tokenize, **(saved | settings))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model and the settings, without the critic, for `from_pretrained`."""
        self.model.save_pretrained(str(folder))
        (Path(folder) / _SETTINGS).write_text(json.dumps(self._settings(), indent=2) + "\n")

    def identity(self) -> dict[str, Any]:
        """Return what a checkpoint must agree on."""
        model = self.model.config.to_dict() | {"_name_or_path": ""}
        return {**self._settings(), "model": model}

    def _settings(self) -> dict[str, Any]:
        names = ("action_mean", "action_std", "state_mean", "state_std")
        return {
            "cameras": self.cameras,
            "num_steps": self.walk.num_steps,
            "noise_level": self.walk.noise_level,
            **{name: getattr(self, name).tolist() for name in names},
        }

    @torch.no_grad()
    def act(
        self, obs: Observation, *, generator: Generator | None = None, deterministic: bool = False
    ) -> ActOutput:
        """Choose a chunk of actions for each row of ``obs``; noiseless when ``deterministic``."""
        replay = self.read(obs)
        encoded = self._encode(replay)
        shape = (len(replay["state"]), self.chunk, self.model.config.max_action_dim)
        walk = self.walk.draw(
            torch.zeros(shape, device=self.action_mean.device),
            partial(self._velocity, encoded),
            generator=generator,
            deterministic=deterministic,
        )
        replay["walk"] = walk
        return ActOutput(
            actions=self.action_mean + self.action_std * walk[:, -1, :, : self.action_dim],
            log_prob=self._log_prob(encoded, replay),
            value=self._value(encoded),
            replay=replay,
        )

    def evaluate(self, replay: Mapping[str, Tensor]) -> EvaluateOutput:
        """Score the walks in ``replay`` under the present parameters, with gradients."""
        device = self.action_mean.device
        replay = {key: value.to(device) for key, value in replay.items()}
        encoded = self._encode(replay)
        log_prob = self._log_prob(encoded, replay)
        entropy = self.walk.entropy().to(device)
        return EvaluateOutput(
            log_prob=log_prob, entropy=entropy.expand_as(log_prob), value=self._value(encoded)
        )

    def imitation_loss(
        self, batch: ImitationBatch, *, reduction: Literal["none", "mean"] = "none"
    ) -> Tensor:
        """Return the squared error of the velocity at a random time and from random noise.

        Times are drawn as the model's configuration says. Draws from torch's global generator.

        Args:
            batch: An observation with ``action`` ``(n, k, a)`` and ``action_is_pad`` ``(n, k)``.
            reduction: ``none`` gives the mean over each sample's own actions ``(n,)``; ``mean`` the
                mean over all actions of the batch.
        """
        inputs, config = self.read(batch), self.model.config
        action = to_tensor(require(batch, "action"), self.action_mean.device).to(torch.float32)
        if action.shape[1:] != (self.chunk, self.action_dim):
            raise ValueError(
                f"Expected `action` of shape (n, {self.chunk}, {self.action_dim}), "
                f"got {tuple(action.shape)}."
            )
        mask = ~to_tensor(require(batch, "action_is_pad"), action.device)
        normalized = (hold_last_action(action, mask) - self.action_mean) / self.action_std
        clean = F.pad(normalized, (0, config.max_action_dim - self.action_dim))
        noise = torch.randn_like(clean)
        beta = torch.distributions.Beta(
            float(config.time_sampling_beta_alpha), float(config.time_sampling_beta_beta)
        )
        t = beta.sample((len(clean),)).to(clean.device)
        t = t * config.time_sampling_scale + config.time_sampling_offset
        x = (1.0 - t[:, None, None]) * clean + t[:, None, None] * noise
        velocity = self._velocity(self._encode(inputs), x, t)
        error = (velocity - (noise - clean)).square()[..., : self.action_dim]
        return imitation_mean(error, mask, reduction=reduction)

    def read(self, obs: Observation) -> dict[str, Tensor]:
        """Return what the model reads of an observation, checked, as tensors on its device.

        Raises:
            ValueError: If an image, the state or the task is missing or has another shape.
        """
        device, config = self.action_mean.device, self.model.config
        tasks = list(require(obs, "task"))
        state = to_tensor(require(obs, "observation.state"), device).to(torch.float32)
        if state.shape != (len(tasks), self.state_dim):
            raise ValueError(
                f"Expected `observation.state` of shape ({len(tasks)}, {self.state_dim}), "
                f"got {tuple(state.shape)}."
            )
        state = (state - self.state_mean) / self.state_std.clamp(min=1e-6)
        vision = config.vlm_config.vision_config
        images = [
            scale_images(require(obs, image_key(camera)), size=vision.image_size, device=device)
            for camera in self.cameras
        ]
        ids, attention = image_prompt(
            self.tokenize(tasks),
            num_image_tokens=(vision.image_size // vision.patch_size) ** 2 * len(images),
            image_token_id=config.vlm_config.image_token_id,
        )
        return {
            "state": F.pad(state, (0, config.max_state_dim - self.state_dim)),
            "pixel_values": torch.stack(images, 1),
            "input_ids": ids.to(device),
            "attention_mask": attention.to(device),
        }

    def _encode(self, inputs: Mapping[str, Tensor]) -> _Encoded:
        """Encode images and instruction once, for all steps of a walk."""
        pixels, attention = inputs["pixel_values"], inputs["attention_mask"]
        present = torch.ones(pixels.shape[:2], dtype=torch.bool, device=pixels.device)
        embeds = self.model.model.embed_prefix(inputs["input_ids"], pixels, present)
        cache = self.model.model.vlm(
            inputs_embeds=embeds,
            attention_mask=attention,
            position_ids=attention.cumsum(-1) - 1,
            token_type_ids=torch.zeros_like(attention),  # all of the prefix sees all of it
            use_cache=True,
        ).past_key_values
        real = attention[..., None].to(embeds.dtype)
        summary = (embeds * real).sum(1) / real.sum(1)
        return _Encoded(cache, attention, inputs["state"], summary)

    def _velocity(self, encoded: _Encoded, x: Tensor, t: float | Tensor) -> Tensor:
        time = torch.as_tensor(t, dtype=torch.float32, device=x.device).expand(len(x))
        length = encoded.attention_mask.shape[1]
        output = self.model(
            state=encoded.state,
            noise=x,
            timestep=time,
            attention_mask=encoded.attention_mask,
            past_key_values=encoded.cache,
        )
        # What this step added to the cache is not for the next one to see.
        encoded.cache.crop(length - encoded.cache.get_seq_length())
        return cast(Tensor, output.logits).float()

    def _value(self, encoded: _Encoded) -> Float[Tensor, " n"]:
        seen = torch.cat([encoded.summary.detach().float(), encoded.state], -1)
        with torch.autocast(seen.device.type, enabled=False):  # critics are float32
            value: Tensor = self.value_head(seen)[:, 0]
        return value

    def _log_prob(self, encoded: _Encoded, replay: Mapping[str, Tensor]) -> Float[Tensor, "n k a"]:
        walk = require_replay(replay, "walk", encoded.state.device)
        # The other dimensions are padding that no robot executes.
        return self.walk.log_prob(walk, partial(self._velocity, encoded))[..., : self.action_dim]
