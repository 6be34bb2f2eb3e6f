"""Demonstrations in memory: every frame of an episode with the chunk of actions that follows it."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vla_rl.observations import concat_rows, num_rows, require, to_tensor
from vla_rl.types import ImitationBatch, ProgressModel

_IMAGES = "observation.images."


def make_chunks(
    episodes: Iterable[Mapping[str, Any]], *, chunk: int, stride: int = 1
) -> dict[str, Any]:
    """Cut episodes into samples of one observation and the next ``chunk`` actions.

    Past the end of an episode the last action is repeated and marked as padding.

    Args:
        episodes: Mappings with ``observation.images.<camera>`` uint8 ``(t, h, w, 3)``,
            ``observation.state`` ``(t, p)``, ``action`` ``(t, a)`` and ``task`` (one instruction,
            or one per frame); perhaps ``progress`` ``(t,)``. Other keys are ignored.
        chunk: Primitive actions per sample.
        stride: Every how many frames a sample starts.

    Returns:
        An `ImitationBatch` of tensors, one row per sample, in the order of the episodes. Of
        episodes with progress also ``progress_gain`` ``(n,)``: how much it rose over the chunk, or
        up to the last frame of the episode.

    Raises:
        ValueError: If there are no episodes, a key is missing, or lengths within one disagree.
    """
    if chunk < 1 or stride < 1:
        raise ValueError(f"Expected positive `chunk` and `stride`, got {chunk} and {stride}.")
    return concat_rows([_chunks(episode, chunk, stride) for episode in episodes])


@torch.no_grad()
def label_progress(
    episodes: Iterable[Mapping[str, Any]], model: ProgressModel
) -> Iterator[dict[str, Any]]:
    """Yield episodes with the ``progress`` ``(t,)`` that a model sees in them.

    Args:
        episodes: See `make_chunks`; progress that they have is replaced.
        model: Is reset before each episode and asked about one frame after the other.

    Raises:
        ValueError: If a key is missing, lengths within an episode disagree, or the model answers
            anything but one finite number per frame.
    """
    for number, episode in enumerate(episodes):
        frames = {key: value for key, value in episode.items() if key.startswith("observation.")}
        task, length = require(episode, "task"), len(require(episode, "action"))
        frames["task"] = [task] * length if isinstance(task, str) else list(task)
        num_rows({"action": episode["action"], **frames})  # raises when lengths disagree
        model.reset()
        progress = torch.empty(length)
        for t in range(length):
            seen = to_tensor(model.progress({k: value[t : t + 1] for k, value in frames.items()}))
            if seen.shape != (1,) or not bool(seen.isfinite()):
                raise ValueError(
                    f"Expected finite progress (1,) of frame {t} of episode {number}, got {seen}."
                )
            progress[t] = seen.cpu()[0]
        yield {**episode, "progress": progress}


def state_statistics(samples: ImitationBatch) -> dict[str, list[float]]:
    """Return ``state_mean`` and ``state_std`` of samples, to be handed to a policy."""
    state = to_tensor(require(samples, "observation.state")).to(torch.float64)
    return {
        "state_mean": state.mean(0).tolist(),
        "state_std": state.std(0, correction=0).tolist(),
    }


def _chunks(episode: Mapping[str, Any], chunk: int, stride: int) -> dict[str, Any]:
    action = to_tensor(require(episode, "action")).to(torch.float32)
    length = len(action)
    start = torch.arange(0, length, stride)
    index = start[:, None] + torch.arange(chunk)
    task = require(episode, "task")
    tasks = [task] * length if isinstance(task, str) else list(task)
    frames: dict[str, Any] = {
        "observation.state": _frames(require(episode, "observation.state")).to(torch.float32)
    }
    frames |= {key: _frames(value) for key, value in episode.items() if key.startswith(_IMAGES)}
    if "progress" in episode:
        frames["progress"] = _frames(episode["progress"]).to(torch.float32)
    num_rows({"action": action, "task": tasks, **frames})  # raises when lengths disagree
    progress = frames.pop("progress", None)
    gain = {}
    if progress is not None:
        gain = {"progress_gain": progress[(start + chunk).clamp(max=length - 1)] - progress[start]}
    return {
        **{key: value[start] for key, value in frames.items()},
        **gain,
        "task": [tasks[i] for i in start.tolist()],
        "action": action[index.clamp(max=length - 1)],
        "action_is_pad": index >= length,
    }


def _frames(value: Any) -> Tensor:
    return to_tensor(np.asarray(value) if isinstance(value, list) else value)
