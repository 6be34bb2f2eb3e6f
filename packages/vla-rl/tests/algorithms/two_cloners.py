"""Clone samples in a file; started by test_two_processes.py, alone or as two."""

import sys
from typing import Any

import torch
from lightning.fabric import Fabric

from vla_rl.algorithms.behaviour_cloning import BehaviourCloning
from vla_rl.algorithms.rabc import RABC
from vla_rl.algorithms.settings import CloneConfig, RABCConfig
from vla_rl.testing import make_policy


def main(samples_path: str, weights_path: str, devices: int, algorithm: str) -> None:
    """Make a few epochs; the samples of each batch are shared out."""
    strategy: Any = "auto" if devices == 1 else "ddp_find_unused_parameters_true"
    fabric = Fabric(accelerator="cpu", devices=devices, strategy=strategy)
    fabric.launch()
    samples = torch.load(samples_path)
    policy = make_policy(shift_pixels=0)
    settings: dict[str, Any] = {"num_epochs": 2, "batch_size": 9}
    common: dict[str, Any] = {"fabric": fabric, "progress_bar": False}
    out_dir = f"{weights_path}.run"
    run: BehaviourCloning
    if algorithm == "rabc":
        run = RABC(policy, samples, RABCConfig(**settings), out_dir=out_dir, **common)
    else:
        run = BehaviourCloning(policy, samples, CloneConfig(**settings), out_dir=out_dir, **common)
    # Plain descent: Adam would turn rounding in tiny gradients into steps of full size.
    run.optimizer = fabric.setup_optimizers(torch.optim.SGD(policy.parameters(), lr=0.1))
    history = run.fit()
    if fabric.is_global_zero:
        torch.save({"weights": policy.state_dict(), "loss": history[-1]["loss"]}, weights_path)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
