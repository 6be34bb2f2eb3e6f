"""Stages that all successful episodes of one task share."""

import math
from collections.abc import Callable, Collection, Mapping

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from progress_labels.episode_labels import (
    MIN_LENGTH,
    LabelConfig,
    active_end,
    fixed_beta,
    label_episode,
)
from progress_labels.functional import (
    aligned_stages,
    common_rests,
    common_stage_count,
    patch_similarity,
)

_AXES = 32
_AXES_EPISODES = 16
_AXES_FRAMES = 512
_MIN_REST_LENGTH = 4

Stages = dict[int, Int[np.ndarray, " t"]]
"""Stage of each frame up to the end of an episode, by position of the episode."""


def task_stages(
    features: Callable[[int], Float[Tensor, "t p d"] | None],
    completions: Mapping[int, int],
    *,
    config: LabelConfig,
) -> Stages:
    """Cut all successful episodes of a task into one set of stages, of a number the data choose.

    Stages end where the scene rests (`common_rests`), seen along the principal directions of the
    features. Where the episodes share no rest, as when things are pushed in one sweep, each is cut
    by ``config.rule``; the most frequent number of stages counts, and the other episodes are cut
    where they come nearest to its subgoals (`aligned_stages`).

    Args:
        features: Reads the patch features of the episode at a position, None if it cannot be read;
            called up to three times for each.
        completions: Frame at which the task was first done, by position.
        config: Settings.

    Returns:
        Stages by position of those that can be read; all have the same number of stages, but for
        episodes of fewer frames.
    """
    mean, axes = _principal_axes(features, completions)
    if axes.numel() == 0:
        return {}
    paths: dict[int, NDArray[np.float64]] = {}
    own: Stages = {}
    times: dict[int, NDArray[np.float64]] = {}
    for position, completion in completions.items():
        patches = features(position)
        if patches is None:
            continue
        end = active_end(patches, config=config, completion=completion)
        stage = label_episode(patches, config=config, completion=completion).stage[: end + 1]
        own[position] = stage.astype(np.int64)
        path = ((patches[: end + 1].flatten(1) - mean) @ axes).double().cpu().numpy()
        # Twice as fine as for a trend: a rest is short. Between frames, because whole ones would
        # lie one or two apart here, and the shorter steps look like rests.
        times[position] = np.linspace(0, end, min(2 * config.max_frames, end + 1))
        axis_values = [np.interp(times[position], np.arange(end + 1), values) for values in path.T]
        paths[position] = np.stack(axis_values, axis=1)
    rests = common_rests(
        list(paths.values()),
        min_depth=config.min_rest,
        min_length=_min_rest_length(paths.values(), config),
        max_stages=config.max_stages,
    )
    if all(stage[-1] == 0 for stage in rests):
        return _like_most(features, own, config)
    # A frame has the stage of the first sample at or after it: a stage ends where it rests.
    return {
        position: stage[np.searchsorted(times[position], np.arange(len(own[position])))]
        for position, stage in zip(paths, rests, strict=True)
    }


def _min_rest_length(paths: Collection[NDArray[np.float64]], config: LabelConfig) -> int:
    """Return the least samples of a stage; where set, as long as sampling for a trend has it."""
    samples = max(len(path) for path in paths)
    finer = samples / min(samples, config.max_frames)
    length = _MIN_REST_LENGTH if config.min_length is None else config.min_length * finer
    return math.ceil(max(length, (config.min_fraction or 0.0) * samples))


def _principal_axes(
    features: Callable[[int], Tensor | None], completions: Mapping[int, int]
) -> tuple[Tensor, Tensor]:
    """Return mean and directions of the largest variance of frames spread over the episodes."""
    positions = list(completions)
    count = min(_AXES_EPISODES, len(positions))
    chosen = np.linspace(0, len(positions) - 1, count).round().astype(int)
    most = _AXES_FRAMES // count
    frames = []
    for number in chosen.tolist():
        patches = features(positions[number])
        if patches is not None:
            flat = patches[: completions[positions[number]] + 1].flatten(1)
            frames.append(flat[:: -(-len(flat) // most)])
    if not frames:
        return torch.zeros(0), torch.zeros(0)
    samples = torch.cat(frames)
    mean = samples.mean(dim=0)
    _, _, axes = torch.linalg.svd(samples - mean, full_matrices=False)
    return mean, axes[:_AXES].T


def _like_most(
    features: Callable[[int], Tensor | None], own: Stages, config: LabelConfig
) -> Stages:
    """Recut the episodes whose number of stages is not the most frequent one."""
    count = common_stage_count([int(stage[-1]) + 1 for stage in own.values()])
    typical = [position for position, stage in own.items() if stage[-1] + 1 == count]
    total: Tensor | None = None
    for position in typical:
        subgoals = _subgoals(features(position), own[position])
        total = subgoals if total is None else total + subgoals
    assert total is not None, "the most frequent number is that of an episode"
    result = dict(own)
    for position in own.keys() - set(typical):
        patches = features(position)
        assert patches is not None, "it could be read before"
        active = patches[: len(own[position])]
        beta = fixed_beta(config, active.shape[-1])
        scores = [
            patch_similarity(active, goal / len(typical), beta=beta).cpu().numpy() for goal in total
        ]
        result[position] = aligned_stages(
            np.stack(scores, axis=1), min_length=config.min_length or MIN_LENGTH
        )
    return result


def _subgoals(features: Tensor | None, stage: NDArray[np.int64]) -> Float[Tensor, "n p d"]:
    assert features is not None, "it could be read before"
    ends = np.append(np.flatnonzero(np.diff(stage)), len(stage) - 1)
    return features[torch.from_numpy(ends)]
