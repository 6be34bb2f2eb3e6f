"""Refusing a checkpoint that does not belong to the module it is loaded into."""

from collections.abc import Mapping
from typing import Any

from lightning import LightningModule


def refuse_other_checkpoint(module: LightningModule, checkpoint: Mapping[str, Any]) -> None:
    """Check a Lightning checkpoint before its weights are loaded.

    Features of another encoder may have the same shape, and then nothing else would notice.

    Args:
        module: That loads it; its hyperparameters have ``encoder_id``.
        checkpoint: What Lightning hands to ``on_load_checkpoint``.

    Raises:
        ValueError: If it was trained on another encoder, or its weights have other names or shapes.
    """
    found = checkpoint.get("hyper_parameters", {}).get("encoder_id")
    wanted = module.hparams["encoder_id"]
    if found is not None and found != wanted:
        raise ValueError(
            f"The checkpoint was trained on features of encoder {found!r}, the data are of "
            f"{wanted!r}; use the former's encoder or train again."
        )
    if "state_dict" not in checkpoint:  # a strategy has loaded the weights itself, and compared
        return
    ours = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    theirs = {name: tuple(value.shape) for name, value in checkpoint["state_dict"].items()}
    different = sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name))
    if different:
        name = different[0]
        raise ValueError(
            f"The checkpoint is of another architecture than {type(module).__name__} as "
            f"configured: {len(different)} weights differ, such as {name!r}, which is "
            f"{theirs.get(name, 'absent')} there and {ours.get(name, 'absent')} here. Use the "
            "configuration that it was trained with."
        )
