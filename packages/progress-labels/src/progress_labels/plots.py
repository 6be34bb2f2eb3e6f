"""Figures of labels; needs the extra ``viz`` (matplotlib)."""

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from progress_labels.types import EpisodeLabels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BANDS = ("#dce9f5", "#fdebd3")
_PROGRESS, _SIMILARITY, _INK = "#1f5fa8", "#d9772b", "#333333"


def plot_episode(
    frames: UInt8[Tensor, "t h w 3"], labels: EpisodeLabels, *, title: str = ""
) -> "Figure":
    """Draw progress, similarity and stages of one episode above its subgoal frames.

    Args:
        frames: RGB frames of the episode.
        labels: Its labels.
        title: Heading, for example the instruction.

    Returns:
        A matplotlib figure; ``figure.savefig(path)`` writes it.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If lengths differ or the labels are unknown (a failed episode).
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("Figures need matplotlib: pip install 'progress-labels[viz]'.") from error
    if len(frames) != len(labels.progress):
        raise ValueError(f"Got {len(frames)} frames and {len(labels.progress)} labels.")
    if labels.num_stages == 0:
        raise ValueError("This episode has no labels (it failed); choose a successful one.")
    edges = [0, *(1 + np.flatnonzero(np.diff(labels.stage))), len(frames)]
    subgoals = [int(end) - 1 for end in edges[1:]]
    figure = Figure(figsize=(9.0, 5.0), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=_INK)
    parts: Any = figure.subfigures(2, 1, height_ratios=[2.1, 1.0])
    upper, lower = parts
    _draw_curves(upper.subplots(), labels, edges, subgoals)
    keys = [0, *subgoals]
    axes = lower.subplots(1, len(keys), squeeze=False)[0]
    for number, (axis, frame) in enumerate(zip(axes, keys, strict=True)):
        axis.imshow(frames[frame].numpy(), interpolation="nearest")
        name = "start" if number == 0 else f"subgoal {number}"
        axis.set_title(f"{name}\nframe {frame}", fontsize=8, color=_INK)
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_color(_INK if number == 0 else _PROGRESS)
    return figure


def plot_strip(
    frames: UInt8[Tensor, "t h w 3"], labels: EpisodeLabels, *, num_frames: int = 8
) -> "Figure":
    """Draw an episode as a film strip above its curves, labelled as a success or a failure.

    Args:
        frames: RGB frames of the episode.
        labels: Its labels; curves that are unknown (NaN) are left out.
        num_frames: Most frames in the strip, at equal steps of time, ≥ 1.

    Returns:
        A matplotlib figure.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If lengths differ.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("Figures need matplotlib: pip install 'progress-labels[viz]'.") from error
    if len(frames) != len(labels.progress):
        raise ValueError(f"Got {len(frames)} frames and {len(labels.progress)} labels.")
    figure = Figure(figsize=(12.0, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    parts: Any = figure.subfigures(2, 1, height_ratios=[1.0, 1.8])
    shown = np.unique(np.linspace(0, len(frames) - 1, num_frames).round().astype(int))
    for axis, frame in zip(parts[0].subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        axis.imshow(frames[int(frame)].numpy(), interpolation="nearest")
        axis.set_title(str(frame), fontsize=8, color=_INK)
        axis.set_axis_off()
    edges = [0, *(1 + np.flatnonzero(np.diff(labels.stage))).tolist(), len(frames)]
    axis = parts[1].subplots()
    if np.isfinite(labels.progress).all():
        subgoals = [end - 1 for end in edges[1:]] if labels.num_stages else []
        _draw_curves(axis, labels, edges, subgoals)
    else:
        axis.text(0.5, 0.5, "progress is not known", ha="center", color=_INK)
        axis.set_axis_off()
    return figure


def _draw_curves(axis: Any, labels: EpisodeLabels, edges: list[int], subgoals: list[int]) -> None:
    for number, (start, end) in enumerate(pairwise(edges)):
        axis.axvspan(start - 0.5, end - 0.5, color=_BANDS[number % 2], lw=0, zorder=0)
        middle = 0.5 * (start + end - 1)
        if labels.num_stages:
            axis.text(middle, 1.07, f"stage {number + 1}", ha="center", fontsize=8, color=_INK)
    axis.plot(labels.similarity, color=_SIMILARITY, lw=1.6, label="similarity to the goal")
    axis.plot(labels.progress, color=_PROGRESS, lw=2.2, label="progress")
    axis.plot(subgoals, labels.progress[subgoals], "o", color=_PROGRESS, ms=5, mec="white")
    low = min(0.0, float(labels.similarity.min()))
    axis.set(xlabel="frame", xlim=(-0.5, edges[-1] - 0.5), ylim=(low - 0.03, 1.16))
    axis.set_yticks(np.linspace(0.0, 1.0, 5))
    axis.grid(axis="y", color="white", lw=0.8)
    axis.spines[["top", "right"]].set_visible(False)
    place = {"loc": "lower right", "bbox_to_anchor": (1.0, 1.0)}  # above, where no curve runs
    axis.legend(**place, ncol=2, fontsize=8, frameon=False, borderaxespad=0.0)
