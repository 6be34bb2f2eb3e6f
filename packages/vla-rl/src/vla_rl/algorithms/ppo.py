"""Proximal policy optimisation with Feat2Go's terminal reward, or progress paid per decision.

Source: Schulman et al. (2017); Feat2Go (arXiv 2605.30795), eqs. 4 to 6.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from vla_rl.algorithms.episode_reward import episode_rewards, progress_needed
from vla_rl.algorithms.on_policy import Metrics, OnPolicy
from vla_rl.algorithms.settings import PPOConfig
from vla_rl.credit import rollout_advantages, shaping_rewards, terminal_rewards
from vla_rl.decisions import Rollout
from vla_rl.functional.advantages import explained_variance, normalize_advantages
from vla_rl.reductions import sum_over_ranks
from vla_rl.rollout import Environments, ProgressAt, ProgressModels


class PPO(OnPolicy):
    """Clipped surrogate on generalised advantages, with a critic; see `OnPolicy`."""

    name: ClassVar[str] = "ppo"
    has_critic: ClassVar[bool] = True
    config: PPOConfig

    def __init__(
        self,
        policy: nn.Module,
        env: Environments,
        config: PPOConfig | None = None,
        *,
        out_dir: str | Path,
        fabric: Fabric | None = None,
        progress_model: ProgressModels | None = None,
        progress_bar: bool = True,
    ) -> None:
        """Prepare the run; arguments and errors are those of `OnPolicy`, defaults when None."""
        super().__init__(
            policy,
            env,
            config or PPOConfig(),
            out_dir=out_dir,
            fabric=fabric,
            progress_model=progress_model,
            progress_bar=progress_bar,
        )

    @property
    def _value_lr(self) -> float:
        return self.config.value_lr

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
