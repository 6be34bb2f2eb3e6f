"""Probabilities for policies that only regress actions, as RFTF gives them to its baselines."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import torch
from torch import Generator, Tensor, nn

from vla_rl.functional.action_bins import (
    binned_normal_log_prob,
    check_action_range,
    check_tokens,
    encode_actions,
)
from vla_rl.functional.flow import gaussian_entropy
from vla_rl.functional.policy_losses import imitation_mean
from vla_rl.identity import policy_config
from vla_rl.observations import require, to_tensor
from vla_rl.policies.small_policy import CLIPPED_SHARE, require_replay
from vla_rl.policies.trunk import as_vector
from vla_rl.types import ActOutput, EvaluateOutput, ImitationBatch, Observation, Regressor


class DiscretizedPolicy(nn.Module):
    """A regressing policy whose actions have become bins with probabilities.

    Each action dimension is cut into many bins, and a Gaussian of fixed width around the regressed
    action says how likely each is. Greedy actions are the regressed ones, unchanged. There is no
    critic: RFTF and GRPO need none.

    Freeze what is not to be trained beforehand (RFTF trains the action head only), for example
    ``regressor.trunk.requires_grad_(False)``.

    Source: RFTF (arXiv 2505.19767), section 4.1.
    """

    action_low: Tensor
    action_high: Tensor

    def __init__(
        self,
        regressor: nn.Module,
        *,
        action_low: float | Sequence[float],
        action_high: float | Sequence[float],
        action_dim: int,
        num_bins: int = 1000,
        sigma_bins: float = 2.5,
    ) -> None:
        """Wrap a policy.

        Args:
            regressor: A `vla_rl.types.Regressor` that is a module; trained in place.
            action_low: Lower edge of the first bin, in the environment's units; one number, or one
                per action dimension.
            action_high: Upper edge of the last bin.
            action_dim: Width of a primitive action.
            num_bins: Bins per action dimension; the paper has 1000.
            sigma_bins: Width of the Gaussian, in bins: how far the policy explores.

        Raises:
            ValueError: If the bins make no sense.
        """
        super().__init__()
        self.regressor = regressor
        self.num_bins, self.sigma_bins = num_bins, sigma_bins
        self.register_buffer("action_low", as_vector(action_low, action_dim, "action_low"))
        self.register_buffer("action_high", as_vector(action_high, action_dim, "action_high"))
        middle = 0.5 * (self.action_low + self.action_high)
        self._log_prob(self._encode(middle), middle)  # raises where the bins make no sense

    def identity(self) -> dict[str, Any]:
        """Return what a checkpoint must agree on."""
        return {
            "num_bins": self.num_bins,
            "sigma_bins": self.sigma_bins,
            "action_low": self.action_low.tolist(),
            "action_high": self.action_high.tolist(),
            "regressor": type(self.regressor).__qualname__,
            "regressor_config": policy_config(self.regressor),
        }

    @property
    def save_pretrained(self) -> Any:
        """Write the regressor to a folder: all that is trained; the bins are arguments.

        Only a policy whose regressor can be written has it, so ``hasattr`` tells.
        """
        return self.regressor.save_pretrained

    @torch.no_grad()
    def act(
        self, obs: Observation, *, generator: Generator | None = None, deterministic: bool = False
    ) -> ActOutput:
        """Choose a chunk of actions for each row of ``obs``: a bin's centre, or the regressed one.

        Args:
            obs: What the regressor reads.
            generator: Source of the samples; torch's global one when None.
            deterministic: Return the regressed actions.
        """
        regressor = cast(Regressor, self.regressor)
        replay = dict(regressor.read(obs))
        mean = regressor.predict(replay).float()
        if deterministic:
            tokens, actions = self._encode(mean), mean
        else:
            width = (self.action_high - self.action_low) / self.num_bins
            # A Gaussian put into bins is a sample of the binned Gaussian.
            noise = torch.empty_like(mean).normal_(generator=generator)
            tokens = self._encode(mean + self.sigma_bins * width * noise)
            actions = self.action_low + (tokens + 0.5) * width
        replay["action_tokens"] = tokens
        log_prob = self._log_prob(tokens, mean)
        return ActOutput(actions=actions, log_prob=log_prob, value=None, replay=replay)

    def evaluate(self, replay: Mapping[str, Tensor]) -> EvaluateOutput:
        """Score the decisions in ``replay`` under the present parameters, with gradients.

        The entropy is that of a Gaussian measured in bins; it does not depend on the parameters.

        Raises:
            ValueError: If they were made by another kind of policy or with other bins.
        """
        mean = cast(Regressor, self.regressor).predict(replay).float()
        tokens = require_replay(replay, "action_tokens", mean.device)
        check_tokens(tokens, num_bins=self.num_bins)
        entropy = gaussian_entropy(self.sigma_bins).to(mean.device).expand_as(mean)
        return EvaluateOutput(log_prob=self._log_prob(tokens, mean), entropy=entropy, value=None)

    def imitation_loss(
        self, batch: ImitationBatch, *, reduction: Literal["none", "mean"] = "none"
    ) -> Tensor:
        """Return the squared error of the regressed actions, in units of half their range.

        Raises:
            ValueError: If a key is missing or an action is far outside the bins.
        """
        regressor = cast(Regressor, self.regressor)
        mean = regressor.predict(regressor.read(batch)).float()
        action = to_tensor(require(batch, "action"), mean.device).to(torch.float32)
        mask = ~to_tensor(require(batch, "action_is_pad"), mean.device)
        real = torch.where(mask[..., None], action, self.action_low)
        check_action_range(real, self.action_low, self.action_high, beyond=CLIPPED_SHARE)
        inside = real.clamp(self.action_low, self.action_high)
        error = ((mean - inside) / (0.5 * (self.action_high - self.action_low))).square()
        return imitation_mean(error, mask, reduction=reduction)

    def _encode(self, action: Tensor) -> Tensor:
        # The outer bins hold the tails of the Gaussian.
        return encode_actions(
            action, self.action_low, self.action_high, num_bins=self.num_bins, clip=True
        )

    def _log_prob(self, tokens: Tensor, mean: Tensor) -> Tensor:
        return binned_normal_log_prob(
            tokens,
            mean,
            self.action_low,
            self.action_high,
            num_bins=self.num_bins,
            sigma_bins=self.sigma_bins,
        )
