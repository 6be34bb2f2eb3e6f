"""Settings of the algorithms that play episodes."""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from vla_rl.functional.policy_losses import LEVELS, Level, check_clip
from vla_rl.functional.residual import CriticTarget

Reward = Literal["feat2go", "sparse", "potential", "naive"]
KeptGroups = Literal["all", "mixed_outcome", "mixed_reward"]
Normalization = Literal["min_max", "z_score"]

FIRST_SEED = 2_000_000
"""Of training's episodes. Evaluations begin at 0 and recordings at 1,000,000: no two share one."""


@dataclass(frozen=True, kw_only=True)
class OnPolicyConfig:
    """What PPO, GRPO and RFTF share; the defaults work for small policies on a CPU."""

    episodes_per_update: int = 96
    """Whole episodes per update, over all processes."""
    num_epochs: int = 4
    """Passes over the decisions of an update."""
    minibatch_size: int = 256
    """Decisions per gradient step and process, at most."""
    micro_batch_size: int | None = None
    """Decisions per forward and backward pass, where a minibatch does not fit into memory at once.
    The step is that of the whole minibatch."""
    lr: float = 3e-4
    """Learning rate of the policy."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    gamma: float = 0.99
    """Discount per primitive step."""
    clip_low: float = 0.2
    """How far the probability ratio may fall below 1."""
    clip_high: float = 0.2
    """How far it may rise above 1; Feat2Go's baselines use 0.28."""
    dual_clip: float | None = None
    """Bound on the loss of bad actions, in units of their advantage; 3 is common."""
    level: Level = "token"
    """Unit whose ratio is clipped and whose divergence stops an update: token, action or chunk."""
    entropy_coefficient: float = 0.0
    """Weight of the entropy bonus."""
    kl_stop: float | None = 0.05
    """An update ends when its estimate of KL(old || new) exceeds this."""
    ratio_tolerance: float = 1e-3
    """Largest difference between the log-probabilities of acting and of scoring before the first
    step; more stops the run. float32 stays below 1e-5; in bfloat16, decoding with a cache and
    scoring without differ by up to about 0.1."""
    kl_coefficient: float = 0.0
    """Weight, at first, of KL(new || reference); the reference is the policy a run starts from."""
    kl_target: float | None = None
    """If given, the weight is doubled after an update whose KL to the reference is above twice this
    and halved after one below half of it."""
    seed: int = 0
    """Of action sampling and minibatches."""
    seed_start: int = FIRST_SEED
    """Seed of the first training episode; the others count up from it."""

    def __post_init__(self) -> None:
        positive = ("episodes_per_update", "num_epochs", "minibatch_size", "lr", "max_grad_norm")
        _check_positive(self, *positive, "micro_batch_size", "kl_stop", "ratio_tolerance")
        _check_unit_interval(self, "gamma")
        check_clip(self.clip_low, self.clip_high, self.dual_clip)
        if self.level not in LEVELS:
            raise ValueError(f"Expected `level` in {LEVELS}, got {self.level!r}.")
        if self.kl_coefficient < 0.0:
            raise ValueError(f"Expected `kl_coefficient` ≥ 0, got {self.kl_coefficient}.")
        if self.kl_target is not None and (self.kl_target <= 0.0 or self.kl_coefficient == 0.0):
            raise ValueError(
                "Expected `kl_target` > 0 and a `kl_coefficient` above 0 to adapt, got "
                f"{self.kl_target} and {self.kl_coefficient}."
            )


@dataclass(frozen=True, kw_only=True)
class EpisodeRewardConfig(OnPolicyConfig):
    """What an episode earns: its outcome and, with ``feat2go``, the progress of a failure."""

    reward: Reward = "feat2go"
    """Of a success 1; of a failure the predicted progress of its last frame, or 0 if ``sparse``."""
    progress_cap: float = 0.9
    """Largest reward of a failure; below 1 so that a failure never equals a success."""
    progress_scale: float = 1.0
    """Factor on the progress of failures."""
    rewards: ClassVar[tuple[Reward, ...]] = ("feat2go", "sparse")

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_unit_interval(self, "progress_cap", "progress_scale")
        if self.reward not in self.rewards:
            raise ValueError(f"Expected `reward` in {self.rewards}, got {self.reward!r}.")


