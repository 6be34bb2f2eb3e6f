"""What a model is worth on held-out episodes of the ten tasks."""

from collections.abc import Sequence
from typing import Any

import torch
from task_data import CAMERA, STATE, TASKS, TaskEpisode
from torch import Tensor

from value_models.features import EncodedEpisode
from value_models.functional import (
    linear_time_progress,
    order_accuracy,
    rank_correlation,
    success_auroc,
)
from value_models.metrics import ExpertUse
from value_models.primitives import NULL_INDEX, primitive_group
from value_models.sarm2 import GatedValueModel

UNDOING = ("miss", "drop")
"""Failures after which less has been reached than before; after a stall, as much."""


def curve(model: Any, episode: EncodedEpisode, *, frames: Sequence[int] | None = None) -> Tensor:
    """Predicted progress of an episode, or of a clip of some of its frames in some order."""
    progress: Tensor = model.compute_progress(inputs(episode, frames=frames))[0]
    return progress


def inputs(episode: EncodedEpisode, *, frames: Sequence[int] | None = None) -> dict[str, Any]:
    """What a model sees of an episode, or of some of its frames in some order."""
    rows = torch.arange(len(episode.features)) if frames is None else torch.tensor(list(frames))
    state = {k: v[rows][None] for k, v in episode.signals.items() if k == STATE}
    features = {f"observation.features.{CAMERA}": episode.features[rows][None]}
    return {**features, **state, "task": [episode.task]}


def score(
    model: Any, held_out: Sequence[TaskEpisode], *, failures: Sequence[TaskEpisode], is_share: bool
) -> dict[str, Any]:
    """Score a model; ``is_share`` if its output is a share of the task and not only an order."""
    curves = {id(e): curve(model, e.encoded) for e in [*held_out, *failures]}
    result = _scores(held_out, curves, is_share=is_share)
    result["falls"] = _falls(failures, curves)
    result["drops_by_task"] = {
        env: found["drop"]
        for env in TASKS
        if "drop" in (found := _falls([e for e in failures if e.env == env], curves))
    }
    result["dips"] = _dips([*failures, *held_out], curves)
    if isinstance(model, GatedValueModel):
        result |= _routing(model, held_out)
    return result


def score_clock(kept: Sequence[TaskEpisode], held_out: Sequence[TaskEpisode]) -> dict[str, Any]:
    """Score linear time, which knows the mean length of the successes of each task."""
    lengths: dict[str, list[int]] = {}
    for episode in kept:
        if episode.encoded.success:
            lengths.setdefault(episode.env, []).append(len(episode.encoded.features))
    curves = {
        id(e): linear_time_progress(
            len(e.encoded.features), sum(lengths[e.env]) / len(lengths[e.env])
        )
        for e in held_out
    }
    failures = [e for e in held_out if not e.encoded.success]
    return {**_scores(held_out, curves, is_share=True), "falls": _falls(failures, curves)}


def _scores(
    episodes: Sequence[TaskEpisode], curves: dict[int, Tensor], *, is_share: bool
) -> dict[str, Any]:
    result: dict[str, Any] = {}
    if is_share:
        errors: dict[str, float] = {}
        squares: list[Tensor] = []
        kinds: dict[str, list[float]] = {}
        for e in episodes:
            known = e.encoded.progress.isfinite()
            if known.any():
                square = (curves[id(e)] - e.encoded.progress)[known].square()
                squares.append(square)
                errors[f"{e.env} {e.encoded.episode_index}"] = float(square.mean())
                kinds.setdefault(e.perturbation or "clean", []).append(float(square.mean()))
        result["mse_macro"] = sum(errors.values()) / len(errors)
        result["mse_micro"] = float(torch.cat(squares).mean())
        result["mse_by_kind"] = {k: sum(v) / len(v) for k, v in sorted(kinds.items())}
        result["mse_by_episode"] = errors
    clean = [e for e in episodes if e.encoded.success and not e.perturbation]
    order = {id(e): float(order_accuracy(curves[id(e)])) for e in clean}
    result["order_accuracy"] = _mean(list(order.values()))
    moving = [float(order_accuracy(curves[id(e)][: e.motion])) for e in clean if e.motion > 1]
    result["order_in_motion"] = _mean(moving)
    result["order_by_task"] = {
        env: _mean([order[id(e)] for e in clean if e.env == env]) for env in TASKS
    }
    result["voc"] = float(torch.stack([rank_correlation(curves[id(e)]) for e in clean]).mean())
    final = torch.tensor([float(curves[id(e)][-1]) for e in episodes])
    success = torch.tensor([e.encoded.success for e in episodes])
    result["auroc"] = float(success_auroc(final[success], final[~success]))
    return result


