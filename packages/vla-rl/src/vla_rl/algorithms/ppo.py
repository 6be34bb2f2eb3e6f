"""Proximal policy optimisation with Feat2Go's terminal reward, or progress paid per decision.

Source: Schulman et al. (2017); Feat2Go (arXiv 2605.30795), eqs. 4 to 6.
"""

from collections.abc import Sequence
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from vla_rl.algorithms.episode_reward import episode_rewards, progress_needed
from vla_rl.algorithms.on_policy import Metrics, OnPolicy
from vla_rl.algorithms.settings import PPOConfig
from vla_rl.credit import rollout_advantages, shaping_rewards, terminal_rewards
from vla_rl.decisions import Rollout
from vla_rl.functional.advantages import explained_variance, normalize_advantages
from vla_rl.reductions import sum_over_ranks
from vla_rl.rollout import ProgressAt


class PPO(OnPolicy[PPOConfig]):
    """Clipped surrogate on generalised advantages, with a critic; see `OnPolicy`."""

    name: ClassVar[str] = "ppo"
    settings: ClassVar[type[PPOConfig]] = PPOConfig

    def _optimizers(self) -> list[Optimizer]:
        critic = torch.optim.Adam(self._parameters(critic=True), lr=self.config.value_lr, eps=1e-5)
        return [*super()._optimizers(), critic]

    def _seeds(self, update: int) -> Sequence[int]:
        return self._new_seeds(update)

    @property
    def _bootstraps(self) -> bool:
        return self.config.bootstraps_time_limit

    @property
    def _progress_at(self) -> ProgressAt | None:
        return progress_needed(self.config)

    def _credit(self, rollout: Rollout, metrics: Metrics) -> dict[str, Tensor]:
        """Return advantages, normalised over the update, and returns (eq. 5)."""
        config = self.config
        reward, split = episode_rewards(rollout, config)
        r_t = terminal_rewards(rollout, reward, gamma=config.gamma)
        if config.reward in ("potential", "naive"):
            shaping = config.shaping_coefficient * shaping_rewards(
                rollout,
                potential_based=config.reward == "potential",
                bootstrap_time_limit=config.bootstraps_time_limit,
            )
            r_t = r_t + shaping
            per_episode = shaping.sum() / len(rollout.episodes.seed)
            split["reward_shaping"] = split["reward_shaping"] + per_episode
            split["reward_total"] = split["reward_total"] + per_episode
        advantage, returns = rollout_advantages(
            rollout,
            r_t,
            lambda_=config.lambda_,
            bootstrap_time_limit=config.bootstraps_time_limit,
        )
        assert rollout.value is not None
        every = torch.ones_like(rollout.last)
        metrics |= split
        metrics["explained_variance"] = explained_variance(rollout.value, returns, every)
        metrics["zero_advantage_share"] = (advantage.abs() < 1e-6).float().mean()
        reduce = partial(sum_over_ranks, self.fabric)
        return {
            "advantage": normalize_advantages(advantage, every, reduce=reduce),
            "returns": returns,
            "mask": rollout.mask,
        }

    def _check(self) -> None:
        super()._check()
        if not hasattr(self.policy, "value_head"):
            raise ValueError(
                "Expected a policy with a submodule `value_head`, got "
                f"{type(self.policy).__name__}."
            )
