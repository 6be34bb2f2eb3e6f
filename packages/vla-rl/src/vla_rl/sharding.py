"""FSDP2 under Fabric: parameters, gradients and optimizer states shared out over processes."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

from lightning.fabric.strategies.model_parallel import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed import get_world_size
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_map_only


def fully_sharded() -> ModelParallelStrategy:
    """Return a strategy for ``Fabric(strategy=...)`` that shards what is trained as one group.

    Between updates each process holds its share of weights, gradients and optimizer states; whole
    weights are gathered for a rollout and for each forward pass.
    """
    return ModelParallelStrategy(_shard)


def _shard(module: nn.Module, mesh: DeviceMesh) -> nn.Module:
    # The strategy's own mesh has an axis for tensor parallelism; this is data parallelism only.
    everyone = init_device_mesh(mesh.device_type, (get_world_size(),))
    for parameter in module.parameters():
        parameter.data = parameter.data.contiguous()  # kernels may be stored channels last
    fully_shard(module, mesh=everyone)
    return module


def is_sharded(module: nn.Module) -> bool:
    """Return whether a module's parameters are shared out."""
    return any(isinstance(parameter, DTensor) for parameter in module.parameters())


@contextmanager
def whole_weights(module: nn.Module) -> Iterator[None]:
    """Gather the weights for a block in which processes need not keep in step.

    Args:
        module: What `Fabric.setup_module` returned.
    """
    sharded = [part for part in module.modules() if isinstance(part, FSDPModule)]
    for part in sharded:
        part.unshard()
    try:
        yield
    finally:
        for part in sharded:
            part.reshard()


def whole_state(part: Any) -> Any:
    """Return the state of a module or optimizer with whole tensors; every process calls this."""
    return tree_map_only(DTensor, lambda x: x.full_tensor(), part.state_dict())


def load_whole_state(part: Any, state: Mapping[str, Any]) -> None:
    """Load what `whole_state` returned, each process its share."""
    if isinstance(part, nn.Module) and is_sharded(part):
        now = part.state_dict()
        state = {name: share_of(value, now[name]) for name, value in state.items()}
    elif isinstance(part, Optimizer):
        parameters = [p for group in part.param_groups for p in group["params"]]
        moments = {
            index: {name: share_of(value, parameters[index]) for name, value in entry.items()}
            for index, entry in state["state"].items()
        }
        state = {**state, "state": moments}
    part.load_state_dict(cast(Any, state))


def share_of(value: Any, like: Any) -> Any:
    """Return a share of a tensor for a parameter of which each process has one."""
    if isinstance(like, DTensor) and isinstance(value, Tensor) and value.shape == like.shape:
        return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)
    return value
