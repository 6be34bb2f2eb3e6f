"""A small policy: images, state and an instruction in, a chunk of action tokens out."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from vla_rl.functional.action_bins import (
    check_tokens,
    decode_actions,
    encode_actions,
    gaussian_bin_labels,
)
from vla_rl.functional.policy_losses import imitation_mean
from vla_rl.policies.small_policy import SmallPolicy, require_replay
from vla_rl.types import ActOutput, EvaluateOutput, ImitationBatch, Observation


class TokenPolicy(SmallPolicy):
    """Images, state and instruction to a chunk of binned actions, decoded in parallel.

    One query per action token reads the features of the trunk.
    """

    model_type: ClassVar[str] = "vla_rl.token_policy"

    def __init__(  # noqa: PLR0913  # a model's scalars are its config.json
        self,
        *,
        cameras: Sequence[str],
        state_dim: int,
        action_dim: int,
        image_size: int = 64,
        chunk: int = 4,
        num_bins: int = 21,
        action_low: float | Sequence[float] = -0.6,
        action_high: float | Sequence[float] = 0.6,
        state_mean: Sequence[float] | None = None,
        state_std: Sequence[float] | None = None,
        channels: Sequence[int] = (24, 48, 64),
        image_dim: int = 160,
        hidden_dim: int = 256,
        normalize: bool = False,
        temperature: float = 1.0,
        label_sigma_bins: float = 1.0,
        shift_pixels: int = 2,
    ) -> None:
        """Build the network; every argument is stored in ``config.json``.

        Args:
            cameras: Names of the cameras it reads, ``observation.images.<name>``.
            state_dim: Width of ``observation.state``.
            action_dim: Width of a primitive action.
            image_size: Height and width of the images, a multiple of 8.
            chunk: Primitive actions per decision.
            num_bins: Bins per action dimension.
            action_low: Lower end of the binned range, in the environment's units; one number, or
                one per action dimension.
            action_high: Upper end of the binned range.
            state_mean: Subtracted from the state; zeros when None.
            state_std: Divides the state; ones when None. Constant entries may be 0.
            channels: Channels after each of the three halvings of the image.
            image_dim: Features per camera.
            hidden_dim: Width of the fused features.
            normalize: Norms in the image encoder and of the features: several times fewer steps to
                learn where things are among many objects and backgrounds.
            temperature: Of the sampling distribution, for acting and scoring alike.
            label_sigma_bins: Width of the soft labels of imitation, in bins.
            shift_pixels: Images are shifted by up to this many pixels in imitation, while training.

        Raises:
            ValueError: If a size is not positive or a list has the wrong length.
        """
        if temperature <= 0.0:
            raise ValueError(f"Expected `temperature` > 0, got {temperature}.")
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
        self.num_bins, self.temperature = num_bins, temperature
        self.label_sigma_bins = label_sigma_bins
        encode_actions(self.action_low, self.action_low, self.action_high, num_bins=num_bins)
        self.token_queries = nn.Parameter(0.5 * torch.randn(chunk * action_dim, 128))
        self.token_context = nn.Linear(hidden_dim, 2 * 128)
        self.token_decoder = nn.Sequential(
            nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, num_bins)
        )
        self._add_critic()

    @torch.no_grad()
    def act(
        self, obs: Observation, *, generator: Generator | None = None, deterministic: bool = False
    ) -> ActOutput:
        """Choose a chunk of actions for each row of ``obs``.

        Args:
            obs: Arrays or tensors; see `vla_rl.types.Observation`.
            generator: Source of the samples; torch's global one when None.
            deterministic: Take the likeliest token instead of a sample.

        Raises:
            ValueError: If an image, the state or the task is missing or has another shape.
        """
        replay = self.trunk.read(obs)
        features = self.trunk(replay)
        log_probs = self._log_probs(features)
        if deterministic:
            tokens = log_probs.argmax(-1)
        else:
            # Gumbel maximum: one draw of noise, no host round trip, as exact as multinomial.
            noise = torch.empty_like(log_probs).exponential_(generator=generator)
            tokens = (log_probs - noise.log()).argmax(-1)
        replay["action_tokens"] = tokens
        return ActOutput(
            actions=decode_actions(
                tokens, self.action_low, self.action_high, num_bins=self.num_bins
            ),
            log_prob=log_probs.gather(-1, tokens[..., None])[..., 0],
            value=self._value(features),
            replay=replay,
        )

    def evaluate(self, replay: Mapping[str, Tensor]) -> EvaluateOutput:
        """Score the decisions in ``replay`` under the present parameters, with gradients.

        Raises:
            ValueError: If they were made by another kind of policy or with other bins.
        """
        features = self.trunk(replay)
        log_probs = self._log_probs(features)
        tokens = require_replay(replay, "action_tokens", log_probs.device)
        check_tokens(tokens, num_bins=self.num_bins)
        return EvaluateOutput(
            log_prob=log_probs.gather(-1, tokens[..., None])[..., 0],
            entropy=-(log_probs.exp() * log_probs).sum(-1),
            value=self._value(features),
        )

    def imitation_loss(
        self, batch: ImitationBatch, *, reduction: Literal["none", "mean"] = "none"
    ) -> Tensor:
        """Return the cross entropy against soft labels around the demonstrated actions.

        Images are shifted at random in training mode only.

        Args:
            batch: An observation with ``action`` ``(n, k, a)`` and ``action_is_pad`` ``(n, k)``.
            reduction: ``none`` gives the mean over each sample's own tokens ``(n,)``, in nats;
                ``mean`` the mean over all tokens of the batch.

        Raises:
            ValueError: If a key is missing, the chunk length is another or an action is far outside
                the bins.
        """
        inputs, action, mask = self._read_demonstrations(batch)
        labels = gaussian_bin_labels(
            action,
            self.action_low,
            self.action_high,
            num_bins=self.num_bins,
            sigma_bins=self.label_sigma_bins,
        )
        cross_entropy = -(labels * self._log_probs(self.trunk(inputs))).sum(-1)
        return imitation_mean(cross_entropy, mask, reduction=reduction)

    def _log_probs(self, features: Float[Tensor, "n hidden"]) -> Float[Tensor, "n k a bins"]:
        gain, offset = self.token_context(features)[:, None].chunk(2, dim=-1)
        logits = self.token_decoder(self.token_queries * (1.0 + gain) + offset)
        logits = logits.unflatten(1, (self.chunk, self.action_dim)).float() / self.temperature
        log_probs: Tensor = logits.log_softmax(-1)
        return log_probs
