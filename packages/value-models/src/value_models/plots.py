"""Figures of predicted progress; needs the extra ``[viz]``."""

import math
from collections.abc import Sequence

from matplotlib.figure import Figure

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
