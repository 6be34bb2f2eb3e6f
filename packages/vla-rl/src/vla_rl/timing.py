"""How long the progress model of a rollout takes."""

import time
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from vla_rl.types import Observation, ProgressModel


class TimedProgress:
    """A progress model that adds up the seconds it takes."""

    def __init__(self, model: ProgressModel) -> None:
        self.model, self.seconds = model, 0.0

    def reset(self, env_mask: Any = None) -> None:
        """Hand on."""
        self.model.reset(env_mask)

    def progress(self, obs: Observation) -> Tensor:
        """Hand on, and add up the time."""
        started = time.perf_counter()
        progress = self.model.progress(obs)
        self.seconds += time.perf_counter() - started
        return progress


def timed(models: ProgressModel | Sequence[ProgressModel] | None) -> list[TimedProgress]:
    """Return the given models, timed."""
    if models is None:
        return []
    return [TimedProgress(m) for m in (models if isinstance(models, Sequence) else [models])]
