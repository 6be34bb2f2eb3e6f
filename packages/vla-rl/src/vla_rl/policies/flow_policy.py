"""A small flow-matching policy: noise is carried to an action chunk in a few steps."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from vla_rl.functional.flow import hold_last_action
from vla_rl.functional.policy_losses import imitation_mean
from vla_rl.policies.noisy_walk import NoisyWalk
from vla_rl.policies.small_policy import SmallPolicy, require_replay
from vla_rl.types import ActOutput, EvaluateOutput, ImitationBatch, Observation

_TIME_DIM = 32


class FlowPolicy(SmallPolicy):
    """Images, state and instruction to a chunk of actions by flow matching.

    It acts by a `NoisyWalk`. Chunks are clipped to the range of actions; probabilities are those
    before clipping.
    """

    model_type: ClassVar[str] = "vla_rl.flow_policy"

    def __init__(  # noqa: PLR0913  # a model's scalars are its config.json
        self,
        *,
        cameras: Sequence[str],
        state_dim: int,
        action_dim: int,
        image_size: int = 64,
        chunk: int = 4,
        num_steps: int = 4,
        noise_level: float = 0.5,
        action_low: float | Sequence[float] = -0.6,
        action_high: float | Sequence[float] = 0.6,
        state_mean: Sequence[float] | None = None,
        state_std: Sequence[float] | None = None,
        channels: Sequence[int] = (24, 48, 64),
        image_dim: int = 160,
        hidden_dim: int = 256,
        normalize: bool = False,
        shift_pixels: int = 2,
    ) -> None:
        """Build the network; every argument is stored in ``config.json``.

        Args:
            cameras: See `vla_rl.policies.token_policy.TokenPolicy` for this and all that is not
                described here.
            state_dim: Width of ``observation.state``.
            action_dim: Width of a primitive action.
            image_size: Height and width of the images, a multiple of 8.
            chunk: Primitive actions per decision.
            num_steps: Steps from noise to actions, at least 2.
            noise_level: Of the noisy walk, positive; about how widely it explores.
            action_low: Lower end of the range of actions.
            action_high: Upper end.
            state_mean: Subtracted from the state.
            state_std: Divides the state.
            channels: Of the image encoder.
            image_dim: Features per camera.
            hidden_dim: Width of the fused features.
            normalize: Of the image encoder and the features.
            shift_pixels: Of images, in imitation.

        Raises:
            ValueError: If a size is not positive or a list has the wrong length.
        """
        super().__init__(
            cameras=cameras,
            state_dim=state_dim,
            action_dim=action_dim,
            image_size=image_size,
            chunk=chunk,
            action_low=action_low,
            action_high=action_high,
            state_mean=state_mean,
            state_std=state_std,
            channels=channels,
            image_dim=image_dim,
            hidden_dim=hidden_dim,
            normalize=normalize,
            shift_pixels=shift_pixels,
        )
        self.walk = NoisyWalk(num_steps=num_steps, noise_level=noise_level)
        self.velocity = nn.Sequential(
            nn.Linear(hidden_dim + _TIME_DIM + chunk * action_dim, 256),
            nn.SiLU(),
            nn.Linear(256, 256),
            nn.SiLU(),
            nn.Linear(256, chunk * action_dim),
        )
        self._add_critic()

    @torch.no_grad()
    def act(
        self, obs: Observation, *, generator: Generator | None = None, deterministic: bool = False
    ) -> ActOutput:
        """Choose a chunk of actions for each row of ``obs``."""
        replay = self.trunk.read(obs)
        features = self.trunk(replay)
        zeros = features.new_zeros(len(features), self.chunk, self.action_dim)
        velocity = partial(self._velocity, features)
        walk = self.walk.draw(zeros, velocity, generator=generator, deterministic=deterministic)
        replay["walk"] = walk
        return ActOutput(
            actions=self._unnormalize(walk[:, -1].clamp(-1.0, 1.0)),
            log_prob=self.walk.log_prob(walk, velocity),
            value=self._value(features),
            replay=replay,
        )

    def evaluate(self, replay: Mapping[str, Tensor]) -> EvaluateOutput:
        """Score the walks in ``replay`` under the present parameters, with gradients."""
        features = self.trunk(replay)
        walk = require_replay(replay, "walk", features.device)
        log_prob = self.walk.log_prob(walk, partial(self._velocity, features))
        return EvaluateOutput(
            log_prob=log_prob,
            entropy=self.walk.entropy().to(log_prob.device).expand_as(log_prob),
            value=self._value(features),
        )

    def imitation_loss(
        self, batch: ImitationBatch, *, reduction: Literal["none", "mean"] = "none"
    ) -> Tensor:
        """Return the squared error of the velocity at a random time and from random noise.

        Draws both from torch's global generator.

        Args:
            batch: An observation with ``action`` ``(n, k, a)`` and ``action_is_pad`` ``(n, k)``.
            reduction: ``none`` gives the mean over each sample's own actions ``(n,)``; ``mean`` the
                mean over all actions of the batch.

        Raises:
            ValueError: If a key is missing, the chunk length is another or an action is far outside
                the range.

        Source: Lipman et al. (2023), "Flow matching for generative modeling".
        """
        inputs, action, mask = self._read_demonstrations(batch)
        clean = self._normalize(hold_last_action(action, mask))
        noise = torch.randn_like(clean)
        t = torch.rand(len(clean), 1, 1, device=clean.device)
        velocity = self._velocity(self.trunk(inputs), (1.0 - t) * clean + t * noise, t[:, 0])
        return imitation_mean((velocity - (noise - clean)).square(), mask, reduction=reduction)

    def read(self, obs: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return an observation as tensors; see `vla_rl.types.LatentPolicy`."""
        return self.trunk.read(obs)

    def features(self, inputs: Mapping[str, Tensor]) -> Float[Tensor, "n f"]:
        """Return what a critic or a residual may read."""
        features: Tensor = self.trunk(inputs)
        return features

    def decode(
        self, features: Float[Tensor, "n f"], latent: Float[Tensor, "n k a"]
    ) -> Float[Tensor, "n k a"]:
        """Carry noise to actions without further noise; the range of actions is [-1, 1]."""
        return self.walk.carry(latent, partial(self._velocity, features)).clamp(-1.0, 1.0)

    def _velocity(
        self, features: Float[Tensor, "n hidden"], x: Float[Tensor, "n k a"], t: float | Tensor
    ) -> Float[Tensor, "n k a"]:
        time = torch.as_tensor(t, dtype=torch.float32, device=x.device).expand(len(x), 1)
        frequency = 2.0 * math.pi * torch.arange(1, _TIME_DIM // 2 + 1, device=x.device) / 4.0
        waves = torch.cat([(time * frequency).sin(), (time * frequency).cos()], -1)
        flat: Tensor = self.velocity(torch.cat([features, waves, x.flatten(1)], -1)).float()
        return flat.view_as(x)
