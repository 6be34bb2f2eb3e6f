"""Figures of the claims; each takes plain results and returns a matplotlib figure."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from integration_tests.pipelines.report import smooth
from integration_tests.study.design import Result
from integration_tests.study.lab import curve_of
from integration_tests.study.statistics import band_of_mean, interval_of_mean

COLOURS = (
    "#2b6cb0",
    "#d08a2c",
    "#3a8f5c",
    "#a34a6b",
    "#6b5fb0",
    "#5b6875",
    "#b8433a",
    "#2a9aa0",
)


def learning_curves(
    groups: Mapping[str, Mapping[int, Result]],
    *,
    held_out: Mapping[str, Sequence[Mapping[int, float]]] | None = None,
    label: str = "",
) -> Any:
    """Plot success of training episodes: mean over seeds in its bootstrap interval.

    Args:
        groups: Results by arm and seed.
        held_out: By arm, a score by number of updates for every seed, drawn beside.
        label: Of this score.
    """
    num = 1 if held_out is None else 2
    figure, axes = plt.subplots(1, num, figsize=(8 if num == 1 else 12, 4.2), squeeze=False)
    for colour, (name, group) in zip(cycle(COLOURS), groups.items(), strict=False):
        if not group:
            continue
        steps = np.mean([_steps(result["curve"]) for result in group.values()], axis=0)
        success = [smooth(curve_of(result["curve"])) for result in group.values()]
        _band(axes[0, 0], steps, success, colour, f"{name} (n = {len(group)})")
        paths = (held_out or {}).get(name, [])
        shared = sorted(set.intersection(*map(set, paths))) if paths else []
        if shared:
            scores = [[path[at] for at in shared] for path in paths]
            at = np.concatenate([[0.0], steps])[shared]
            _band(axes[0, 1], at, scores, colour, f"{name} (n = {len(paths)})", marker="o")
    texts = ["success of training episodes", f"{label}, held out"]
    for axis, text in zip(axes[0], texts, strict=False):
        axis.set(xlabel="environment steps", ylabel=text, ylim=(0, 1))
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend(loc="upper left", fontsize=9)
    return figure


def _band(
    axis: Any, x: Any, values: Sequence[Any], colour: str, label: str, marker: str = ""
) -> None:
    mean, low, high = np.array([band_of_mean(column) for column in np.transpose(values)]).T
    axis.fill_between(x, low, high, color=colour, alpha=0.18, lw=0)
    axis.plot(x, mean, color=colour, lw=2.2, label=label, marker=marker)


def _steps(curve: Sequence[dict[str, Any]]) -> Any:
    """Return the environment steps up to the end of each update."""
    episodes = np.diff(curve_of(curve, "episodes"), prepend=0.0)
    return np.cumsum(episodes * curve_of(curve, "episode_length"))


def curves_at_drops(groups: Mapping[str, Mapping[int, Result]]) -> Any:
    """Plot values of attempts that drop the cube, one curve for each model, the moment marked."""
    figure, axes = plt.subplots(2, 4, figsize=(11, 4.6), sharey=True)
    for colour, (name, group) in zip(COLOURS, groups.items(), strict=False):
        shown = [curve for item in group.values() for curve in item["shown"]]
        for axis, curve in zip(axes.flat, shown, strict=False):
            axis.plot(curve["values"], color=colour, label=name)
            axis.axvline(curve["event"], color="#5b6875", ls="--", lw=1)
    for axis in axes.flat:
        if axis.lines:
            axis.grid(alpha=0.3)
        else:
            axis.set_axis_off()
    for axis in axes[-1]:
        axis.set_xlabel("frame")
    for axis in axes[:, 0]:
        axis.set_ylabel("value")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="upper right", ncols=2)
    figure.suptitle("Attempts that drop the cube (dashed)", fontsize=11)
    return figure


def values_of_failures(groups: Mapping[str, Mapping[int, Result]]) -> Any:
    """Plot the value of each failure by the distance that was left, a panel for each model."""
    figure, axes = plt.subplots(
        1, len(groups), figsize=(3.2 * len(groups), 3.6), sharey=True, squeeze=False
    )
    for axis, (name, group) in zip(axes[0], groups.items(), strict=True):
        ends = [end for result in group.values() for end in result["failures"]]
        for colour, held in zip(COLOURS, (True, False), strict=False):
            chosen = [end for end in ends if end["held"] is held]
            axis.plot(
                [100 * end["distance"] for end in chosen],
                [end["value"] for end in chosen],
                "o",
                color=colour,
                alpha=0.5,
                ms=5,
                label="cube in the gripper" if held else "cube elsewhere",
            )
        axis.set(xlabel="gripper to goal, cm", ylim=(0, 1.02))
        axis.set_title(f"{name}\n(n = {len(ends)})", fontsize=10)
        axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel("value of the last frame")
    handles = axes[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="upper center", ncols=2, bbox_to_anchor=(0.5, 1.08))
    return figure


def paired_bars(bars: Mapping[float, Mapping[str, Sequence[float]]]) -> Any:
    """Plot success of two methods beside each other, by share of degraded demonstrations."""
    figure, axis = plt.subplots(figsize=(7, 3.8))
    methods = {"bc": "BC", "rabc": "RA-BC"}
    for i, by_method in enumerate(bars.values()):
        for j, (method, label) in enumerate(methods.items()):
            _bar(axis, i + 0.36 * (j - 0.5), by_method[method], COLOURS[j], label if i == 0 else "")
    axis.set_xticks(range(len(bars)), [f"{100 * share:.0f} %" for share in bars])
    axis.set(xlabel="share of failed attempts among the demonstrations", ylabel="success")
    axis.set_ylim(0, 1)
    axis.legend(loc="upper right")
    return figure


def errors(by_model: Mapping[str, Sequence[float]]) -> Any:
    """Plot the error of each model."""
    figure, axis = plt.subplots(figsize=(7, 3.4))
    for i, (name, values) in enumerate(by_model.items()):
        _bar(axis, i, values, COLOURS[0] if name == "SARM2" else "#9aa7b4", "", width=0.6)
    axis.set_xticks(
        range(len(by_model)), [name.replace(" (", "\n(").replace(", ", ",\n") for name in by_model]
    )
    axis.tick_params(axis="x", labelsize=8)
    axis.set_ylabel("mean square error of progress")
    return figure


def before_and_after(groups: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> Any:
    """Plot success before and after fine-tuning, by category."""
    figure, axis = plt.subplots(figsize=(7, 3.8))
    for i, pair in enumerate(groups.values()):
        for j, label in enumerate(("before", "after")):
            colour = ("#9aa7b4", COLOURS[0])[j]
            _bar(axis, i + 0.36 * (j - 0.5), pair[j], colour, label if i == 0 else "")
    axis.set_xticks(range(len(groups)), list(groups))
    axis.set(ylabel="success", ylim=(0, 1))
    axis.legend(loc="upper right")
    return figure


def _bar(
    axis: Any, x: float, values: Sequence[float], colour: str, label: str, *, width: float = 0.34
) -> None:
    mean, low, high = interval_of_mean(values) if len(values) else (0.0, 0.0, 0.0)
    axis.bar(x, mean, width, color=colour, alpha=0.8, label=label)
    axis.plot([x, x], [low, high], color="#1d2733", lw=1.4)
    axis.plot([x] * len(values), values, "o", mfc="white", mec="#1d2733", ms=4)
