"""Policies that fine-tuning starts from."""

from itertools import islice
from typing import Any

import torch

from integration_tests.pipelines.demonstrations import demonstrations, policy_arguments
from integration_tests.pipelines.quickstart import ACTIONS, CAMERA, CHUNK
from integration_tests.study.lab import Lab
from vla_rl.algorithms.behaviour_cloning import clone
from vla_rl.algorithms.settings import CloneConfig
from vla_rl.data import make_chunks
from vla_rl.policies.token_policy import TokenPolicy

WEAK_DEMONSTRATIONS, WEAK_EPOCHS = 22, 40
"""What the weak policy was cloned from."""


def policy_of(lab: Lab, begin: str) -> TokenPolicy:
    """Return the policy of a seed: the ``clone``, or the ``weak`` one."""
    return lab.policy() if begin == "clone" else _weak_policy(lab)


def small_policy(lab: Lab, samples: dict[str, Any]) -> TokenPolicy:
    """Return an untrained policy for samples, with the weights of the seed."""
    torch.manual_seed(lab.seed)
    return TokenPolicy(**policy_arguments(samples, CAMERA), **ACTIONS)


def _weak_policy(lab: Lab) -> TokenPolicy:
    num = min(WEAK_DEMONSTRATIONS, lab.profile.base.num_cloned)
    chosen = islice(demonstrations(lab.base().dataset, CAMERA, success=True), num)
    samples = make_chunks(chosen, chunk=CHUNK)
    policy = small_policy(lab, samples)
    num_epochs = min(WEAK_EPOCHS, lab.profile.base.clone_epochs)
    config = CloneConfig(num_epochs=num_epochs, seed=lab.seed)
    with lab.alone("weak"):
        clone(policy, samples, config, out_dir=lab.out / f"weak-seed{lab.seed}")
    policy.eval()
    return policy
