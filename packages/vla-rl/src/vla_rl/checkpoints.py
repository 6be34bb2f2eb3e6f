"""Training state on disk: never half-written, and refused by anything it does not belong to."""

import csv
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from lightning.fabric import Fabric
from torch import nn

from vla_rl.errors import CheckpointError
from vla_rl.identity import policy_config
from vla_rl.plots import save_history
from vla_rl.sharding import load_whole_state, whole_state

SCHEMA_VERSION = 1
FILE_NAME = "last.ckpt"
FIRST_DRAWING = 10.0
"""Seconds after which a run draws its first figure, unless it has ended."""
DRAWING_SHARE = 0.02
"""Of a run's time, at most, for its figure: drawing takes longer than a tiny policy's update."""

Identity = Mapping[str, Any]
"""What a checkpoint must agree on to be continued: algorithm, its config, the policy's config."""


def identity_of(algorithm: str, config: Mapping[str, Any], policy: nn.Module) -> dict[str, Any]:
    """Return what tells this training run from another, as plain values."""
    return {
        "schema_version": SCHEMA_VERSION,
        "algorithm": algorithm,
        "config": dict(config),
        "policy": type(policy).__qualname__,
        "policy_config": policy_config(policy),
    }


class RunState:
    """What a run needs to go on where it was stopped: weights, optimizers, a count, its metrics.

    Loads ``last.ckpt`` of ``out_dir`` if there is one. A run trains in ``with state:``, which
    leaves an up-to-date figure however the run ends.

    Args:
        fabric: Launched.
        out_dir: Receives ``last.ckpt``, ``metrics.csv`` and ``metrics.png``; created when it does
            not exist.
        identity: See `identity_of`.
        parts: Modules and optimizers, by the name that they have in the checkpoint.

    Raises:
        CheckpointError: If ``out_dir`` holds the checkpoint of another run.
    """

    def __init__(
        self, fabric: Fabric, out_dir: Path, *, identity: Identity, parts: Mapping[str, Any]
    ) -> None:
        self._fabric, self._identity, self._parts = fabric, identity, parts
        self._path, self._table = out_dir / FILE_NAME, out_dir / "metrics.csv"
        self.count = 0
        """Epochs or updates done."""
        self.history: list[dict[str, Any]] = []
        """A row of metrics for each of them."""
        self._draw_at = time.monotonic() + FIRST_DRAWING
        out_dir.mkdir(parents=True, exist_ok=True)
        if self._path.exists():
            found = load_checkpoint(self._path, identity=identity)
            for name, part in parts.items():
                load_whole_state(part, found[name])
            self.count, self.history = found["count"], found["history"]

    def advance(self, metrics: dict[str, Any]) -> None:
        """Count one more epoch or update and write everything down; every process calls this."""
        self.count += 1
        self.history.append(metrics)
        state = {name: whole_state(part) for name, part in self._parts.items()}
        state |= {"count": self.count, "history": self.history}
        save_checkpoint(self._fabric, self._path, identity=self._identity, state=state)
        self._fabric.log_dict(_numbers(metrics), step=self.count)  # to the user's loggers, if any
        if self._fabric.is_global_zero:
            write_table(self._table, self.history)
            if time.monotonic() >= self._draw_at:
                self.draw()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.draw()

    def draw(self) -> None:
        """Bring ``metrics.png`` up to date; leaving a ``with`` block does, however it is left."""
        if self.history and self._fabric.is_global_zero:
            started = time.monotonic()
            save_history(self.history, self._table.with_suffix(".png"))
            ended = time.monotonic()
            self._draw_at = ended + (ended - started) / DRAWING_SHARE


def save_checkpoint(
    fabric: Fabric, path: Path, *, identity: Identity, state: Mapping[str, Any]
) -> None:
    """Write a checkpoint under a temporary name, then rename it; every process calls this."""
    if fabric.is_global_zero:
        partial = path.with_name(f".{path.name}.partial")
        torch.save({"identity": dict(identity), **state}, partial)
        os.replace(partial, path)
    fabric.barrier()


def load_checkpoint(path: Path, *, identity: Identity) -> dict[str, Any]:
    """Read a checkpoint, once it is known to be of this run.

    Raises:
        CheckpointError: If it cannot be read, or was written by another algorithm, configuration or
            policy; the message names every difference.
    """
    remedy = "Continue with what wrote it, or choose another `out_dir`."
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        found = checkpoint.pop("identity")
    except Exception as error:
        raise CheckpointError(f"Expected a readable checkpoint at {path}. {remedy}") from error
    differences = _differences(found, identity)
    if differences:
        raise CheckpointError(
            f"The checkpoint {path} is of another run: {'; '.join(differences)}. {remedy}"
        )
    return checkpoint


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows that share their keys as CSV, replacing the file in one step."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    os.replace(partial, path)


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {key: float(value) for key, value in metrics.items()}


def _differences(found: Any, expected: Any, name: str = "") -> list[str]:
    if isinstance(found, Mapping) and isinstance(expected, Mapping):
        return [
            difference
            for key in sorted(found.keys() | expected.keys())
            for difference in _differences(
                found.get(key), expected.get(key), f"{name}.{key}" if name else key
            )
        ]
    if found == expected:
        return []
    return [f"`{name}` is {found!r} there and {expected!r} here"]
