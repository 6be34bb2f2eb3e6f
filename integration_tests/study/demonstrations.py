"""Recorded attempts as policies are cloned from them."""

from collections.abc import Iterable
from itertools import islice
from typing import Any

import torch

from integration_tests.pipelines.quickstart import CAMERA, CHUNK
from integration_tests.study.lab import Lab
from progress_labels.dataset import EpisodeDataset
from vla_rl.data import state_statistics


def demonstrations(lab: Lab, *, success: bool) -> Iterable[dict[str, Any]]:
    """Yield the successes or the failures of the seed's recording under LeRobot's key names."""
    for episode in EpisodeDataset(lab.base().dataset, camera=CAMERA):
        if episode["success"] is success:
            yield {
                f"observation.images.{CAMERA}": episode["frames"],
                "observation.state": episode["state"],
                "action": episode["action"],
                "task": episode["task"],
            }


def mixture(lab: Lab, num: int, degraded: float) -> Iterable[dict[str, Any]]:
    """Yield ``num`` attempts of which a share failed."""
    failures = round(num * degraded)
    yield from islice(demonstrations(lab, success=True), num - failures)
    yield from islice(demonstrations(lab, success=False), failures)


def policy_arguments(lab: Lab, samples: dict[str, Any]) -> dict[str, Any]:
    """Return what a small policy for PickCube is built with, and seed its weights."""
    statistics = state_statistics(samples)
    torch.manual_seed(lab.seed)
    return {
        "cameras": [CAMERA],
        "state_dim": samples["observation.state"].shape[-1],
        "action_dim": samples["action"].shape[-1],
        "chunk": CHUNK,
        "action_low": [-0.4, -0.4, -0.4, -1.0],
        "action_high": [0.4, 0.4, 0.4, 1.0],
        **statistics,
    }