@dataclass(frozen=True, kw_only=True)
class PPOConfig(EpisodeRewardConfig):
    """Settings of `vla_rl.algorithms.ppo.PPO`.

    Beside the two rewards of an episode there are two that pay every decision on top of ``sparse``:
    ``potential`` pays the discounted rise of progress, which leaves the best policy the best;
    ``naive`` pays progress itself, which does not, and is here to be compared with.
    """

    rewards: ClassVar[tuple[Reward, ...]] = ("feat2go", "sparse", "potential", "naive")
    shaping_coefficient: float = 1.0
    """Weight of what ``potential`` and ``naive`` pay per decision."""
    value_lr: float = 1e-3
    """Learning rate of the critic."""
    lambda_: float = 0.95
    """Of the advantage estimate, per decision."""
    value_clip: float | None = None
    """Largest rewarded step of the critic, in units of return."""
    huber_delta: float = 10.0
    """Where the critic's loss turns linear, in units of return."""
    value_warmup_updates: int = 1
    """First updates in which only the critic learns."""
    bootstrap_time_limit: bool | None = None
    """Whether an episode cut off by its time limit earns the critic's value of its last state. None
    means no for ``feat2go`` and yes for the others: Feat2Go's reward already is an estimate of that
    value, and adding the critic's would pay a near-miss more than a success."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_positive(self, "value_lr", "huber_delta", "value_clip")
        _check_unit_interval(self, "lambda_")

    @property
    def bootstraps_time_limit(self) -> bool:
        """``bootstrap_time_limit``, with None resolved."""
        if self.bootstrap_time_limit is None:
            return self.reward != "feat2go"
        return self.bootstrap_time_limit


@dataclass(frozen=True, kw_only=True)
class GRPOConfig(EpisodeRewardConfig):
    """Settings of `vla_rl.algorithms.grpo.GRPO`."""

    group_size: int = 8
    """Episodes that start from the same state and are compared with each other."""
    scale_by_std: bool = True
    """Divide by the group's standard deviation; False leaves the difference to the mean, which
    weighs easy and hard states alike (Dr. GRPO, arXiv 2503.20783)."""
    leave_one_out: bool = False
    """Compare each episode with the mean of the others in its group (RLOO, arXiv 2402.14740)."""
    keep_groups: KeptGroups = "mixed_reward"
    """Groups that count: ``all``; those whose rewards differ; or, as DAPO samples, only those with
    both successes and failures, which throws away what Feat2Go's reward tells of failed groups."""
    max_sampling_rounds: int = 1
    """Dynamic sampling (DAPO): where groups are left out, further ``episodes_per_update`` episodes
    are played, up to this many times in all, until as many groups count as one round has. What is
    still missing then is missing. Groups beyond that number are dropped."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.group_size < 2:
            raise ValueError(
                f"Expected `group_size` of at least 2 episodes to compare, got {self.group_size}."
            )
        if self.episodes_per_update % self.group_size:
            raise ValueError(
                "Expected `episodes_per_update` to be a multiple of `group_size` "
                f"{self.group_size}, got {self.episodes_per_update}."
            )
        if self.max_sampling_rounds < 1 or (
            self.max_sampling_rounds > 1 and self.keep_groups == "all"
        ):
            raise ValueError(
                "Expected `max_sampling_rounds` of at least 1, and of 1 where `keep_groups` leaves "
                f"none out, got {self.max_sampling_rounds} and {self.keep_groups!r}."
            )
        if self.keep_groups not in get_args(KeptGroups):
            raise ValueError(
                f"Expected `keep_groups` in {get_args(KeptGroups)}, got {self.keep_groups!r}."
            )


@dataclass(frozen=True, kw_only=True)
class RFTFConfig(OnPolicyConfig):
    """Settings of `vla_rl.algorithms.rftf.RFTF`.

    The paper's learning rate of 1e-7 is that of a large model's action head; the default here suits
    small policies.
    """

    kl_coefficient: float = 0.01
    kl_target: float | None = 0.01
    gamma: float = 0.99
    """Discount between two decisions."""
    lambda_: float = 0.95
    """Decay of the sum of rises, between two decisions."""
    eta_success: float = 0.25
    """Weight of successful episodes; (1 - p) / p balances a success rate of p."""
    eta_failure: float = 1.0
    """Weight of failed episodes."""
    shaping: bool = True
    """Whether the rise of the value curve modulates the outcome; False is the paper's sparse
    ablation."""
    normalization: Normalization = "min_max"
    """How the values of each episode are brought to one scale."""
    normalize_advantages: bool = False
    """Shift and scale advantages over the update. The paper's signs then no longer are those of the
    outcome."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_unit_interval(self, "lambda_")
        _check_positive(self, "eta_success", "eta_failure")
        if self.normalization not in get_args(Normalization):
            raise ValueError(
                f"Expected `normalization` in {get_args(Normalization)}, got "
                f"{self.normalization!r}."
            )


