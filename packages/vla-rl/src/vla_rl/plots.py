"""Figures of training runs."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

PANELS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("success", ("success_once", "success_at_end")),
    ("reward per episode", ("reward_total", "reward_sparse", "reward_shaping")),
    ("share clipped", ("clip_fraction_token", "clip_fraction_action", "clip_fraction_chunk")),
    ("step", ("approx_kl", "kl_reference", "mean_abs_log_ratio", "mean_abs_residual")),
    ("entropy (nats)", ("entropy",)),
    ("critic", ("explained_variance", "q", "td_target")),
    ("loss", ("loss", "policy_loss", "value_loss", "critic_loss")),
    ("seconds", ("seconds_rollout", "seconds_reward", "seconds_update")),
)
"""Title and metrics of each panel; metrics that a run does not have are left out."""


def plot_history(history: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the metrics of a run over its updates, rounds or epochs.

    Args:
        history: A row per update, as in ``metrics.csv``; at least one.

    Raises:
        ValueError: If there is no row.
    """
    if not history:
        raise ValueError("Expected at least one row of metrics to plot, got none.")
    unit, steps = next(iter(history[0])), range(1, len(history) + 1)
    panels = [
        (title, [name for name in names if name in history[0]])
        for title, names in PANELS
        if any(name in history[0] for name in names)
    ]
    columns = min(3, max(1, len(panels)))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.0 * columns, 2.6 * max(1, rows)), layout="constrained")
    axes = figure.subplots(max(1, rows), columns, squeeze=False).flat
    for axis, (title, names) in zip(axes, panels, strict=False):
        for name in names:
            values = [row.get(name) for row in history]
            axis.plot(steps, values, marker="." if len(history) < 20 else None, label=name)
        axis.set_title(title, fontsize="small")
        axis.set_xlabel(unit, fontsize="small")
        axis.legend(fontsize="x-small", loc="upper left")  # "best" takes seconds at times
        axis.grid(alpha=0.3)
    for axis in list(figure.axes)[len(panels) :]:
        axis.set_axis_off()
    return figure


def save_history(history: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write `plot_history` as PNG, replacing the file in one step."""
    partial = path.with_name(f".{path.name}.partial")
    plot_history(history).savefig(partial, format="png", dpi=110)
    os.replace(partial, path)
