"""FSDP2 for the Trainer: weights, gradients and optimizer states shared out over processes."""

import copy
from typing import Any

from lightning import LightningModule
from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry
from torch import nn
from torch.distributed import get_world_size
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

STEPS = ("training_step", "validation_step", "test_step", "predict_step")


class FullySharded(ModelParallelStrategy):
    """Each process holds its share of what is trained; steps gather it. ``fsdp2`` on the CLI.

    Checkpoints are single files with whole tensors, as those of other strategies. Works on a CPU,
    too, unlike Lightning's ``fsdp``.
    """

    def __init__(self) -> None:
        super().__init__(save_distributed_checkpoint=False)

    @property
    def distributed_sampler_kwargs(self) -> dict[str, Any]:
        """Every process sees other data: there is no tensor parallelism."""
        return {"num_replicas": self.world_size, "rank": self.global_rank}


def register() -> None:
    """Let a Trainer find the strategy under its name."""
    if "fsdp2" not in StrategyRegistry:
        StrategyRegistry.register("fsdp2", FullySharded, description="FSDP2, see value_models")


def shard(module: LightningModule) -> None:
    """Share out a module's parameters; its steps gather them. Once more does nothing."""
    if isinstance(module, FSDPModule):
        return
    # The strategy's own mesh has an axis for tensor parallelism; this is data parallelism only.
    everyone = init_device_mesh(module.device_mesh.device_type, (get_world_size(),))  # type: ignore[union-attr]
    fully_shard(module, mesh=everyone)
    for name in STEPS:
        register_fsdp_forward_method(module, name)


def whole_model(module: LightningModule) -> Any:
    """Return ``module.model`` or, where its parameters are shared out, a copy with all of them.

    Every process calls this.
    """
    if not isinstance(module, FSDPModule):
        return module.model
    module.reshard()  # a forward pass without a backward one leaves them gathered
    model: Any = copy.deepcopy(module.model)
    for part in model.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            if isinstance(parameter, DTensor):
                whole = parameter.full_tensor().clone()  # of uneven shares it is a view
                setattr(part, name, nn.Parameter(whole, parameter.requires_grad))
    return model
