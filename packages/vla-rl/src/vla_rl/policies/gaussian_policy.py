"""A small policy that regresses action chunks and samples around them."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from vla_rl.functional.flow import gaussian_entropy, gaussian_log_prob
from vla_rl.functional.policy_losses import imitation_mean
from vla_rl.policies.small_policy import SmallPolicy, require_replay
from vla_rl.types import ActOutput, EvaluateOutput, ImitationBatch, Observation


class GaussianPolicy(SmallPolicy):
    """Images, state and instruction to the mean of a Gaussian over action chunks.

    The standard deviation is one parameter per action dimension. Samples are clipped to the range
    of actions; probabilities are those before clipping.
    """

    model_type: ClassVar[str] = "vla_rl.gaussian_policy"

    def __init__(  # noqa: PLR0913  # a model's scalars are its config.json
        self,
        *,
        cameras: Sequence[str],
        state_dim: int,
        action_dim: int,
        image_size: int = 64,
        chunk: int = 4,
        action_low: float | Sequence[float] = -0.6,
        action_high: float | Sequence[float] = 0.6,
        state_mean: Sequence[float] | None = None,
        state_std: Sequence[float] | None = None,
        channels: Sequence[int] = (24, 48, 64),
        image_dim: int = 160,
        hidden_dim: int = 256,
        normalize: bool = False,
        initial_std: float = 0.2,
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
            action_low: Lower end of the range of actions.
            action_high: Upper end.
            state_mean: Subtracted from the state.
            state_std: Divides the state.
            channels: Of the image encoder.
            image_dim: Features per camera.
            hidden_dim: Width of the fused features.
            normalize: Of the image encoder and the features.
            initial_std: Standard deviation at first, where the range of actions is [-1, 1].
            shift_pixels: Of images, in imitation.

        Raises:
            ValueError: If a size is not positive or a list has the wrong length.
        """
        if initial_std <= 0.0:
            raise ValueError(f"Expected `initial_std` > 0, got {initial_std}.")
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
        self.action_head = nn.Sequential(
            nn.Linear(hidden_dim, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, chunk * action_dim)
        )
        self.log_std = nn.Parameter(torch.full((action_dim,), initial_std).log())
        self._add_critic()

    @torch.no_grad()
    def act(
        self, obs: Observation, *, generator: Generator | None = None, deterministic: bool = False
    ) -> ActOutput:
        """Choose a chunk of actions for each row of ``obs``; the mean when ``deterministic``."""
        replay = self.trunk.read(obs)
        features = self.trunk(replay)
        mean = self._mean(features)
        noise = torch.zeros_like(mean)
        if not deterministic:
            noise.normal_(generator=generator)
        sample = mean + self.log_std.exp() * noise
        replay["action_sample"] = sample
        return ActOutput(
            actions=self._unnormalize(sample.clamp(-1.0, 1.0)),
            log_prob=gaussian_log_prob(sample, mean, self.log_std.exp()),
            value=self._value(features),
            replay=replay,
        )

    def evaluate(self, replay: Mapping[str, Tensor]) -> EvaluateOutput:
        """Score the decisions in ``replay`` under the present parameters, with gradients."""
        features = self.trunk(replay)
        mean, std = self._mean(features), self.log_std.exp()
        sample = require_replay(replay, "action_sample", mean.device)
        return EvaluateOutput(
            log_prob=gaussian_log_prob(sample, mean, std),
            entropy=gaussian_entropy(std).expand_as(mean),
            value=self._value(features),
        )

    def imitation_loss(
        self, batch: ImitationBatch, *, reduction: Literal["none", "mean"] = "none"
    ) -> Tensor:
        """Return the squared error of the mean, where the range of actions is [-1, 1].

        Args:
            batch: An observation with ``action`` ``(n, k, a)`` and ``action_is_pad`` ``(n, k)``.
            reduction: ``none`` gives the mean over each sample's own actions ``(n,)``; ``mean`` the
                mean over all actions of the batch.

        Raises:
            ValueError: If a key is missing, the chunk length is another or an action is far outside
                the range.
        """
        inputs, action, mask = self._read_demonstrations(batch)
        error = (self._mean(self.trunk(inputs)) - self._normalize(action)).square()
        return imitation_mean(error, mask, reduction=reduction)

    def read(self, obs: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return an observation as tensors; see `vla_rl.types.Regressor`."""
        return self.trunk.read(obs)

    def predict(self, inputs: Mapping[str, Tensor]) -> Float[Tensor, "n k a"]:
        """Return the mean in the environment's units, with gradients."""
        return self._unnormalize(self._mean(self.trunk(inputs)))

    def features(self, inputs: Mapping[str, Tensor]) -> Float[Tensor, "n f"]:
        """Return what a critic or a residual may read; see `vla_rl.types.LatentPolicy`."""
        features: Tensor = self.trunk(inputs)
        return features

    def decode(
        self, features: Float[Tensor, "n f"], latent: Float[Tensor, "n k a"]
    ) -> Float[Tensor, "n k a"]:
        """Return the actions that noise stands for, with the range of actions at [-1, 1]."""
        return (self._mean(features) + self.log_std.exp() * latent).clamp(-1.0, 1.0)

    def _mean(self, features: Float[Tensor, "n hidden"]) -> Float[Tensor, "n k a"]:
        mean: Tensor = self.action_head(features).float()
        return mean.view(-1, self.chunk, self.action_dim)
