"""Behaviour cloning: supervised learning of demonstrated action chunks."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from tqdm import tqdm

from vla_rl.algorithms.settings import CloneConfig
from vla_rl.checkpoints import RunState, identity_of
from vla_rl.functional.sample_weights import weighted_mean
from vla_rl.identity import samples_identity
from vla_rl.observations import num_rows, require, select_rows, to_tensor
from vla_rl.reductions import mean_over_ranks
from vla_rl.streams import random_stream
from vla_rl.types import ImitationBatch


class BehaviourCloning:
    """Trains a policy on samples in memory; continues from ``out_dir`` where a run was stopped."""

    name: ClassVar[str] = "behaviour_cloning"
    """What a checkpoint calls the algorithm."""
    _compared: ClassVar[tuple[str, ...]] = ("action", "action_is_pad", "observation.state")
    """Entries of the samples whose checksums a checkpoint must agree on."""

    def __init__(
        self,
        policy: nn.Module,
        samples: ImitationBatch,
        config: CloneConfig | None = None,
        *,
        out_dir: str | Path,
        fabric: Fabric | None = None,
        progress_bar: bool = True,
        data: Mapping[str, Any] | None = None,
    ) -> None:
        """Prepare the run, and load its last checkpoint if there is one.

        Args:
            policy: A `vla_rl.types.Policy` that is a module; trained in place.
            samples: See `vla_rl.data.make_chunks`.
            config: Defaults when None.
            out_dir: Receives ``last.ckpt`` and ``metrics.csv`` after each epoch.
            fabric: Launched; one CPU process when None. Several processes need the strategy
                ``ddp_find_unused_parameters_true``: imitation leaves the critic out.
            progress_bar: Show one, counted in epochs.
            data: What the samples were made of, as plain values: part of what tells this run from
                another.

        Raises:
            CheckpointError: If ``out_dir`` holds the checkpoint of another run, or of other samples
                (images are not compared).
        """
        self.config = config or CloneConfig()
        self.samples, self.progress_bar = samples, progress_bar
        self._counts = True  # whether any sample of the present batch has weight
        self.fabric = fabric or Fabric(accelerator="cpu", devices=1)
        optimizer = torch.optim.AdamW(
            policy.parameters(), lr=self.config.lr, weight_decay=self.config.weight_decay
        )
        self.policy, self.optimizer = self.fabric.setup(policy, optimizer)
        self.policy.mark_forward_method("imitation_loss")
        self._run = RunState(
            self.fabric,
            Path(out_dir),
            identity={
                **identity_of(self.name, asdict(self.config), policy),
                "samples": samples_identity(samples, self._compared),
                **({} if data is None else {"data": dict(data)}),
            },
            parts={"policy": policy, "optimizer": self.optimizer},
        )

    @property
    def epoch(self) -> int:
        """Epochs made, those of earlier starts included."""
        return self._run.count

    def fit(self) -> list[dict[str, Any]]:
        """Train up to ``num_epochs`` and return a row of metrics per epoch.

        Raises:
            FloatingPointError: If the loss is not finite; the weights are then as before the step.
        """
        silent = not (self.progress_bar and self.fabric.is_global_zero)
        epochs = range(self.epoch, self.config.num_epochs)
        title = "behaviour cloning"
        with self._run, tqdm(epochs, desc=title, unit="epoch", disable=silent) as bar:
            for epoch in bar:
                loss = self._train_epoch(epoch)
                self._run.advance({"epoch": epoch + 1, "loss": loss})
                bar.set_postfix(loss=f"{loss:.3f}")
        self.policy.eval()
        return self._run.history

    def _train_epoch(self, epoch: int) -> float:
        rank, world_size = self.fabric.global_rank, self.fabric.world_size
        count = num_rows(self.samples)
        num_batches = math.ceil(count / self.config.batch_size)
        order = torch.randperm(
            count, generator=torch.Generator().manual_seed(self.config.seed + epoch)
        )
        self.policy.train()
        losses = []
        with random_stream(self.config.seed, epoch, rank, device=self.fabric.device):
            for i, rows in enumerate(order.tensor_split(num_batches)):
                for group in self.optimizer.param_groups:
                    group["lr"] = self._lr(epoch * num_batches + i, num_batches)
                # Every process takes its share of the same batch.
                batch = select_rows(self.samples, rows[rank::world_size])
                loss = self._loss(batch)
                if not math.isfinite(mean_over_ranks(self.fabric, loss)):
                    raise FloatingPointError(
                        f"Expected a finite loss, got {loss.item()} in epoch {epoch}, batch {i}."
                    )
                self.optimizer.zero_grad()
                self.fabric.backward(loss)
                self.fabric.clip_gradients(
                    self.policy, self.optimizer, max_norm=self.config.max_grad_norm
                )
                if self._counts:  # momentum and decay would move the weights all the same
                    self.optimizer.step()
                losses.append(loss.detach())
        return mean_over_ranks(self.fabric, torch.stack(losses).mean())

    def _loss(self, batch: ImitationBatch) -> Tensor:
        """Return the mean over all real actions of the batch, those of other processes included."""
        loss = self.policy.imitation_loss(batch, reduction="none")
        count = (~to_tensor(require(batch, "action_is_pad"), loss.device)).sum(-1)
        weight = self._weight(batch, count)
        return weighted_mean(loss, weight, total_weight=self._mean_of_ranks)

    def _weight(self, batch: ImitationBatch, count: Tensor) -> Tensor:
        return count.float()

    def _mean_of_ranks(self, total: Tensor) -> Tensor:
        mean = mean_over_ranks(self.fabric, total)
        self._counts = mean > 0.0
        return total.new_tensor(mean)

    def _lr(self, step: int, steps_per_epoch: int) -> float:
        total = steps_per_epoch * self.config.num_epochs
        warmup = max(1.0, self.config.warmup_share * total)
        if step < warmup:
            return self.config.lr * (step + 1) / (warmup + 1)
        share = (step - warmup) / max(1.0, total - warmup)
        return self.config.lr * 0.5 * (1.0 + math.cos(math.pi * share))


def clone(
    policy: nn.Module,
    samples: ImitationBatch,
    config: CloneConfig | None = None,
    *,
    out_dir: str | Path,
    fabric: Fabric | None = None,
    progress_bar: bool = True,
) -> list[dict[str, Any]]:
    """Train ``policy`` in place on ``samples``; see `BehaviourCloning`."""
    return BehaviourCloning(
        policy, samples, config, out_dir=out_dir, fabric=fabric, progress_bar=progress_bar
    ).fit()
