"""One update of PPO on a batch in a file; started by test_two_processes.py, alone or as two."""

import copy
import sys
from functools import partial
from typing import Any

import torch
from lightning.fabric import Fabric

from vla_rl.algorithms.clipped_update import REPLAY, ClippedUpdate, Scorer
from vla_rl.algorithms.reference import KLPenalty
from vla_rl.algorithms.settings import PPOConfig
from vla_rl.sharding import fully_sharded, whole_state, whole_weights
from vla_rl.testing import make_policy


def main(
    batch_path: str,
    weights_path: str,
    devices: int,
    first_share: int,
    strategy: Any = "auto",
    micro_batch_size: int | None = None,
) -> None:
    """Share the batch out unevenly, make the steps, write the weights."""
    if strategy == "fsdp2":
        strategy = fully_sharded()
    fabric = Fabric(accelerator="cpu", devices=devices, strategy=strategy)
    fabric.launch()
    policy = make_policy()
    scorer = fabric.setup_module(Scorer(policy))
    critic = list(policy.value_head.parameters())
    actor = [p for name, p in policy.named_parameters() if not name.startswith("value_head")]
    # Plain descent: Adam would turn rounding in tiny gradients into steps of full size.
    optimizers = [torch.optim.SGD(actor, lr=0.5), torch.optim.SGD(critic, lr=0.5)]
    optimizers = fabric.setup_optimizers(*optimizers)
    config = PPOConfig(
        num_epochs=3,
        minibatch_size=10_000,
        micro_batch_size=micro_batch_size,
        value_warmup_updates=0,
        kl_stop=None,
        entropy_coefficient=0.01,
        max_grad_norm=0.5,
    )
    batch = torch.load(batch_path)
    if devices > 1:
        rows = slice(first_share) if fabric.global_rank == 0 else slice(first_share, None)
        batch = {key: value[rows] for key, value in batch.items()}
    start = KLPenalty(
        policy, coefficient=0.1, target=None, whole_weights=partial(whole_weights, scorer)
    )
    ClippedUpdate(fabric, scorer, config, *optimizers)(batch, update=0, kl_coefficient=0.1)
    if len(batch["mask"]):
        check_start(start, batch)
    weights = whole_state(policy)
    if fabric.is_global_zero:
        torch.save(weights, weights_path)


def check_start(start: KLPenalty, batch: dict[str, torch.Tensor]) -> None:
    """Check that the policy a run starts from is kept, under any strategy and through a file."""
    replay = {
        key.removeprefix(REPLAY): value for key, value in batch.items() if key.startswith(REPLAY)
    }
    for _ in range(2):
        log_prob = start.log_prob(replay, batch_size=16)
        torch.testing.assert_close(log_prob, batch["log_prob"], atol=1e-5, rtol=0.0)
        state = copy.deepcopy(whole_state(start))
        for kept in start.state_dict()["start"].values():
            kept.zero_()
        start.load_state_dict(state)


if __name__ == "__main__":
    micro_batch_size = int(sys.argv[6]) if sys.argv[6] != "None" else None
    main(*sys.argv[1:3], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5], micro_batch_size)
