"""Figures of predictions and of what is behind them; needs the extra ``[viz]``."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure
from torch import Tensor

from value_models.evaluation import EpisodePrediction


def plot_curves(episodes: Sequence[EpisodePrediction], *, columns: int = 4) -> Figure:
    """Draw predicted progress and label of each episode over its frames.

    Args:
        episodes: Such as ``evaluation.predictions[:8]``; at least one.
        columns: Panels per row.

    Raises:
        ValueError: If there is no episode.
    """
    if not episodes:
        raise ValueError("Expected at least one episode to plot, got none.")
    columns = min(columns, len(episodes))
    rows = math.ceil(len(episodes) / columns)
    figure = Figure(figsize=(2.6 * columns, 2.0 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).flat
    for panel, episode in zip(panels, episodes, strict=False):
        panel.plot(episode.label, color="0.6", label="label")
        panel.plot(episode.progress, color="tab:blue", label="predicted")
        outcome = "success" if episode.success else "failure"
        panel.set_title(f"episode {episode.episode_index}, {outcome}", fontsize="small")
        panel.set_ylim(-0.05, 1.05)
    for panel in list(figure.axes)[len(episodes) :]:
        panel.set_axis_off()
    figure.axes[0].legend(fontsize="small")
    figure.supxlabel("frame", fontsize="small")
    figure.supylabel("progress", fontsize="small")
    return figure


def plot_film_strip(
    episode: EpisodePrediction, frames: UInt8[Tensor, "t h w 3"], *, num_frames: int = 8
) -> Figure:
    """Draw predicted progress and label over frames of the episode, each at its time.

    Args:
        episode: Prediction.
        frames: All frames of the episode, RGB.
        num_frames: Most frames to show; spread evenly from the first to the last.

    Raises:
        ValueError: If there is not one frame per prediction.
    """
    if len(frames) != len(episode.progress):
        raise ValueError(f"Expected {len(episode.progress)} `frames`, got {len(frames)}.")
    num_frames = min(num_frames, len(frames))
    figure = Figure(figsize=(1.1 * num_frames + 0.8, 3.0), layout="constrained")
    grid = figure.add_gridspec(2, num_frames, height_ratios=[3, 2])
    curve = figure.add_subplot(grid[0, :])
    curve.plot(episode.label, color="0.6", label="label")
    curve.plot(episode.progress, color="tab:blue", label="predicted")
    shown = np.linspace(0, len(frames) - 1, num_frames).round().astype(int)
    curve.plot(shown, episode.progress[shown], "o", color="tab:blue", markersize=3)
    outcome = "success" if episode.success else "failure"
    curve.set_title(f"episode {episode.episode_index}, {outcome}: {episode.task}", fontsize="small")
    curve.set_ylim(-0.05, 1.05)
    curve.set_ylabel("progress", fontsize="small")
    curve.set_xlabel("frame", fontsize="small")
    curve.legend(fontsize="x-small", loc="upper left")
    for place, index in enumerate(shown):
        panel = figure.add_subplot(grid[1, place])
        panel.imshow(np.asarray(frames[int(index)]))
        panel.set_title(str(index), fontsize="x-small")
        panel.set_axis_off()
    return figure


def plot_expert_use(load: Float[Tensor, "groups experts"], groups: Sequence[str]) -> Figure:
    """Draw how each group (of primitives) divides its frames among the experts.

    Args:
        load: As `metrics.ExpertUse.load` gives it; each row is scaled to sum to 1.
        groups: Name of each row.

    Raises:
        ValueError: If there is not one name per row.
    """
    if len(groups) != len(load):
        raise ValueError(f"Expected {len(load)} names in `groups`, got {len(groups)}.")
    shares = load / load.sum(1, keepdim=True).clamp(min=1e-12)
    figure = Figure(
        figsize=(2.0 + 0.4 * load.shape[1], 1.8 + 0.3 * len(load)), layout="constrained"
    )
    panel = figure.subplots()
    image = panel.imshow(shares.cpu().numpy(), vmin=0.0, vmax=1.0, cmap="Blues", aspect="auto")
    panel.set_yticks(range(len(groups)), groups, fontsize="small")
    panel.set_xlabel("expert", fontsize="small")
    figure.colorbar(image, label="share of frames")
    return figure


def plot_reliability(
    levels: Float[Tensor, " levels"], observed: Float[Tensor, " levels"]
) -> Figure:
    """Draw the share of labels below each predicted quantile; the diagonal is calibrated.

    Args:
        levels: As `metrics.BinCalibration.levels` gives them.
        observed: As `metrics.BinCalibration.observed` gives it.
    """
    figure = Figure(figsize=(3.0, 3.0), layout="constrained")
    panel = figure.subplots()
    panel.plot([0, 1], [0, 1], color="0.6", label="calibrated")
    panel.plot(levels.cpu(), observed.cpu(), marker="o", color="tab:blue", label="model")
    panel.set_xlabel("predicted quantile", fontsize="small")
    panel.set_ylabel("share of labels below", fontsize="small")
    panel.legend(fontsize="small")
    return figure
