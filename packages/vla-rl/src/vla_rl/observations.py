"""Helpers for batches of observations: mappings of arrays, tensors and lists with n rows each."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vla_rl.types import Observation


def to_tensor(value: Any, device: torch.device | str = "cpu") -> Tensor:
    """Return an array or tensor as a tensor on ``device``, sharing memory where possible."""
    if isinstance(value, np.ndarray) and not value.flags.writeable:
        value = value.copy()  # torch cannot share read-only memory
    return torch.as_tensor(value, device=device)


def num_rows(batch: Observation) -> int:
    """Return how many rows a batch has.

    Raises:
        ValueError: If it is empty or its entries disagree.
    """
    counts = {key: len(value) for key, value in batch.items()}
    if len(set(counts.values())) != 1:
        raise ValueError(f"Expected a batch whose entries have equally many rows, got {counts}.")
    return next(iter(counts.values()))


def select_rows(batch: Observation, rows: Sequence[int] | Tensor) -> dict[str, Any]:
    """Return the given rows of every entry of a batch."""
    index = torch.as_tensor(rows, dtype=torch.long)
    return {key: _select(value, index) for key, value in batch.items()}


def replace_rows(
    batch: Observation, rows: Sequence[int] | Tensor, replacement: Observation
) -> dict[str, Any]:
    """Return a copy of a batch in which the given rows are those of ``replacement``, in order."""
    order = torch.arange(num_rows(batch))
    order[torch.as_tensor(rows, dtype=torch.long)] = len(order) + torch.arange(len(rows))
    return select_rows(concat_rows([dict(batch), dict(replacement)]), order)


def concat_rows(batches: Sequence[Observation]) -> dict[str, Any]:
    """Join batches that have the same keys, one after the other.

    Raises:
        ValueError: If there are none, or their keys differ.
    """
    if not batches:
        raise ValueError("Expected at least one batch to join, got none.")
    keys = set(batches[0])
    for batch in batches:
        if set(batch) != keys:
            raise ValueError(f"Expected the same keys in all batches, got {keys} and {set(batch)}.")
    return {key: _concat([batch[key] for batch in batches]) for key in batches[0]}


def image_key(camera: str) -> str:
    """Return the observation key of a camera's image."""
    return f"observation.images.{camera}"


def require(batch: Mapping[str, Any], key: str) -> Any:
    """Return an entry of a batch.

    Raises:
        ValueError: If it is missing; the message lists what there is.
    """
    if key not in batch:
        raise ValueError(f"Expected key {key!r} in the observation, got {sorted(batch)}.")
    return batch[key]


def _select(value: Any, index: Tensor) -> Any:
    if isinstance(value, Tensor):
        return value.index_select(0, index.to(value.device))
    if isinstance(value, np.ndarray):
        return value[index.numpy()]
    return [value[row] for row in index.tolist()]


def _concat(values: list[Any]) -> Any:
    if isinstance(values[0], Tensor):
        return torch.cat(values)
    if isinstance(values[0], np.ndarray):
        return np.concatenate(values)
    return [row for value in values for row in value]
