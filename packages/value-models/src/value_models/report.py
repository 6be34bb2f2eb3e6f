"""A report of a progress model on held-out episodes: one HTML file with its pictures inside."""

import base64
import html
import io
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from value_models.base import FrozenFeatureModel
from value_models.data import ProgressDataModule
from value_models.evaluation import Evaluation, evaluate_encoded
from value_models.features import EncodedEpisode
from value_models.functional.agreement import linear_time_progress
from value_models.metrics import BinCalibration, ExpertUse, SquaredError
from value_models.plots import plot_expert_use, plot_film_strip, plot_reliability
from value_models.primitives import PRIMITIVES
from value_models.progress_model import DistributionalProgressModel
from value_models.sarm2 import GatedValueModel

STYLE = """
body { font: 15px/1.4 sans-serif; max-width: 62em; margin: 2em auto; color: #222; }
table { border-collapse: collapse; margin: 1em 0; }
td, th { border-bottom: 1px solid #ccc; padding: .25em .8em; text-align: right; }
td:first-child, th:first-child { text-align: left; }
img { max-width: 100%; }
"""

COLUMNS = {
    "order_accuracy": "order accuracy",
    "rank_correlation": "rank correlation",
    "mean_absolute_error": "abs. error",
    "mse_macro": "squared error, episodes",
    "mse_micro": "squared error, frames",
    "final_progress_success": "final, success",
    "final_progress_failure": "final, failure",
    "final_progress_auroc": "AUROC",
}


def write_report(
    path: str | os.PathLike[str],
    model: Any,
    data: ProgressDataModule,
    *,
    num_strips: int = 4,
    title: str = "Value model report",
) -> Evaluation:
    """Score ``model`` on the held-out episodes of ``data`` and write an HTML file.

    Film strips of held-out successes and failures, tables for each task beside linear time, the
    use of experts by primitive, and a reliability diagram where the model has what they show.

    Args:
        path: The file; replaced only when complete.
        model: A trained model with progress.
        data: The data that it was trained on; its held-out part is scored.
        num_strips: Most successes and most failures to show.
        title: Of the page.

    Raises:
        ValueError: If the model has no progress, as `PrimitiveEstimator`, or ``num_strips`` < 0.
    """
    if num_strips < 0:
        raise ValueError(f"Expected `num_strips` of at least 0, got {num_strips}.")
    if not hasattr(model, "compute_progress"):
        raise ValueError(f"Expected a model with progress to report, got {type(model).__name__}.")
    data.setup()
    held_out = [*data.val_episodes, *data.unlabelled_episodes]
    evaluation = evaluate_encoded(model, held_out, mean_length=data.mean_train_length)
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        (
            f"<p>{type(model).__name__} on encoder <code>{html.escape(data.encoder_id)}</code>: "
            f"{len(data.train_episodes)} episodes trained on, {len(data.val_episodes)} labelled "
            f"ones held out, {len(data.unlabelled_episodes)} without a label.</p>"
        ),
        "<h2>Held-out scores</h2>",
        _score_table(model, held_out, data.mean_train_length),
        (
            "<p>Order and rank compare with time: linear time is nearly perfect at both on "
            "successes. The error and the AUROC of final progress tell the two apart.</p>"
        ),
        "<h2>Curves</h2>",
        *(_picture(figure) for figure in _strips(evaluation, data, num_strips)),
        *_expert_use(model, held_out),
        *_reliability(model, held_out),
    ]
    page = (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{html.escape(title)}"
        f"</title><style>{STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.tmp")
    fresh.write_text(page)
    os.replace(fresh, path)
    return evaluation