@dataclass(frozen=True, kw_only=True)
class SpiralConfig:
    """Settings of `vla_rl.algorithms.spiral.Spiral`.

    The paper's values where it has them; sizes suit small policies.
    """

    episodes_per_round: int = 96
    """Whole episodes per round."""
    steps_per_round: int = 1000
    """Gradient steps per round; the paper's table says 5,000, its code 10,000."""
    batch_size: int = 256
    """Transitions per step; the paper has 16 of a far larger model."""
    lr: float = 3e-4
    """Learning rate of residual and critics; the paper has 1e-4."""
    weight_decay: float = 1e-4
    """Of AdamW."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    gamma: float = 0.9995
    """Discount per primitive step."""
    mc_weight: float = 0.5
    """alpha: weight of the Monte-Carlo outcome in the critics' target."""
    critic_target: CriticTarget = "blended"
    """``blended`` as the published code, or ``two_losses`` as the paper."""
    bc_weight: float = 30.0
    """beta: what the squared residual costs."""
    num_draws: int = 4
    """kappa: draws of noise per state in the residual's loss."""
    tau: float = 0.005
    """Share of the critics that their targets take over per step."""
    target_noise: float = 0.0
    """Standard deviation of noise on target actions, normalised; the paper says 0.2, its code 0."""
    target_noise_clip: float = 0.5
    """Bound on that noise."""
    dense: bool = True
    """Whether the rise of progress is paid; False pays successes only."""
    seed: int = 0
    """Of sampling."""
    seed_start: int = FIRST_SEED
    """Seed of the first training episode; the others count up from it."""

    def __post_init__(self) -> None:
        positive = ("episodes_per_round", "steps_per_round", "batch_size", "lr", "max_grad_norm")
        _check_positive(self, *positive, "num_draws")
        _check_unit_interval(self, "gamma", "mc_weight", "tau")
        if self.bc_weight < 0.0 or self.target_noise < 0.0:
            raise ValueError(
                "Expected `bc_weight` and `target_noise` ≥ 0, got "
                f"{self.bc_weight} and {self.target_noise}."
            )
        if self.critic_target not in get_args(CriticTarget):
            raise ValueError(
                f"Expected `critic_target` in {get_args(CriticTarget)}, got {self.critic_target!r}."
            )


def _check_positive(config: OnPolicyConfig | SpiralConfig, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value is not None and value <= 0:  # None: there is none
            raise ValueError(f"Expected `{name}` > 0, got {value}.")


def _check_unit_interval(config: OnPolicyConfig | SpiralConfig, *names: str) -> None:
    for name in names:
        if not 0.0 <= getattr(config, name) <= 1.0:
            raise ValueError(f"Expected `{name}` in [0, 1], got {getattr(config, name)}.")


@dataclass(frozen=True, kw_only=True)
class CloneConfig:
    """Settings of `vla_rl.algorithms.behaviour_cloning.BehaviourCloning`."""

    num_epochs: int = 40
    """Passes over the samples."""
    batch_size: int = 64
    """Samples per step, over all processes."""
    lr: float = 1e-3
    """Peak learning rate; it rises linearly and falls as a cosine to zero."""
    warmup_share: float = 0.05
    """Share of all steps in which the learning rate rises, in [0, 1)."""
    weight_decay: float = 1e-2
    """Of AdamW."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    seed: int = 0
    """Of the order of samples and of image shifts."""

    def __post_init__(self) -> None:
        for name in ("num_epochs", "batch_size", "lr", "max_grad_norm"):
            if getattr(self, name) <= 0:
                raise ValueError(f"Expected `{name}` > 0, got {getattr(self, name)}.")
        if not 0.0 <= self.warmup_share < 1.0:
            raise ValueError(f"Expected `warmup_share` in [0, 1), got {self.warmup_share}.")


@dataclass(frozen=True, kw_only=True)
class RABCConfig(CloneConfig):
    """Settings of `vla_rl.algorithms.rabc.RABC`."""

    kappa: float = 0.01
    """Gain of progress above which a sample counts in full. To be chosen per task: the mean weight
    of a healthy data set is 0.3 to 0.8; near 1 it filters nothing."""
