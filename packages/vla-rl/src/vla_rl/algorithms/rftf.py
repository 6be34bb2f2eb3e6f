"""RFTF: the outcome of an episode in every advantage, modulated by the rise of a value curve.

Source: RFTF (arXiv 2505.19767), section 3.3.
"""

from collections.abc import Sequence
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from vla_rl.algorithms.on_policy import Metrics, OnPolicy
from vla_rl.algorithms.settings import RFTFConfig
from vla_rl.decisions import Rollout
from vla_rl.functional.advantages import normalize_advantages, rftf_advantages
from vla_rl.functional.shaping import normalize_per_episode
from vla_rl.reductions import sum_over_ranks
from vla_rl.rollout import ProgressAt


class RFTF(OnPolicy[RFTFConfig]):
    """Clipped surrogate with a KL penalty and no critic (eq. 4); see `OnPolicy`.

    The progress model is the paper's value model. It need only order the states of an episode:
    what it returns may have any scale.
    """

    name: ClassVar[str] = "rftf"
    settings: ClassVar[type[RFTFConfig]] = RFTFConfig

    def _seeds(self, update: int) -> Sequence[int]:
        return self._new_seeds(update)

    @property
    def _progress_at(self) -> ProgressAt | None:
        return "decisions" if self.config.shaping else None

    def _credit(self, rollout: Rollout, metrics: Metrics) -> dict[str, Tensor]:
        """Return the advantages of eqs. 2 and 3."""
        config, valid = self.config, rollout.valid
        value = torch.zeros(valid.shape)
        if rollout.progress is not None:
            spread = rollout.by_episode(rollout.progress)
            value = normalize_per_episode(spread, valid, method=config.normalization)
        success = rollout.episodes.success_at_end
        advantage = rftf_advantages(
            value,
            success,
            valid,
            gamma=config.gamma,
            lambda_=config.lambda_,
            eta_success=config.eta_success,
            eta_failure=config.eta_failure,
        )[valid]
        outcome = torch.where(success, config.eta_success, -config.eta_failure)[rollout.episode]
        metrics["reward_total"] = advantage.mean()
        metrics["reward_sparse"] = outcome.mean()
        metrics["reward_shaping"] = (advantage - outcome).mean()
        metrics["sign_kept_share"] = (advantage * outcome > 0.0).float().mean()
        metrics["zero_advantage_share"] = (advantage.abs() < 1e-6).float().mean()
        if config.normalize_advantages:
            reduce = partial(sum_over_ranks, self.fabric)
            advantage = normalize_advantages(
                advantage, torch.ones_like(rollout.last), reduce=reduce
            )
        return {"advantage": advantage, "mask": rollout.mask}
