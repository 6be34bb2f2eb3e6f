"""The loop that PPO, GRPO and RFTF share: whole episodes, their credit, epochs of updates."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar, cast

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm

from vla_rl.algorithms.clipped_update import REPLAY, ClippedUpdate, Scorer
from vla_rl.algorithms.reference import KLPenalty
from vla_rl.algorithms.settings import OnPolicyConfig
from vla_rl.checkpoints import RunState, identity_of
from vla_rl.decisions import Rollout
from vla_rl.reductions import all_or_none, mean_metrics
from vla_rl.rollout import Environments, ProgressAt, ProgressModels, collect_episodes
from vla_rl.sharding import whole_weights
from vla_rl.streams import random_stream
from vla_rl.timing import timed

Metrics = dict[str, Any]

ConfigT = TypeVar("ConfigT", bound=OnPolicyConfig)


class OnPolicy(ABC, Generic[ConfigT]):
    """Alternates whole episodes and a few epochs of the clipped surrogate.

    Continues by itself from ``out_dir`` where a run was stopped, with the same numbers as a run
    that was not: random streams are functions of seed, update and rank, and episodes have explicit
    seeds, so weights, optimizers and the number of updates are all the state there is.

    A subclass says which states episodes start from (`_seeds`), what its decisions were worth
    (`_credit`), which states' progress it needs (`_progress_at`) and, where more than the policy
    learns, with which optimizers (`_optimizers`).
    """

    name: ClassVar[str]
    """What a checkpoint calls the algorithm."""
    settings: ClassVar[type[OnPolicyConfig]]
    """Class of its settings."""
    config: ConfigT

    def __init__(
        self,
        policy: nn.Module,
        env: Environments,
        config: ConfigT | None = None,
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
            config: Settings of the algorithm; defaults when None.
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
        self.config = cast(ConfigT, self.settings()) if config is None else config
        self.policy = policy
        self.env, self.progress_model = env, progress_model
        self.fabric = fabric or Fabric(accelerator="cpu", devices=1)
        self.progress_bar = progress_bar and self.fabric.is_global_zero
        self._check()

        self._scorer = self.fabric.setup_module(Scorer(policy))
        # Only now: a strategy may have replaced the parameters by shares of them.
        wrapped = self.fabric.setup_optimizers(*self._optimizers())
        handles: list[Any] = list(wrapped) if isinstance(wrapped, tuple) else [wrapped]
        self._improve = ClippedUpdate(self.fabric, self._scorer, self.config, *handles)
        names = ("policy_optimizer", "value_optimizer")
        parts: dict[str, Any] = {"policy": policy, **dict(zip(names, handles, strict=False))}
        self._penalty = None
        if self.config.kl_coefficient > 0.0:
            self._penalty = KLPenalty(
                policy,
                coefficient=self.config.kl_coefficient,
                target=self.config.kl_target,
                whole_weights=self.whole_weights,
            )
            parts["kl_penalty"] = self._penalty
        self._run = RunState(
            self.fabric,
            Path(out_dir),
            identity=identity_of(self.name, asdict(self.config), policy),
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

    def _optimizers(self) -> list[Optimizer]:
        """Return the optimizer of the policy and, in a subclass with a critic, that of the critic.

        Called once the strategy has taken hold of the parameters.
        """
        return [torch.optim.Adam(self._parameters(critic=False), lr=self.config.lr, eps=1e-5)]

    def _parameters(self, *, critic: bool) -> list[nn.Parameter]:
        """Return the parameters of the critic, or all others."""
        return [
            parameter
            for name, parameter in self.policy.named_parameters()
            if name.startswith("value_head.") == critic
        ]

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
            metrics = rollout.episodes.metrics()
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
        models = timed(self.progress_model if self._progress_at is not None else None)
        with self.fabric.autocast(), self.whole_weights():
            rollout = collect_episodes(
                self.policy,  # type: ignore[arg-type]  # checked in __init__ by what it must have
                self.env,
                seeds,
                generator=generator,
                gamma=self.config.gamma,
                progress_model=models[0] if len(models) == 1 else models or None,
                progress_at=self._progress_at or "failures",
                bootstrap=self._bootstraps,
                progress_bar=self.progress_bar,
            )
        return rollout, sum(model.seconds for model in models)

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
