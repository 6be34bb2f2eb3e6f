"""SPIRAL: rounds of rollout, relabelling by progress, and residual learning on a frozen policy.

Source: SPIRAL (arXiv 2606.10305); TD3 (Fujimoto et al., 2018) with a behaviour-cloning term.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import torch
from lightning.fabric import Fabric
from torch import Tensor
from tqdm import tqdm

from vla_rl.algorithms.settings import SpiralConfig
from vla_rl.checkpoints import RunState, identity_of
from vla_rl.decisions import Rollout
from vla_rl.functional.residual import hybrid_critic_loss, residual_actor_loss, td_targets
from vla_rl.identity import samples_identity
from vla_rl.policies.residual_policy import ResidualPolicy
from vla_rl.rollout import Environments, ProgressModels, collect_episodes
from vla_rl.streams import random_stream, stream_seed
from vla_rl.transitions import KEYS, TransitionStore, rollout_transitions

Metrics = dict[str, Any]


class Spiral:
    """Improves a `ResidualPolicy` by rounds; continues from ``out_dir`` where it was stopped.

    The first round's episodes are those of the base alone. A run stopped within a round repeats
    that round, with the same numbers.
    """

    def __init__(
        self,
        policy: ResidualPolicy,
        env: Environments,
        config: SpiralConfig | None = None,
        *,
        out_dir: str | Path,
        fabric: Fabric | None = None,
        progress_model: ProgressModels | None = None,
        demonstrations: Mapping[str, Tensor] | None = None,
        progress_bar: bool = True,
    ) -> None:
        """Prepare the run, and load its last checkpoint if there is one.

        Args:
            policy: Trained in place; its base stays frozen.
            env: Environments.
            config: Defaults when None.
            out_dir: Receives ``last.ckpt`` and ``metrics.csv`` after each round.
            fabric: One process; a CPU when None.
            progress_model: Pays for progress; needed where ``config.dense``. The paper adapts it
                once to labelled rollouts of the base before the rounds begin.
            demonstrations: Further transitions (`vla_rl.transitions.KEYS`) to learn from.
            progress_bar: Show bars of rounds and of episodes.

        Raises:
            ValueError: If the progress model is missing, or there is more than one process.
            CheckpointError: If ``out_dir`` holds the checkpoint of another run.
        """
        self.config = config or SpiralConfig()
        self.policy, self.env, self.progress_model = policy, env, progress_model
        self.fabric = fabric or Fabric(accelerator="cpu", devices=1)
        self.progress_bar = progress_bar
        if self.config.dense and progress_model is None:
            raise ValueError("Expected a `progress_model` to pay for progress, got None.")
        if self.fabric.world_size > 1:
            raise ValueError(f"Expected one process, got {self.fabric.world_size}.")
        policy.to(self.fabric.device)
        settings: dict[str, Any] = {"lr": self.config.lr, "weight_decay": self.config.weight_decay}
        self._actor_optimizer = torch.optim.AdamW(policy.actor.parameters(), **settings)
        self._critic_optimizer = torch.optim.AdamW(policy.critics.parameters(), **settings)
        self._targets = copy.deepcopy(policy.critics).requires_grad_(requires_grad=False)
        self.store = TransitionStore()
        given = None
        if demonstrations is not None:
            self.store.add(demonstrations)
            given = samples_identity(demonstrations, KEYS)
        self._run = RunState(
            self.fabric,
            Path(out_dir),
            identity={
                **identity_of("spiral", asdict(self.config), policy),
                "demonstrations": given,
            },
            parts={
                "actor": policy.actor,
                "critics": policy.critics,
                "target_critics": self._targets,
                "actor_optimizer": self._actor_optimizer,
                "critic_optimizer": self._critic_optimizer,
                "store": self.store,
            },
        )

    @property
    def round(self) -> int:
        """Rounds made, those of earlier starts included."""
        return self._run.count

    @property
    def history(self) -> list[Metrics]:
        """A row of metrics per round."""
        return self._run.history

    def fit(
        self, num_rounds: int, *, on_round_end: Callable[[Self, Metrics], None] | None = None
    ) -> list[Metrics]:
        """Train until ``num_rounds`` rounds have been made, earlier runs included.

        Args:
            num_rounds: Total, not additional; the paper makes about 3.
            on_round_end: Called after each round has been saved, with its row of metrics.

        Returns:
            A row of metrics per round; also in ``metrics.csv``.

        Raises:
            FloatingPointError: If a loss is not finite; the weights are then as before the step.
        """
        rounds = range(self.round, num_rounds)
        silent = not self.progress_bar
        with self._run, tqdm(rounds, desc="SPIRAL", unit="round", disable=silent) as bar:
            for number in bar:
                metrics = self._one_round(number)
                self._run.advance(metrics)
                bar.set_postfix(success=f"{metrics['success_once']:.2f}")
                if on_round_end is not None:
                    on_round_end(self, metrics)
        self.policy.eval()
        return self.history

    def _one_round(self, number: int) -> Metrics:
        self.policy.eval()
        config = self.config
        with random_stream(config.seed, number, device=self.fabric.device) as generator:
            rollout = self._collect(number, generator)
            self.store.add(rollout_transitions(rollout, gamma=config.gamma, dense=config.dense))
            losses = self._learn(number, generator)
        return {
            "round": number + 1,
            "episodes": (number + 1) * config.episodes_per_round,
            "transitions": len(self.store),
            **{name: float(value) for name, value in rollout.episodes.metrics().items()},
            **losses,
        }

    def _collect(self, number: int, generator: torch.Generator) -> Rollout:
        candidates = self.policy.num_candidates
        first = self.config.seed_start + number * self.config.episodes_per_round
        try:
            if number == 0:
                self.policy.num_candidates = 1  # critics that know nothing must not choose
            return collect_episodes(
                self.policy,
                self.env,
                range(first, first + self.config.episodes_per_round),
                generator=generator,
                gamma=self.config.gamma,
                progress_model=self.progress_model if self.config.dense else None,
                progress_at="decisions",
                progress_bar=self.progress_bar,
            )
        finally:
            self.policy.num_candidates = candidates

    def _learn(self, number: int, generator: torch.Generator) -> dict[str, float]:
        rows = torch.Generator().manual_seed(stream_seed(self.config.seed, number, 1))
        sums: dict[str, Tensor] = {}
        steps = range(self.config.steps_per_round)
        for step in tqdm(steps, desc="updates", leave=False, disable=not self.progress_bar):
            batch = {
                key: value.to(self.fabric.device)
                for key, value in self.store.sample(self.config.batch_size, rows).items()
            }
            where = f"round {number + 1}, step {step + 1}"
            terms = self._critic_step(batch, generator, where)
            terms |= self._actor_step(batch, generator, where)
            self._track_targets()
            for key, value in terms.items():
                sums[key] = sums.get(key, torch.zeros(())) + value.detach().cpu()
        return {key: float(total) / self.config.steps_per_round for key, total in sums.items()}

    def _critic_step(
        self, batch: Mapping[str, Tensor], generator: torch.Generator, where: str
    ) -> dict[str, Tensor]:
        config = self.config
        with torch.no_grad():
            latent = torch.empty_like(batch["latent"])[None].normal_(generator=generator)
            action, _ = self.policy.propose(batch["next_features"], latent)
            if config.target_noise > 0.0:
                noise = torch.empty_like(action).normal_(generator=generator)
                bound = config.target_noise_clip
                action = action + (config.target_noise * noise).clamp(-bound, bound)
            next_q = self.policy.q(batch["next_features"], latent, action, critics=self._targets)[
                :, 0
            ]
            td = td_targets(batch["reward"], batch["discount"], next_q, done=batch["done"])
        q = self.policy.q(batch["features"], batch["latent"][None], batch["action"][None])[:, 0]
        loss = hybrid_critic_loss(
            q, td, batch["outcome"], alpha=config.mc_weight, target=config.critic_target
        )
        self._descend(loss, self._critic_optimizer, where)
        return {"critic_loss": loss, "q": q.mean(), "td_target": td.mean()}

    def _actor_step(
        self, batch: Mapping[str, Tensor], generator: torch.Generator, where: str
    ) -> dict[str, Tensor]:
        shape = (self.config.num_draws, *batch["latent"].shape)
        latent = torch.empty(shape, device=batch["latent"].device).normal_(generator=generator)
        action, residual = self.policy.propose(batch["features"], latent)
        q = self.policy.q(batch["features"], latent, action)
        gain, cost = residual_actor_loss(q, residual, beta=self.config.bc_weight)
        self._descend(gain + cost, self._actor_optimizer, where)
        return {"actor_gain": -gain, "bc_loss": cost, "mean_abs_residual": residual.abs().mean()}

    def _descend(self, loss: Tensor, optimizer: torch.optim.Optimizer, where: str) -> None:
        if not bool(loss.isfinite()):
            raise FloatingPointError(
                f"Expected a finite loss, got {loss.item()} in {where}. The last checkpoint is "
                "intact."
            )
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        # Not zero_grad and backward: the residual's loss reaches into the critics as well.
        for parameter, gradient in zip(
            parameters, torch.autograd.grad(loss, parameters), strict=True
        ):
            parameter.grad = gradient
        torch.nn.utils.clip_grad_norm_(parameters, self.config.max_grad_norm)
        optimizer.step()

    @torch.no_grad()
    def _track_targets(self) -> None:
        pairs = zip(self._targets.parameters(), self.policy.critics.parameters(), strict=True)
        for target, source in pairs:
            target.lerp_(source, self.config.tau)
