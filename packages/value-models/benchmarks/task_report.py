"""Table and figures of the ten-task bench."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from task_data import TaskEpisode

from value_models.plots import plot_expert_use
from value_models.primitives import PRIMITIVE_GROUPS

T_VALUE = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""Student's t for a two-sided 95 % interval, by the number of seeds."""


def summary(result: dict[str, Any]) -> str:
    """One line of a run."""
    names = ("mse_macro", "mse_micro", "order_accuracy", "auroc", "collapse", "fit_s", "parameters")
    cells = [f"{name} {result[name]:.4g}" for name in names if name in result]
    if "primitives, argmax" in result:
        cells.append(f"primitive {result['primitives, argmax']['primitive']:.3f}")
    return ", ".join(cells) + f", falls {result['falls'].get('miss and drop')}"


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half-width of its 95 % interval over seeds."""
    x = torch.tensor(values, dtype=torch.float64)
    if len(x) < 2:
        return float(x.mean()), float("nan")
    return float(x.mean()), float(x.std() / len(x) ** 0.5) * T_VALUE.get(len(x), 2.6)


def difference(results: dict[str, Any], name: str, other: str) -> str:
    """Ratio of two models' errors with a bootstrap interval over episodes; seeds are averaged."""

    def by_episode(model: str) -> torch.Tensor:
        runs = [torch.tensor(list(r["mse_by_episode"].values())) for r in results[model].values()]
        return torch.stack(runs).double().mean(0)

    ours, theirs = by_episode(name), by_episode(other)
    rows = torch.randint(len(ours), (4000, len(ours)), generator=torch.Generator().manual_seed(0))
    ratios = ours[rows].mean(1) / theirs[rows].mean(1)
    low, high = torch.quantile(ratios, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    ratio = float(ours.mean() / theirs.mean())
    return f"{name} / {other}: {ratio:.2f} [{low:.2f}, {high:.2f}]"


def table(results: dict[str, Any], *, num_episodes: int) -> str:
    """Return one Markdown table and the lines under it."""
    columns = ("mse_macro", "mse_micro", "order_accuracy", "auroc", "collapse")
    lines = ["| model | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    models = [m for m in results if not m.startswith(("first epoch", "clock test"))]
    for name in models:
        runs = list(results[name].values())
        cells = []
        for column in columns:
            if column not in runs[0]:
                cells.append("–")
                continue
            mean, half = interval([run[column] for run in runs])
            cells.append(f"{mean:.4f}" + (f" ± {half:.4f}" if half == half else ""))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += ["", f"{num_episodes} held-out episodes; ± is a 95 % t interval over seeds.", ""]
    full = "SARM2"
    others = [m for m in models if m != full and "mse_macro" in next(iter(results[m].values()))]
    lines += [difference(results, full, other) for other in others if full in results]
    lines += [f"falls after the event, {m}: {_added(results[m])}" for m in models]
    for key in ("primitives, null rule", "primitives, argmax"):
        runs = [r[key] for r in results.get(full, {}).values() if key in r]
        lines += [f"{key}: " + ", ".join(
            f"{name} {interval([run[name] for run in runs])[0]:.3f}" for name in runs[0]
        )] if runs else []  # fmt: skip
    for key in ("first epoch", "first epoch, whole state"):
        lines += _first_epoch(key, list(results.get(key, {}).values()))
    lines += _clock(list(results.get("clock test", {}).values()))
    return "\n".join(lines) + "\n"


def _first_epoch(name: str, runs: Sequence[dict[str, Any]]) -> list[str]:
    """RFTF: order by task, and what happens after failures."""
    if not runs:
        return []
    mean, half = interval([run["order_accuracy"] for run in runs])
    tasks = {
        task: interval([run["order_by_task"][task] for run in runs])[0]
        for task in runs[0]["order_by_task"]
    }
    listed = ", ".join(f"{task} {value:.3f}" for task, value in tasks.items())
    moving = interval([run["order_in_motion"] for run in runs])
    counted = {str(i): run for i, run in enumerate(runs)}
    return [
        f"RFTF, {name}, order accuracy {mean:.3f} ± {half:.3f}: {listed}",
        f"RFTF, {name}, order until the arms stand still: {moving[0]:.3f} ± {moving[1]:.3f}",
        f"RFTF, {name}, falls: {_added(counted)}",
        f"RFTF, {name}, falls after a drop: {_added(counted, key='drops_by_task')}",
        f"RFTF, {name}, dips: {_added(counted, key='dips')}",
    ]


def _clock(runs: Sequence[dict[str, Any]]) -> list[str]:
    """Change of progress on clips that run backwards and that stand still."""
    lines = []
    for name in runs[0] if runs else ():
        cells = []
        for clip in ("reversed", "stalled"):
            mean, half = interval([run[name][clip] for run in runs])
            cells.append(f"{clip} {mean:+.3f} ± {half:.3f}")
        lines.append(f"clock test, {name}: {', '.join(cells)} ({runs[0][name]['clips']} clips)")
    return lines


def _added(runs: dict[str, Any], *, key: str = "falls") -> dict[str, str]:
    total: dict[str, list[int]] = {}
    for run in runs.values():
        for kind, (falls, num) in run[key].items():
            had = total.setdefault(kind, [0, 0])
            had[0] += falls
            had[1] += num
    return {kind: f"{falls}/{num}" for kind, (falls, num) in total.items()}


def write_report(results: dict[str, Any], held_out: Sequence[TaskEpisode], out: Path) -> None:
    """Write ``table.md``, ``errors.png`` and ``experts.png``."""
    text = table(results, num_episodes=len(held_out))
    (out / "table.md").write_text(text)
    print(text)
    figure = Figure(figsize=(6, 3), layout="constrained")
    panel = figure.subplots()
    names = [m for m in results if "mse_macro" in next(iter(results[m].values()))]
    for place, name in enumerate(names):
        values = [run["mse_macro"] for run in results[name].values()]
        panel.barh(place, sum(values) / len(values), color="0.8")
        panel.plot(values, [place] * len(values), "o", color="tab:blue", markersize=4)
    panel.set_yticks(range(len(names)), names, fontsize="small")
    panel.invert_yaxis()
    panel.set_xlabel("squared error, mean of held-out episodes; dots: seeds", fontsize="small")
    figure.savefig(out / "errors.png", dpi=120)
    load = next(iter(results.get("SARM2", {"": {}}).values())).get("load")
    if load is not None:
        groups = list(PRIMITIVE_GROUPS)
        plot_expert_use(torch.tensor(load), groups).savefig(out / "experts.png", dpi=120)
