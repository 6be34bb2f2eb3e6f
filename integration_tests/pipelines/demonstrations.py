"""Recorded attempts as small policies are cloned from them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from progress_labels.dataset import EpisodeDataset
from vla_rl.data import state_statistics


def demonstrations(dataset: Path, camera: str, *, success: bool) -> Iterator[dict[str, Any]]:
    """Yield the successes or the failures of a recording under LeRobot's key names."""
    for episode in EpisodeDataset(dataset, camera=camera):
        if episode["success"] is success:
            yield {
                f"observation.images.{camera}": episode["frames"],
                "observation.state": episode["state"],
                "action": episode["action"],
                "task": episode["task"],
            }


def policy_arguments(samples: dict[str, Any], camera: str) -> dict[str, Any]:
    """Return what the samples say of a small policy: its camera, sizes and the state's scale."""
    return {
        "cameras": [camera],
        "state_dim": samples["observation.state"].shape[-1],
        "action_dim": samples["action"].shape[-1],
        "chunk": samples["action"].shape[-2],
        **state_statistics(samples),
    }