def _falls(failures: Sequence[TaskEpisode], curves: dict[int, Tensor]) -> dict[str, Any]:
    """How many curves lie lower in the end than at the event, by kind of failure."""
    found: dict[str, list[bool]] = {}
    for e in failures:
        if e.event is None or e.event >= len(e.encoded.features) - 5:
            continue
        values = curves[id(e)]
        before = values[max(e.event - 2, 0) : e.event + 1].mean()
        found.setdefault(e.perturbation, []).append(bool(values[-3:].mean() < before))
    counts = {kind: [sum(falls), len(falls)] for kind, falls in sorted(found.items())}
    undone = [counts.get(kind, [0, 0]) for kind in UNDOING]
    counts["miss and drop"] = [sum(n for n, _ in undone), sum(n for _, n in undone)]
    return counts


def _dips(episodes: Sequence[TaskEpisode], curves: dict[int, Tensor]) -> dict[str, Any]:
    """How many curves dip after the event by a tenth of their range, by kind of failure.

    ``none`` is the control: clean successes after the middle, where nothing went wrong.
    """
    found: dict[str, list[bool]] = {}
    for e in {id(e): e for e in episodes}.values():
        clean = e.encoded.success and not e.perturbation
        event = len(e.encoded.features) // 2 if clean else e.event
        if event is None or event >= len(e.encoded.features) - 5 or event < 2:
            continue
        smooth = curves[id(e)].unfold(0, 3, 1).mean(1)
        before, after = smooth[event - 2], smooth[event - 1 :]
        dip = float(before - after.min()) > 0.1 * float(smooth.max() - smooth.min())
        found.setdefault("none" if clean else e.perturbation, []).append(dip)
    return {kind: [sum(dips), len(dips)] for kind, dips in sorted(found.items())}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("nan")


def _routing(model: GatedValueModel, episodes: Sequence[TaskEpisode]) -> dict[str, Any]:
    """Accuracy of the estimator, and how experts are used."""
    use = ExpertUse(num_experts=model.experts.experts.num_experts, num_groups=8)
    truth, found, plain = [], [], []
    for e in episodes:
        batch = inputs(e.encoded)
        group = primitive_group(e.encoded.signals["primitive"])
        use.update(model.compute_experts(batch)[0], group)
        if model.estimator is not None:
            truth.append(e.encoded.signals["primitive"])
            found.append(model.estimator.compute_primitives(batch)[0])
            threshold, model.estimator.null_threshold = model.estimator.null_threshold, 0.0
            plain.append(model.estimator.compute_primitives(batch)[0])
            model.estimator.null_threshold = threshold
    result: dict[str, Any] = {"collapse": float(use.compute()), "load": use.load().tolist()}
    if truth:
        true, null_rule, argmax = torch.cat(truth), torch.cat(found), torch.cat(plain)
        action = true != NULL_INDEX
        for name, chosen in (("null rule", null_rule), ("argmax", argmax)):
            right = chosen == true
            group = primitive_group(chosen) == primitive_group(true)
            result[f"primitives, {name}"] = {
                "primitive": float(right.float().mean()),
                "primitive, no null": float(right[action].float().mean()),
                "group": float(group.float().mean()),
                "group, no null": float(group[action].float().mean()),
            }
    return result
