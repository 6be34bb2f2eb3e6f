"""What tells a policy from another of its class, and samples from others."""

import zlib
from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn

from vla_rl.observations import num_rows, to_tensor
from vla_rl.types import ImitationBatch


def policy_config(policy: nn.Module) -> dict[str, Any]:
    """Return what tells a policy from another of its class.

    That is what a method ``identity()`` says or, without one, what ``save_pretrained`` would write
    to ``config.json``.
    """
    if hasattr(policy, "identity"):
        return dict(cast(Any, policy).identity())
    return dict(cast(Any, getattr(policy, "_hub_mixin_config", None)) or {})


def weights_checksum(module: nn.Module) -> str:
    """Return eight letters that change with any weight of a module."""
    return _checksum(module.state_dict().values())


def samples_identity(samples: ImitationBatch, keys: Iterable[str]) -> dict[str, Any]:
    """Return what tells samples from others: their number and checksums of some entries.

    Images are left to themselves: reading gigabytes of them would tell little more.

    Args:
        samples: See `vla_rl.data.make_chunks`.
        keys: Entries of numbers to look at, where the samples have them; ``task`` always is.
    """
    checksums = {key: _checksum([to_tensor(samples[key])]) for key in keys if key in samples}
    tasks = "\n".join(samples.get("task", ()))
    return {"rows": num_rows(samples), **checksums, "task": f"{zlib.crc32(tasks.encode()):08x}"}


def _checksum(tensors: Iterable[Tensor]) -> str:
    checksum = 0
    for tensor in tensors:
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        checksum = zlib.crc32(flat.view(torch.uint8).numpy().data, checksum)
    return f"{checksum:08x}"
