"""Feat2Go progress labels of one episode: similarity curve → stages → hierarchical progress."""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Integer
from numpy.typing import NDArray
from torch import Tensor

from progress_labels.functional import (
    active_length,
    calibrated_beta,
    denoised_curve,
    hierarchical_progress,
    mean_around,
    patch_similarity,
    reanchored_stages,
    subgoal_similarity,
    trend_stages,
)
from progress_labels.functional.change_points import change_point_stages
from progress_labels.types import EpisodeLabels

GOAL_RADIUS = 2
"""Frames before and after a subgoal over which it is averaged, if denoised."""
MIN_LENGTH = 6
"""Least sampled frames of a stage, unless set or a rest ends it."""
_MIN_FRACTION = 0.05
_RULES = ("collapsed", "literal", "reanchored", "change_points")


@dataclass(frozen=True, kw_only=True)
class LabelConfig:
    """Settings of the Feat2Go labels."""

    window: int = 5
    """Sampled frames per slope window."""
    alpha: float = 0.7
    """A stage starts where the slope exceeds alpha times the mean slope."""
    min_length: int | None = None
    """Least sampled frames of a stage, ≥ 1; 6 when None. Common stages that end in rests are
    sampled up to twice as finely, and have at least 4 of those samples when None."""
    min_fraction: float | None = None
    """Least share of the episode of a stage, in [0, 1]; when None 0.05, and 0 for common stages
    that end in rests."""
    max_stages: int = 8
    """Most stages of an episode."""
    max_frames: int = 64
    """Longer episodes are sampled down to this many frames, evenly, to find stages, so that a
    window spans the same share of a movement at any frame rate."""
    beta: float | Literal["calibrated"] | None = None
    """Sensitivity to feature distance, ≥ 0; 1/D when None. ``"calibrated"`` sets it per episode
    (`calibrated_beta`): for features of another scale than about 1. It suits moving cameras; where
    most patches show a static background, their noise sets the scale and stages get lost."""
    denoise: bool = True
    """Average subgoals over five frames and smooth the similarities (`mean_around`,
    `denoised_curve`). False is the paper's equations to the letter: progress then jumps at the last
    frame of a stage, which alone equals its subgoal."""
    contrast: bool = False
    """Measure progress within a stage by the similarity to its subgoal less that to its start: how
    far the scene is on the way from one to the other. Orders frames better than Eq. 3, which says
    little where most of a stage looks equally unlike its subgoal."""

    rule: Literal["collapsed", "literal", "reanchored", "change_points"] = "collapsed"
    """How stages are found: each rise of the curve starts one; every flagged frame does (Eq. 2 at
    its word); as the first, with the goal moved back to each subgoal (`reanchored_stages`); or by
    `change_point_stages` (extra ``ruptures``)."""
    trim_idle: bool = False
    """Take the frames at the end in which nothing moves for an idle tail (`active_length`). For
    recordings that do not say when the task was done."""
    failures: Literal["unknown", "reference"] = "unknown"
    """Failed episodes stay unknown (NaN), or are measured against successful ones of their task
    (`progress_labels.references.label_failure`; the first eight of the dataset)."""
    common_stages: bool = False
    """Give all successful episodes of a task the same stages, of a number that the data choose:
    they end where the scene rests (`common_rests`), or by ``rule`` where it never does. Encodes
    episodes two to four times unless features are cached."""
    min_rest: float = 0.2
    """Least depth of the rests of common stages, > 0; 0.2 is 18 % slower than before and after."""

    def __post_init__(self) -> None:
        if self.window < 2:
            raise ValueError(f"Expected `window` ≥ 2, got {self.window}.")
        if self.max_frames < 2:
            raise ValueError(f"Expected `max_frames` ≥ 2, got {self.max_frames}.")
        if not (self.alpha > 0.0 and self.min_rest > 0.0):
            raise ValueError(
                f"Expected `alpha` > 0 and `min_rest` > 0, got {self.alpha} and {self.min_rest}."
            )
        shortest = 1 if self.min_length is None else self.min_length
        share = 0.0 if self.min_fraction is None else self.min_fraction
        if shortest < 1 or self.max_stages < 1 or not 0.0 <= share <= 1.0:
            raise ValueError(
                "Expected `min_length` ≥ 1, `max_stages` ≥ 1 and `min_fraction` in [0, 1], got "
                f"{self.min_length}, {self.max_stages} and {self.min_fraction}."
            )
        if isinstance(self.beta, str) and self.beta != "calibrated":
            raise ValueError(f"Expected `beta` ≥ 0, None or 'calibrated', got {self.beta!r}.")
        if self.rule not in _RULES:
            raise ValueError(f"Expected `rule` in {_RULES}, got {self.rule!r}.")
        if self.failures not in ("unknown", "reference"):
            raise ValueError(
                f"Expected `failures` 'unknown' or 'reference', got {self.failures!r}."
            )

    @property
    def hash(self) -> str:
        """Twelve hex digits that change with any setting."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]


def fixed_beta(config: LabelConfig, dim: int) -> float:
    """Return β where there is no episode to calibrate it on: 1 / D unless it is a number."""
    if config.beta is None or isinstance(config.beta, str):
        return 1.0 / dim
    return float(config.beta)


def label_episode(
    features: Float[Tensor, "t p d"],
    *,
    config: LabelConfig | None = None,
    completion: int | None = None,
    stage: Integer[np.ndarray, " t"] | None = None,
) -> EpisodeLabels:
    """Label one successful episode: similarity curve → stages → hierarchical progress.

    Args:
        features: Patch features of each frame.
        config: Settings; defaults when None.
        completion: Frame at which the task was first done; the last one when None. Later frames
            are an idle tail: progress 1, last stage.
        stage: Stage of each frame up to completion, if known; found by ``config`` when None.

    Returns:
        Labels of all t frames; progress at ``completion`` is 1.

    Raises:
        ValueError: If ``completion`` is outside the episode, features are not finite, or ``stage``
            does not fit.

    Source: Feat2Go, arXiv 2605.30795, Eq. 1-3.
    """
    config = config or LabelConfig()
    num_frames = len(features)
    end = _checked_end(features, completion)
    if stage is None:
        end = active_end(features, config=config, completion=end)
    radius = GOAL_RADIUS if config.denoise else 0
    similarity, beta = _goal_similarity(features, end, config)
    active, curve = features[: end + 1], similarity[: end + 1]
    if stage is None:
        smooth = denoised_curve(curve) if config.denoise else curve
        stage = _sampled_stages(active, smooth, beta, config)
    if len(stage) != end + 1:
        raise ValueError(f"Expected {end + 1} entries in `stage`, got {len(stage)}.")
    to_subgoal = (
        subgoal_similarity(
            active, torch.from_numpy(stage), beta=beta, radius=radius, contrast=config.contrast
        )
        .cpu()
        .numpy()
    )
    if config.denoise:
        parts = np.split(to_subgoal, 1 + np.flatnonzero(np.diff(stage)))
        to_subgoal = np.concatenate([denoised_curve(part) for part in parts])
    progress = np.ones(num_frames, dtype=np.float32)
    progress[: end + 1] = hierarchical_progress(stage, to_subgoal)
    num_stages = int(stage[-1]) + 1
    full_stage = np.full(num_frames, num_stages - 1, dtype=np.int32)
    full_stage[: end + 1] = stage
    return EpisodeLabels(progress, full_stage, num_stages, similarity.astype(np.float32))


def active_end(
    features: Float[Tensor, "t p d"], *, config: LabelConfig, completion: int | None = None
) -> int:
    """Return the frame at which an episode is over: ``completion``, or earlier by ``trim_idle``.

    Raises:
        ValueError: If ``completion`` is outside the episode or features are not finite.
    """
    end = _checked_end(features, completion)
    if not config.trim_idle:
        return end
    similarity, _ = _goal_similarity(features, end, config)
    return active_length(denoised_curve(similarity[: end + 1])) - 1


def unknown_labels(num_frames: int) -> EpisodeLabels:
    """Return the labels of a failed episode: progress NaN, stage −1, no stages."""
    nan = np.full(num_frames, np.nan, dtype=np.float32)
    return EpisodeLabels(nan, np.full(num_frames, -1, dtype=np.int32), 0, nan.copy())


def _checked_end(features: Tensor, completion: int | None) -> int:
    end = len(features) - 1 if completion is None else completion
    if not 0 <= end < len(features):
        raise ValueError(f"Expected `completion` in 0 … {len(features) - 1}, got {completion}.")
    if not bool(features.isfinite().all()):
        raise ValueError("Expected finite `features`; they hold NaN or infinity.")
    return end


def _goal_similarity(
    features: Tensor, end: int, config: LabelConfig
) -> tuple[NDArray[np.float32], float]:
    active = features[: end + 1]
    beta = _beta(active, config)
    goal = mean_around(active, end, radius=GOAL_RADIUS if config.denoise else 0)
    return patch_similarity(features, goal, beta=beta).cpu().numpy(), beta


def _beta(active: Tensor, config: LabelConfig) -> float:
    if isinstance(config.beta, str):
        return calibrated_beta(active, active[-1])
    return 1.0 / active.shape[-1] if config.beta is None else config.beta


def _sampled_stages(
    active: Tensor, curve: Float[np.ndarray, " t"], beta: float, config: LabelConfig
) -> NDArray[np.int64]:
    """Find stages on frames spread evenly, and give each frame the stage of the nearest one."""
    last = len(curve) - 1
    chosen = np.unique(np.linspace(0, last, min(config.max_frames, last + 1)).round().astype(int))
    thinned = curve[chosen]
    shortest = config.min_length or MIN_LENGTH
    rule: Any = {
        "window": config.window,
        "min_length": shortest,
        "max_stages": config.max_stages,
    }
    share = _MIN_FRACTION if config.min_fraction is None else config.min_fraction
    shares: Any = {"alpha": config.alpha, "min_fraction": share}
    if config.rule == "reanchored":
        radius = 1 if config.denoise else 0
        frames = active[torch.from_numpy(chosen)]
        sampled = reanchored_stages(frames, beta=beta, radius=radius, **rule, **shares).numpy()
    elif config.rule == "change_points":
        sampled = change_point_stages(thinned, min_length=shortest, max_stages=config.max_stages)
    else:
        sampled = trend_stages(thinned, rule=config.rule, **rule, **shares)
    halfway = 0.5 * (chosen[1:] + chosen[:-1])
    stage: NDArray[np.int64] = sampled[np.searchsorted(halfway, np.arange(len(curve)))]
    return stage
