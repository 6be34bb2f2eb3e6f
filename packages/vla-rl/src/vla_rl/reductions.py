"""Statistics over all processes of a Fabric run."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from lightning.fabric import Fabric
from torch import Tensor


def sum_over_ranks(fabric: Fabric, x: Tensor) -> Tensor:
    """Return the sum of ``x`` over processes, on the device ``x`` came from."""
    total = fabric.all_reduce(x.detach().to(fabric.device), reduce_op="sum")
    assert isinstance(total, Tensor)
    return total.to(x.device)


@contextmanager
def all_or_none(fabric: Fabric) -> Iterator[None]:
    """Raise in every process when a block fails in one: the others would wait for it for ever.

    Raises:
        RuntimeError: If it failed elsewhere; where it failed, the error itself goes on.
    """
    try:
        yield
    except Exception:
        max_over_ranks(fabric, 1.0)
        raise
    if max_over_ranks(fabric, 0.0) > 0.0:
        raise RuntimeError("Another process failed; its own message says why.")


def mean_over_ranks(fabric: Fabric, x: Tensor | float) -> float:
    """Return the mean of a scalar over processes."""
    value = torch.as_tensor(x).detach().to(torch.float64)
    return float(sum_over_ranks(fabric, value)) / fabric.world_size


def max_over_ranks(fabric: Fabric, x: float) -> float:
    """Return the largest of a number over processes."""
    largest = fabric.all_reduce(
        torch.tensor(x, dtype=torch.float64, device=fabric.device), reduce_op="max"
    )
    assert isinstance(largest, Tensor)
    return float(largest)


def mean_metrics(fabric: Fabric, metrics: Mapping[str, Tensor | float]) -> dict[str, float]:
    """Return the mean of each metric over processes, with one exchange."""
    values = torch.tensor([float(value) for value in metrics.values()], dtype=torch.float64)
    means = sum_over_ranks(fabric, values) / fabric.world_size
    return dict(zip(metrics, means.tolist(), strict=True))
