"""Failed episodes, labelled by what their frames look like in successful ones of the same task."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from progress_labels.episode_labels import GOAL_RADIUS, LabelConfig, active_end, fixed_beta
from progress_labels.functional import (
    mean_around,
    nearest_goal,
    patch_similarity,
    pooled_progress,
)
from progress_labels.types import EpisodeLabels


class Reference(NamedTuple):
    """A labelled successful episode, thinned out, that failures are measured against."""

    features: Float[Tensor, "r p d"]
    progress: Float[np.ndarray, " r"]
    goal: Float[Tensor, "p d"]


def make_reference(
    features: Float[Tensor, "t p d"],
    labels: EpisodeLabels,
    *,
    config: LabelConfig | None = None,
    completion: int | None = None,
) -> Reference:
    """Keep at most ``config.max_frames`` frames of a successful episode as a reference.

    Args:
        features: Patch features of each frame.
        labels: Its labels.
        config: Settings; defaults when None.
        completion: As in `label_episode`; later frames are left out.
    """
    config = config or LabelConfig()
    last = active_end(features, config=config, completion=completion)
    chosen = np.unique(np.linspace(0, last, min(config.max_frames, last + 1)).round().astype(int))
    goal = mean_around(features[: last + 1], last, radius=GOAL_RADIUS if config.denoise else 0)
    return Reference(features[torch.from_numpy(chosen)].clone(), labels.progress[chosen], goal)


def label_failure(
    features: Float[Tensor, "t p d"],
    references: Sequence[Reference],
    *,
    config: LabelConfig | None = None,
) -> EpisodeLabels:
    """Label a failed episode by what its frames look like in successful ones of its task.

    Each frame gets the progress of the frames that it resembles most, one of each reference, the
    more alike the more (`pooled_progress`; median over three frames, if ``config.denoise``).
    Progress may fall, and does not end at 1 unless the scene ends as in a success.

    Args:
        features: Patch features of each frame.
        references: Successful episodes of the same task.
        config: Settings; defaults when None. ``beta`` is that of 1/D if it is ``"calibrated"``.

    Returns:
        Progress and similarity to the goal that the episode comes nearest to; stage −1 and no
        stages, because subgoals that were not reached cannot be cut.

    Raises:
        ValueError: If there is no reference or features are not finite.
    """
    config = config or LabelConfig()
    if not bool(features.isfinite().all()):
        raise ValueError("Expected finite `features`; they hold NaN or infinity.")
    beta = fixed_beta(config, features.shape[-1])
    goal = references[nearest_goal(features, [ref.goal for ref in references], beta=beta)].goal
    pairs = [(reference.features, reference.progress) for reference in references]
    progress = pooled_progress(features, pairs, beta=beta)
    if config.denoise and len(progress) > 2:
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(progress, 1, mode="edge"), 3)
        progress = np.median(windows, axis=-1).astype(np.float32)
    similarity = patch_similarity(features, goal, beta=beta).cpu().numpy()
    unknown = np.full(len(features), -1, dtype=np.int32)
    return EpisodeLabels(progress, unknown, 0, similarity.astype(np.float32))