def _score_table(model: Any, episodes: Sequence[EncodedEpisode], mean_length: float) -> str:
    """One pair of rows (model, linear time) for all tasks together and for each."""
    tasks = list(dict.fromkeys(episode.task for episode in episodes))
    groups = {"all tasks": list(episodes)} if len(tasks) > 1 else {}
    groups |= {task: [e for e in episodes if e.task == task] for task in tasks}
    cells = "".join(f"<th>{name}</th>" for name in COLUMNS.values())
    rows = [f"<tr><th>task</th><th>predictor</th>{cells}<th>episodes</th><th>failures</th></tr>"]
    for name, group in groups.items():
        evaluation = evaluate_encoded(model, group, mean_length=mean_length)
        curves = [torch.from_numpy(p.progress) for p in evaluation.predictions]
        clock = [linear_time_progress(len(curve), mean_length) for curve in curves]
        assert evaluation.baseline is not None  # the length was given
        for predictor, found in (
            ("model", asdict(evaluation.model) | _squared_errors(evaluation, curves)),
            ("linear time", asdict(evaluation.baseline) | _squared_errors(evaluation, clock)),
        ):
            values = "".join(f"<td>{_number(found.get(column))}</td>" for column in COLUMNS)
            rows.append(
                f"<tr><td>{html.escape(name)}</td><td>{predictor}</td>{values}"
                f"<td>{evaluation.num_episodes}</td><td>{evaluation.num_failures}</td></tr>"
            )
    return f"<table>{''.join(rows)}</table>"


def _squared_errors(evaluation: Evaluation, curves: Sequence[Tensor]) -> dict[str, float]:
    if not evaluation.num_episodes:
        return {}
    macro, micro = SquaredError(), SquaredError(micro=True)
    for episode, curve in zip(evaluation.predictions, curves, strict=True):
        for metric in (macro, micro):
            metric.update(curve, torch.from_numpy(episode.label))
    return {"mse_macro": float(macro.compute()), "mse_micro": float(micro.compute())}


def _number(value: float | None) -> str:
    return "–" if value is None or value != value else f"{value:.3f}"


def _strips(evaluation: Evaluation, data: ProgressDataModule, num: int) -> list[Figure]:
    """Film strips of the first held-out successes and failures; frames are read again."""
    place = {e.episode_index: i for i, e in enumerate(data.encoded)}
    successes = [p for p in evaluation.predictions if p.success][:num]
    failures = [p for p in evaluation.predictions if not p.success][:num]
    figures = []
    for prediction in [*successes, *failures]:
        episode = data.source[place[prediction.episode_index]]
        frames = torch.as_tensor(episode[f"observation.images.{data.camera}"])
        figures.append(plot_film_strip(prediction, frames))
    return figures


def _expert_use(model: Any, episodes: Sequence[EncodedEpisode]) -> list[str]:
    """How each primitive that occurs divides its frames among the experts."""
    known = [e for e in episodes if "primitive" in e.signals]
    if not isinstance(model, GatedValueModel) or not known:
        return []
    use = ExpertUse(num_experts=model.experts.experts.num_experts, num_groups=len(PRIMITIVES))
    for episode in known:
        chosen = model.compute_experts(_batch(model, episode))[0]
        primitive = episode.signals["primitive"]
        use.update(chosen[primitive >= 0], primitive[primitive >= 0])
    seen = use.counts.sum(1) > 0
    names = [name for name, found in zip(PRIMITIVES, seen.tolist(), strict=True) if found]
    return [
        (
            f"<h2>Experts</h2><p>Collapse score {float(use.compute()):.3f}: 0 if all are used "
            "alike, 1 if only one is.</p>"
        ),
        _picture(plot_expert_use(use.load()[seen], names)),
    ]


def _reliability(model: Any, episodes: Sequence[EncodedEpisode]) -> list[str]:
    """Whether the labels lie where the predicted distributions say."""
    labelled = [e for e in episodes if e.is_labelled]
    if not isinstance(model, DistributionalProgressModel) or not labelled:
        return []
    metric = BinCalibration()
    for episode in labelled:
        logits = model.compute_logits(_batch(model, episode))[0]
        metric.update(logits.cpu(), episode.progress)
    return [
        f"<h2>Reliability</h2><p>Calibration error {float(metric.compute()):.3f}, in [0, 0.5].</p>",
        _picture(plot_reliability(metric.levels(), metric.observed())),
    ]


def _batch(model: FrozenFeatureModel, episode: EncodedEpisode) -> dict[str, Any]:
    signals: dict[str, Tensor] = {k: v.unsqueeze(0) for k, v in episode.signals.items()}
    key = f"observation.features.{model.camera}"
    return {**signals, key: episode.features.unsqueeze(0), "task": [episode.task]}


def _picture(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    text = base64.b64encode(buffer.getvalue()).decode()
    return f"<p><img src='data:image/png;base64,{text}'></p>"
