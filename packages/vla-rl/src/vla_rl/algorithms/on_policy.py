"""The loop that PPO, GRPO and RFTF share: whole episodes, their credit, epochs of updates."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from tqdm import tqdm

from vla_rl.algorithms.clipped_update import REPLAY, ClippedUpdate, Scorer
from vla_rl.algorithms.reference import KLPenalty
from vla_rl.algorithms.settings import OnPolicyConfig
from vla_rl.checkpoints import RunState, identity_of
from vla_rl.decisions import Rollout
from vla_rl.reductions import all_or_none, mean_metrics
from vla_rl.rollout import (
    Environments,
    ProgressAt,
    ProgressModels,
    collect_episodes,
)
from vla_rl.sharding import is_sharded, whole_weights
from vla_rl.streams import random_stream
from vla_rl.types import Observation, ProgressModel

Metrics = dict[str, Any]


class OnPolicy(ABC):
    """Alternates whole episodes and a few epochs of the clipped surrogate.

    Continues by itself from ``out_dir`` where a run was stopped, with the same numbers as a run
    that was not: random streams are functions of seed, update and rank, and episodes have explicit
    seeds, so weights, optimizers and the number of updates are all the state there is.

    A subclass says which states episodes start from (`_seeds`), what its decisions were worth
    (`_credit`), whether it has a critic and which states' progress it needs (`_progress_at`).
    """

    name: ClassVar[str]
    """What a checkpoint calls the algorithm."""
    has_critic: ClassVar[bool]

    def __init__(
        self,
        policy: nn.Module,
        env: Environments,
        config: OnPolicyConfig,
        *,
        out_dir: str | Path,
        fabric: Fabric | None = None,
        progress_model: ProgressModels | None = None,
        progress_bar: bool = True,
    ) -> None:
        """Prepare the run, and load its last checkpoint if there is one.

        Args:
            policy: A `vla_rl.types.Policy` that is a module and holds its critic's layers, if any,
                in a submodule ``value_head``; trained in place.
            env: Environments of this process; several vectors of them take turns with the policy.
            config: Settings of the algorithm.
            out_dir: Receives ``last.ckpt`` and ``metrics.csv`` after each update.
            fabric: Launched; one CPU process when None.
            progress_model: Stays frozen; not needed for sparse rewards. See `collect_episodes` for
                when it must be several.
            progress_bar: Show bars of updates and of episodes.

        Raises:
            ValueError: If the progress model or the critic is missing, or the episodes cannot be
                shared out evenly.
            CheckpointError: If ``out_dir`` holds the checkpoint of another run.
        """
        self.config, self.policy = config, policy
        self.env, self.progress_model = env, progress_model
        self.fabric = fabric or Fabric(accelerator="cpu", devices=1)
        self.progress_bar = progress_bar and self.fabric.is_global_zero
        self._check()

        scorer = self.fabric.setup_module(Scorer(policy))
        # Only now: a strategy may have replaced the parameters by shares of them.
        critic = [p for name, p in policy.named_parameters() if name.startswith("value_head.")]
        actor = [p for name, p in policy.named_parameters() if not name.startswith("value_head.")]
        optimizers = [torch.optim.Adam(actor, lr=config.lr, eps=1e-5)]
        if self.has_critic:
            optimizers.append(torch.optim.Adam(critic, lr=self._value_lr, eps=1e-5))
        wrapped = self.fabric.setup_optimizers(*optimizers)
        handles: list[Any] = list(wrapped) if isinstance(wrapped, tuple) else [wrapped]
        self._scorer = scorer
        self._improve = ClippedUpdate(self.fabric, scorer, config, *handles)
        names = ("policy_optimizer", "value_optimizer")
        parts: dict[str, Any] = {"policy": policy, **dict(zip(names, handles, strict=False))}
        self._penalty = None
        if config.kl_coefficient > 0.0:
            if is_sharded(policy):
                raise ValueError(
                    "Expected `kl_coefficient` 0 under a strategy that shards the policy, got "
                    f"{config.kl_coefficient}: the reference's weights are not sharded yet."
                )
            self._penalty = KLPenalty(
                policy, coefficient=config.kl_coefficient, target=config.kl_target
            )
            parts["kl_penalty"] = self._penalty
        self._run = RunState(
            self.fabric,
            Path(out_dir),
            identity=identity_of(self.name, asdict(config), policy),
            parts=parts,
        )

    @property
    def update(self) -> int:
        """Updates made, those of earlier starts included."""
        return self._run.count

    @property
    def history(self) -> list[Metrics]:
        """A row of metrics per update."""
        return self._run.history

    def fit(
        self, num_updates: int, *, on_update_end: Callable[[Self, Metrics], None] | None = None
    ) -> list[Metrics]:
        """Train until ``num_updates`` updates have been made, earlier runs included.

        Args:
            num_updates: Total, not additional.
            on_update_end: Called after each update has been saved, with its row of metrics.

        Returns:
            A row of metrics per update; also in ``metrics.csv``.

        Raises:
            FloatingPointError: If a loss is not finite; the weights are then as before the step.
            RuntimeError: If the policy scores its own decisions differently than it made them.
        """
        updates = range(self.update, num_updates)
        description = self.name.upper()
        silent = not self.progress_bar
        with self._run, tqdm(updates, desc=description, unit="update", disable=silent) as bar:
            for update in bar:
                metrics = self._one_update(update)
                self._run.advance(metrics)
                bar.set_postfix(success=f"{metrics['success_once']:.2f}")
                if on_update_end is not None:
                    on_update_end(self, metrics)
        return self.history

    def whole_weights(self) -> AbstractContextManager[None]:
        """Return a block in which ``policy`` may act under any strategy.

        Every process must enter it. Without sharding nothing changes.
        """
        return whole_weights(self._scorer)

    @property
    def _value_lr(self) -> float:
        raise NotImplementedError

    @property
    def _bootstraps(self) -> bool:
        """Whether the value of the final observation counts at a time limit."""
        return False

    @property
    @abstractmethod
    def _progress_at(self) -> ProgressAt | None:
        """Return which states' progress is needed, if any."""

    @abstractmethod
    def _seeds(self, update: int) -> Sequence[int]:
        """Return the seeds of this process's episodes of an update."""

    @abstractmethod
    def _credit(self, rollout: Rollout, metrics: Metrics) -> dict[str, Tensor]:
        """Return ``advantage``, ``mask`` and, for a critic, ``returns`` of each decision.

        Adds ``reward_total``, ``reward_sparse`` and ``reward_shaping`` to ``metrics``.
        """

    def _one_update(self, update: int) -> Metrics:
        self.policy.eval()  # the same mode for acting and scoring, or ratios start off 1
        rank, device = self.fabric.global_rank, self.fabric.device
        with random_stream(self.config.seed, update, rank, device=device) as generator:
            started = time.perf_counter()
            with all_or_none(self.fabric):
                rollout, seconds_reward = self._collect(update, generator)
            collected = time.perf_counter()
            metrics = _episode_metrics(rollout)
            rollout = self._choose(rollout, metrics)
            batch = self._batch(rollout, metrics)
            metrics |= self._improve_on(batch, rollout, update)
        seconds = {
            "seconds_rollout": collected - started - seconds_reward,
            "seconds_reward": seconds_reward,
            "seconds_update": time.perf_counter() - collected,
        }
        episodes = (update + 1) * self.config.episodes_per_update
        means = mean_metrics(self.fabric, metrics)
        # While only a critic learns the KL says nothing.
        if self._penalty is not None and update >= getattr(self.config, "value_warmup_updates", 0):
            self._penalty.adapt(means["kl_reference"])
        return {"update": update + 1, "episodes": episodes, **means, **seconds}

    def _collect(self, update: int, generator: torch.Generator) -> tuple[Rollout, float]:
        """Return the episodes of an update, and the seconds that rewards took."""
        return self._play(self._seeds(update), generator)

    def _choose(self, rollout: Rollout, metrics: Metrics) -> Rollout:
        """Return the episodes to learn from; all of them unless a subclass knows better."""
        return rollout

    def _play(self, seeds: Sequence[int], generator: torch.Generator) -> tuple[Rollout, float]:
        timed: list[_TimedProgress] = []
        if self._progress_at is not None and self.progress_model is not None:
            models = self.progress_model
            several = models if isinstance(models, Sequence) else [models]
            timed = [_TimedProgress(model) for model in several]
        with self.fabric.autocast(), self.whole_weights():
            rollout = collect_episodes(
                self.policy,  # type: ignore[arg-type]  # checked in __init__ by what it must have
                self.env,
                seeds,
                generator=generator,
                gamma=self.config.gamma,
                progress_model=timed[0] if len(timed) == 1 else timed or None,
                progress_at=self._progress_at or "failures",
                bootstrap=self._bootstraps,
                progress_bar=self.progress_bar,
            )
        return rollout, sum(model.seconds for model in timed)

    def _batch(self, rollout: Rollout, metrics: Metrics) -> dict[str, Tensor]:
        """Return what the update reads, one row per decision."""
        batch = {f"{REPLAY}{key}": value for key, value in rollout.replay.items()}
        batch["log_prob"] = rollout.log_prob
        if rollout.value is not None:
            batch["value"] = rollout.value
        return batch | self._credit(rollout, metrics)

    def _improve_on(self, batch: dict[str, Tensor], rollout: Rollout, update: int) -> Metrics:
        if self._penalty is None:
            return self._improve(batch, update=update)
        with self.fabric.autocast():
            batch["ref_log_prob"] = self._penalty.log_prob(
                rollout.replay,
                batch_size=self.config.micro_batch_size or self.config.minibatch_size,
            )
        coefficient = self._penalty.coefficient
        metrics = self._improve(batch, update=update, kl_coefficient=coefficient)
        return metrics | {"kl_coefficient": coefficient}

    def _new_seeds(self, update: int) -> Sequence[int]:
        """Return seeds that count up: no two episodes of a run start from the same state."""
        share, offset = self._share()
        start = self.config.seed_start + update * self.config.episodes_per_update + offset
        return range(start, start + share)

    def _share(self) -> tuple[int, int]:
        """Return how many episodes of an update this process plays, and the first of them."""
        share = self.config.episodes_per_update // self.fabric.world_size
        return share, self.fabric.global_rank * share

    def _check(self) -> None:
        if self.has_critic and not hasattr(self.policy, "value_head"):
            raise ValueError(
                "Expected a policy with a submodule `value_head`, got "
                f"{type(self.policy).__name__}."
            )
        if self._progress_at is not None and self.progress_model is None:
            raise ValueError(
                f"Expected a `progress_model`, whose progress this configuration of {self.name} "
                f"reads at {self._progress_at}, got None: {self.config}."
            )
        if self.config.episodes_per_update % self.fabric.world_size:
            raise ValueError(
                f"Expected `episodes_per_update` to be a multiple of {self.fabric.world_size} "
                f"processes, got {self.config.episodes_per_update}."
            )


def _episode_metrics(rollout: Rollout) -> Metrics:
    episodes = rollout.episodes
    return {
        "success_once": episodes.success_once.float().mean(),
        "success_at_end": episodes.success_at_end.float().mean(),
        "episode_length": episodes.length.float().mean(),
    }


class _TimedProgress:
    """A progress model that adds up the time it takes."""

    def __init__(self, model: ProgressModel) -> None:
        self.model, self.seconds = model, 0.0

    def reset(self, env_mask: Any = None) -> None:
        self.model.reset(env_mask)

    def progress(self, obs: Observation) -> Tensor:
        started = time.perf_counter()
        progress = self.model.progress(obs)
        self.seconds += time.perf_counter() - started
        return progress
