"""Reinforcement fine-tuning of vision-language-action policies with dense progress.

The heavier parts are imported by name: `vla_rl.policies.*`, `vla_rl.algorithms.*`,
`vla_rl.rollout`, `vla_rl.data`, `vla_rl.evaluation`, `vla_rl.testing`.
"""

from vla_rl.errors import CheckpointError
from vla_rl.functional.action_bins import (
    binned_normal_log_prob,
    decode_actions,
    encode_actions,
    gaussian_bin_labels,
)
from vla_rl.functional.advantages import (
    chunk_discounts,
    chunk_rewards,
    discount_to_end,
    explained_variance,
    generalized_advantages,
    group_advantages,
    normalize_advantages,
    rftf_advantages,
)
from vla_rl.functional.flow import flow_ode_step, flow_sde_step, flow_times
from vla_rl.functional.policy_losses import (
    adapt_kl_coefficient,
    clipped_surrogate,
    kl_k1,
    kl_k2,
    kl_k3,
    masked_mean,
    reference_kl,
    value_loss,
)
from vla_rl.functional.residual import (
    hybrid_critic_loss,
    monte_carlo_outcomes,
    residual_actor_loss,
    td_targets,
)
from vla_rl.functional.returns import monte_carlo_returns, n_step_returns
from vla_rl.functional.sample_weights import rabc_weights, weighted_mean
from vla_rl.functional.shaping import (
    normalize_per_episode,
    potential_shaping,
    sparse_reward,
    terminal_progress_reward,
)
from vla_rl.types import (
    ActOutput,
    ChunkStep,
    EpisodeSink,
    EvaluateOutput,
    ImitationBatch,
    LatentPolicy,
    Observation,
    Policy,
    ProgressModel,
    Regressor,
    VecEnv,
)

__version__ = "0.1.0"

__all__ = [
    "ActOutput",
    "CheckpointError",
    "ChunkStep",
    "EpisodeSink",
    "EvaluateOutput",
    "ImitationBatch",
    "LatentPolicy",
    "Observation",
    "Policy",
    "ProgressModel",
    "Regressor",
    "VecEnv",
    "adapt_kl_coefficient",
    "binned_normal_log_prob",
    "chunk_discounts",
    "chunk_rewards",
    "clipped_surrogate",
    "decode_actions",
    "discount_to_end",
    "encode_actions",
    "explained_variance",
    "flow_ode_step",
    "flow_sde_step",
    "flow_times",
    "gaussian_bin_labels",
    "generalized_advantages",
    "group_advantages",
    "hybrid_critic_loss",
    "kl_k1",
    "kl_k2",
    "kl_k3",
    "masked_mean",
    "monte_carlo_outcomes",
    "monte_carlo_returns",
    "n_step_returns",
    "normalize_advantages",
    "normalize_per_episode",
    "potential_shaping",
    "rabc_weights",
    "reference_kl",
    "residual_actor_loss",
    "rftf_advantages",
    "sparse_reward",
    "td_targets",
    "terminal_progress_reward",
    "value_loss",
    "weighted_mean",
]
