"""Group-relative policy optimisation with Feat2Go's terminal reward: no critic.

Source: Shao et al. (2024), arXiv 2402.03300; Feat2Go (arXiv 2605.30795), eqs. 7 and 8; Yu et al.
(2025), DAPO, arXiv 2503.14476, for the groups that are left out and those played in their place.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Bool
from torch import Tensor

from vla_rl.algorithms.episode_reward import episode_rewards, progress_needed
from vla_rl.algorithms.on_policy import Metrics, OnPolicy
from vla_rl.algorithms.settings import GRPOConfig
from vla_rl.decisions import Rollout, join_rollouts, select_episodes
from vla_rl.functional.advantages import discount_to_end, group_advantages
from vla_rl.rollout import ProgressAt


class GRPO(OnPolicy[GRPOConfig]):
    """Clipped surrogate on the comparison of episodes that started alike; see `OnPolicy`."""

    name: ClassVar[str] = "grpo"
    settings: ClassVar[type[GRPOConfig]] = GRPOConfig

    def _seeds(self, update: int, sampling_round: int = 0) -> Sequence[int]:
        """Return each seed ``group_size`` times in a row; no two groups share one."""
        share, offset = self._share()
        size = self.config.group_size
        number = update * self.config.max_sampling_rounds + sampling_round
        first = number * self.config.episodes_per_update + offset
        return [self.config.seed_start + i // size for i in range(first, first + share)]

    @property
    def _progress_at(self) -> ProgressAt | None:
        return progress_needed(self.config)

    def _collect(self, update: int, generator: torch.Generator) -> tuple[Rollout, float]:
        """Play until enough groups count or ``max_sampling_rounds`` is reached.

        Each process for itself: none waits for another here, however many rounds it needs.
        """
        needed, found, seconds = self._share()[0] // self.config.group_size, 0, 0.0
        rollouts: list[Rollout] = []
        while found < needed and len(rollouts) < self.config.max_sampling_rounds:
            rollout, spent = self._play(self._seeds(update, len(rollouts)), generator)
            rollouts.append(rollout)
            seconds += spent
            found += int(self._kept(rollout).sum())
        return join_rollouts(rollouts), seconds

    def _choose(self, rollout: Rollout, metrics: Metrics) -> Rollout:
        """Return as many groups as one round has: first those that count, in order."""
        kept, count = self._kept(rollout), self._share()[0] // self.config.group_size
        metrics["kept_groups_share"] = kept.float().mean()
        metrics["sampling_rounds"] = len(kept) / count
        if len(kept) == count:
            return rollout
        chosen = (~kept).to(torch.uint8).argsort(stable=True)[:count].sort().values
        members = torch.arange(self.config.group_size)
        return select_episodes(
            rollout, (chosen[:, None] * self.config.group_size + members).flatten()
        )

    def _credit(self, rollout: Rollout, metrics: Metrics) -> dict[str, Tensor]:
        """Return A_t = γ^(T−t) Ã (eq. 7); decisions of groups that are left out are masked."""
        reward, split = episode_rewards(rollout, self.config)
        metrics |= split
        groups = reward.view(-1, self.config.group_size)
        compared = group_advantages(
            groups,
            scale_by_std=self.config.scale_by_std,
            leave_one_out=self.config.leave_one_out,
        )
        kept = self._kept(rollout)
        to_end = discount_to_end(
            rollout.by_episode(rollout.mask.sum(-1)), rollout.valid, gamma=self.config.gamma
        )[rollout.valid]
        advantage = compared.flatten()[rollout.episode] * to_end
        metrics["zero_advantage_share"] = (advantage.abs() < 1e-6).float().mean()
        keep = kept.repeat_interleave(self.config.group_size)[rollout.episode]
        # Masked, not dropped: all processes then make the same number of steps.
        return {"advantage": advantage, "mask": rollout.mask & keep[:, None]}

    def _kept(self, rollout: Rollout) -> Bool[Tensor, " g"]:
        """Return which groups count."""
        told_apart = rollout.episodes.success_at_end.to(torch.float32)
        if self.config.keep_groups == "mixed_reward":
            told_apart, _ = episode_rewards(rollout, self.config)
        groups = told_apart.view(-1, self.config.group_size)
        if self.config.keep_groups == "all":
            return torch.ones(len(groups), dtype=torch.bool)
        return (groups != groups[:, :1]).any(-1)

    def _check(self) -> None:
        super()._check()
        if self.config.episodes_per_update % (self.fabric.world_size * self.config.group_size):
            raise ValueError(
                f"Expected `episodes_per_update` to be a multiple of {self.fabric.world_size} "
                f"processes times `group_size` {self.config.group_size}, got "
                f"{self.config.episodes_per_update}."
            )
