"""Gradient steps on the clipped surrogate and, where there is a critic, on its loss."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer

from vla_rl.algorithms.settings import OnPolicyConfig, PPOConfig
from vla_rl.functional.policy_losses import (
    aggregate_log_ratio,
    clip_fractions,
    clipped_surrogate,
    masked_mean,
    reference_kl,
    value_loss,
)
from vla_rl.reductions import max_over_ranks, mean_over_ranks
from vla_rl.streams import stream_seed
from vla_rl.types import Policy

REPLAY = "replay/"
"""Prefix of a batch's entries that are handed to `Policy.evaluate`."""


class Scorer(nn.Module):
    """A policy whose ``forward`` is ``evaluate``: Fabric's strategies hook into ``forward``."""

    def __init__(self, policy: nn.Module) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, replay: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return log-probabilities, entropies and values; tensors pass where dataclasses do not."""
        output = cast(Policy, self.policy).evaluate(replay)
        # A policy without a critic has no values, and an empty tensor says so.
        value = output.log_prob.new_zeros(0) if output.value is None else output.value
        return output.log_prob, output.entropy, value


class _Counts(NamedTuple):
    """Of a minibatch, the mean over processes."""

    units: float
    tokens: float
    decisions: float


class _Weights(NamedTuple):
    """Of the terms of the loss."""

    actor: float
    entropy: float
    kl: float


class ClippedUpdate:
    """Improves a policy on one batch of decisions (Feat2Go, eqs. 6 and 8)."""

    def __init__(
        self,
        fabric: Fabric,
        scorer: nn.Module,
        config: OnPolicyConfig,
        policy_optimizer: Optimizer,
        value_optimizer: Optimizer | None = None,
    ) -> None:
        """Take what `Fabric.setup` returned for a `Scorer` and its optimizers.

        With a ``value_optimizer`` the settings are a `PPOConfig` and the critic learns too.
        """
        self.fabric, self.scorer, self.config = fabric, scorer, config
        self.policy_optimizer, self.value_optimizer = policy_optimizer, value_optimizer

    def __call__(
        self, batch: Mapping[str, Tensor], *, update: int, kl_coefficient: float = 0.0
    ) -> dict[str, Any]:
        """Make a few epochs of gradient steps; stop early when the policy has moved too far.

        Args:
            batch: One row per decision: ``log_prob``, ``mask``, ``advantage``, the replay under
                ``replay/<key>``; for a critic ``value`` and ``returns``; for a penalty on the KL to
                a reference ``ref_log_prob``.
            update: How many updates came before.
            kl_coefficient: Weight of that penalty.

        Returns:
            Diagnostics, averaged over the steps.

        Raises:
            FloatingPointError: If a loss is not finite; the weights are then as before the step.
            RuntimeError: If the first ratios are not 1.
        """
        count = len(batch["log_prob"])
        most = max_over_ranks(self.fabric, count)
        # As many steps in every process, however many decisions its episodes took.
        num_minibatches = -(-int(most) // self.config.minibatch_size)
        seed = stream_seed(self.config.seed, update, self.fabric.global_rank, 1)
        shuffler = torch.Generator().manual_seed(seed)
        steps: list[dict[str, Tensor]] = []
        for epoch in range(self.config.num_epochs):
            order = torch.randperm(count, generator=shuffler)
            for i, rows in enumerate(order.tensor_split(num_minibatches)):
                minibatch = {
                    key: value.index_select(0, rows).to(self.fabric.device)
                    for key, value in batch.items()
                }
                where = f"update {update + 1}, epoch {epoch + 1}, minibatch {i + 1}"
                step = self._step(minibatch, update, where, kl_coefficient, first=not steps)
                if step is None:
                    return _summary(steps)
                steps.append(step)
        return _summary(steps)

    def _step(
        self,
        batch: Mapping[str, Tensor],
        update: int,
        where: str,
        kl_coefficient: float,
        *,
        first: bool,
    ) -> dict[str, Tensor] | None:
        """Take one gradient step; None when the policy is too far from the one that acted."""
        config = self.config
        warming_up = isinstance(config, PPOConfig) and update < config.value_warmup_updates
        # Zero times the policy's loss rather than none: all processes must see all gradients.
        weights = _Weights(0.0 if warming_up else 1.0, config.entropy_coefficient, kl_coefficient)
        counts = self._counts(batch)
        self._zero_grad()
        parts = []
        micro_batches = self._micro_batches(batch)
        for i, part in enumerate(micro_batches):
            more = i + 1 < len(micro_batches)
            with self.fabric.no_backward_sync(cast(Any, self.scorer), enabled=more):
                loss, diagnostics = self._losses(part, counts, weights, where, first=first)
                self.fabric.backward(loss)
            parts.append(diagnostics)
        # All are divided by the counts of the whole minibatch, so they add up to its means.
        total = {key: torch.stack([part[key] for part in parts]).sum() for key in parts[0]}
        # Before the first step there is nothing that could have moved the policy but rounding.
        if (
            config.kl_stop is not None
            and not first
            and mean_over_ranks(self.fabric, total["approx_kl"]) > config.kl_stop
        ):
            return None
        # Adam's momentum would move the policy even where nothing counts.
        idle = warming_up or counts.units == 0.0
        for optimizer in (self.value_optimizer, None if idle else self.policy_optimizer):
            if optimizer is not None:
                norm = config.max_grad_norm
                self.fabric.clip_gradients(self.scorer, optimizer, max_norm=norm)
                optimizer.step()
        return total

    def _losses(
        self,
        batch: Mapping[str, Tensor],
        counts: _Counts,
        weights: _Weights,
        where: str,
        *,
        first: bool,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the share of a micro-batch in the loss of its minibatch, and diagnostics."""
        config, mask = self.config, batch["mask"]
        replay = {
            key.removeprefix(REPLAY): value
            for key, value in batch.items()
            if key.startswith(REPLAY)
        }
        log_prob, all_entropy, value = self.scorer(replay)
        if first:
            self._check_first_ratio(log_prob, batch["log_prob"], mask, where)
        policy_loss, diagnostics = clipped_surrogate(
            log_prob,
            batch["log_prob"],
            batch["advantage"],
            mask,
            clip_low=config.clip_low,
            clip_high=config.clip_high,
            dual_clip=config.dual_clip,
            level=config.level,
            denominator=counts.units,
        )
        diagnostics |= clip_fractions(
            log_prob.detach() - batch["log_prob"],
            mask,
            clip_low=config.clip_low,
            clip_high=config.clip_high,
            denominators={
                "token": counts.tokens,
                "action": counts.tokens / log_prob.shape[-1],
                "chunk": counts.decisions,
            },
        )
        critic_loss, critic_diagnostics = self._critic_loss(value, batch, counts)
        entropy = masked_mean(all_entropy, mask, denominator=counts.tokens)
        actor_loss = policy_loss - weights.entropy * entropy
        if "ref_log_prob" in batch:
            kl_loss, diagnostics["kl_reference"] = reference_kl(
                log_prob,
                batch["log_prob"],
                batch["ref_log_prob"],
                mask,
                denominator=counts.tokens,
            )
            actor_loss = actor_loss + weights.kl * kl_loss
        loss = weights.actor * actor_loss + critic_loss
        # In every process or in none: the others would wait for the gradients of one that stopped.
        if not math.isfinite(mean_over_ranks(self.fabric, loss)):
            raise FloatingPointError(
                f"Expected a finite loss, got {loss.item()} (policy {policy_loss.item()}, critic "
                f"{critic_loss.item()}) in {where}. The last checkpoint is intact."
            )
        return loss, {
            "policy_loss": policy_loss.detach(),
            "value_loss": critic_loss.detach(),
            "entropy": entropy.detach(),
            **diagnostics,
            **critic_diagnostics,
        }

    def _counts(self, batch: Mapping[str, Tensor]) -> _Counts:
        """Return what the means of a minibatch are divided by.

        Gradients are averaged over processes: with the mean count per process below the line they
        come out as the sum over all tokens by the count of all tokens.
        """
        mask, log_prob = batch["mask"], batch["log_prob"]
        units = aggregate_log_ratio(log_prob, mask, level=self.config.level)[1].sum()
        tokens, decisions = mask.sum() * log_prob.shape[-1], mask.any(-1).sum()
        return _Counts(*(mean_over_ranks(self.fabric, x) for x in (units, tokens, decisions)))

    def _micro_batches(self, batch: Mapping[str, Tensor]) -> list[Mapping[str, Tensor]]:
        size = self.config.micro_batch_size
        if size is None:
            return [batch]
        # As many in every process, some of them empty: each part takes exchanges with all others.
        most = max_over_ranks(self.fabric, len(batch["mask"]))
        num_parts = math.ceil(most / size)
        parts = {key: value.tensor_split(num_parts) for key, value in batch.items()}
        return [{key: part[i] for key, part in parts.items()} for i in range(num_parts)]

    def _critic_loss(
        self, value: Tensor, batch: Mapping[str, Tensor], counts: _Counts
    ) -> tuple[Tensor, dict[str, Tensor]]:
        if self.value_optimizer is None:
            return 0.0 * value.sum(), {}  # a critic that nobody trains still must see gradients
        config = cast(PPOConfig, self.config)
        return value_loss(
            value,
            batch["returns"],
            batch["mask"].any(-1),
            old_value=batch["value"] if config.value_clip is not None else None,
            clip=config.value_clip,
            huber_delta=config.huber_delta,
            denominator=counts.decisions,
        )

    def _zero_grad(self) -> None:
        self.policy_optimizer.zero_grad()
        if self.value_optimizer is not None:
            self.value_optimizer.zero_grad()

    def _check_first_ratio(self, new: Tensor, old: Tensor, mask: Tensor, where: str) -> None:
        difference = torch.where(mask[..., None], new.detach() - old, 0.0).abs()
        worst = float(difference.nan_to_num(nan=math.inf).max()) if difference.numel() else 0.0
        # In every process or in none, as some may have less than the others or nothing at all.
        worst = max_over_ranks(self.fabric, worst)
        if worst > self.config.ratio_tolerance:
            raise RuntimeError(
                "Expected `evaluate` to give the log-probabilities of `act` before the first step, "
                f"got a difference of {worst} in {where}. Look for dropout, another precision or "
                "another temperature."
            )


def _summary(steps: list[dict[str, Tensor]]) -> dict[str, Any]:
    """Return the means over the steps of an update, and where it started from."""
    means: dict[str, Any] = {
        key: torch.stack([step[key] for step in steps]).mean() for key in steps[0]
    }
    return means | {
        "log_ratio_before_update": steps[0]["mean_abs_log_ratio"],
        "num_steps": len(steps),
    }
