"""Labels against known stage boundaries and outcomes, on recorded scripted episodes of any tasks.

Truth comes from the column ``phase`` that `bench-adapters record` writes. A subgoal is reached when
the scene is changed for what comes next: a thing is grasped (end of ``grasp``), it is where it was
carried, aligned or turned to (end of ``move``, ``align``, ``turn``), it is let go (end of
``release``, if something follows), the tool touches what it will push (start of ``slide``). Phases
of retreat belong to no stage, and an attempt that is begun again is part of its stage. A stage of
fewer than three frames joins the one before.

Every encoder goes through the same pipeline with one setting, `LabelConfig(common_stages=True,
contrast=True, failures="reference")`; the number of stages is chosen on the episodes themselves.
Boundaries are matched one to one and in order; a true one without a partner counts as off by the
whole episode. AUROC is that of final progress where successful episodes, but for the eight
references, are measured as failures are, without telling that they succeeded. The ramp has as many
equal stages as the first encoder found, and a progress of time.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from progress_labels import EpisodeLabels, order_accuracy, success_auroc, time_fraction
from progress_labels.dataset import EpisodeDataset
from progress_labels.encoders import VJEPA2Encoder, load_encoder
from progress_labels.episode_labels import LabelConfig, label_episode
from progress_labels.lerobot import column_matrix, read_info, read_table
from progress_labels.references import label_failure, make_reference
from progress_labels.task_stages import task_stages

_STAGE_OF_PHASE = {
    **dict.fromkeys(("reach", "grasp"), "acquire"),
    **dict.fromkeys(("lift", "move", "align"), "carry"),
    **dict.fromkeys(("place", "release"), "put"),
    **{name: name for name in ("turn", "poke", "slide")},
}
_SHORTEST = 3
_CONFIG = LabelConfig(common_stages=True, contrast=True, failures="reference")
_NUM_REFERENCES = 8

Encode = Callable[[Tensor], Tensor]
"""Frames (t, h, w, 3) → features (t, p, d)."""


class Recorded(NamedTuple):
    """An episode with what is known of it."""

    frames: Tensor
    completion: int | None
    boundaries: np.ndarray
    """First frames of the true stages but the first one, of a successful episode."""


class Scores(NamedTuple):
    """What one encoder reaches on one task."""

    found: int
    count_right: np.ndarray
    """Whether each successful episode has the right number of stages, within one."""
    errors: list[np.ndarray]
    """Errors of the true boundaries, as shares of the episode, by episode."""
    order: np.ndarray
    blind: np.ndarray
    """Final progress of successes that are measured as failures are."""
    failed: np.ndarray
    """Final progress of failures."""


def main() -> None:
    """Print a table per encoder, a row per task."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("datasets", nargs="+", type=Path)
    parser.add_argument("--first", type=int, default=0, help="first episode")
    parser.add_argument("--last", type=int, default=None, help="episode after the last")
    parser.add_argument("--camera", default=None)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    encoders = {"shipped": _shipped(), "pixels": _pixels, "random ViT": _random()}
    rows: dict[str, list[tuple[str, list[Recorded], Scores]]] = {}
    for root in arguments.datasets:
        episodes = read_episodes(root, arguments.camera, arguments.first, arguments.last)
        for name, encode in encoders.items():
            scores = measure(episodes, encode)
            rows.setdefault(name, []).append((root.name, episodes, scores))
            print(name, _row(root.name, episodes, scores), flush=True)
        scores = ramp(episodes, rows["shipped"][-1][2].found)
        rows.setdefault("ramp", []).append((root.name, episodes, scores))
    for name, found in rows.items():
        print(f"\n{name}\n\n{_HEADER}")
        for row in found:
            print(_row(*row))
        print(_total([scores for _, _, scores in found]))


def read_episodes(root: Path, camera: str | None, first: int, last: int | None) -> list[Recorded]:
    """Read episodes with their true boundaries."""
    dataset = EpisodeDataset(root, camera=camera)
    names = read_info(root)["features"]["phase"]["labels"]
    episodes = []
    for position in range(len(dataset))[first:last]:
        files = dataset.files(position)
        table = read_table(files.data, ["phase"], episode=files.episode_index)
        phases = [names[int(number)] for number in column_matrix(table, "phase")[:, 0]]
        end = dataset.completion(position)
        true = boundaries(phases[: len(phases) if end is None else end + 1])
        episodes.append(Recorded(dataset[position]["frames"], end, true))
    return episodes


def boundaries(phases: list[str]) -> np.ndarray:
    """Return the first frame of each true stage but the first one."""
    found: list[int] = []
    current, last = None, -1
    for frame, phase in enumerate(phases):
        stage = _STAGE_OF_PHASE.get(phase)
        if stage is None:  # retreat
            continue
        start = found[-1] if found else 0
        long = last + 1 - start >= _SHORTEST and len(phases) - last - 1 >= _SHORTEST
        if current not in (None, stage) and long:
            found.append(last + 1)
        current, last = stage, frame
    return np.array(found, dtype=int)


def measure(episodes: list[Recorded], encode: Encode) -> Scores:
    """Label episodes as `label_dataset` does, and compare with what is known."""
    features = [encode(episode.frames) for episode in episodes]
    ends = {n: e.completion for n, e in enumerate(episodes) if e.completion is not None}
    stages = task_stages(lambda n: features[n], ends, config=_CONFIG)
    labels: dict[int, EpisodeLabels] = {
        n: label_episode(features[n], config=_CONFIG, completion=end, stage=stages[n])
        for n, end in ends.items()
    }
    references = [
        make_reference(features[n], labels[n], config=_CONFIG, completion=ends[n])
        for n in list(ends)[:_NUM_REFERENCES]
    ]

    def final(n: int, end: int | None) -> float:
        seen = features[n] if end is None else features[n][: end + 1]
        return float(label_failure(seen, references, config=_CONFIG).progress[-1])

    true = {n: episodes[n].boundaries for n in ends}
    return Scores(
        found=max(int(stage[-1]) + 1 for stage in stages.values()),
        count_right=np.array([abs(int(stages[n][-1]) - len(true[n])) <= 1 for n in ends]),
        errors=[
            boundary_errors(1 + np.flatnonzero(np.diff(stages[n])), true[n], len(stages[n]))
            for n in ends
        ],
        order=np.array([order_accuracy(labels[n].progress[: ends[n] + 1]) for n in ends]),
        blind=np.array([final(n, ends[n]) for n in list(ends)[_NUM_REFERENCES:]]),
        failed=np.array([final(n, None) for n in range(len(episodes)) if n not in ends]),
    )


def ramp(episodes: list[Recorded], found: int) -> Scores:
    """Return what progress that is linear in time reaches, with equal stages."""
    won = [e for e in episodes if e.completion is not None]
    lengths = [int(e.completion or 0) + 1 for e in won]
    cuts = [np.round(np.arange(1, found) * length / found).astype(int) for length in lengths]
    failures = len(episodes) - len(won)
    return Scores(
        found=found,
        count_right=np.array([abs(found - 1 - len(e.boundaries)) <= 1 for e in won]),
        errors=[
            boundary_errors(c, e.boundaries, t) for c, e, t in zip(cuts, won, lengths, strict=True)
        ],
        order=np.array([order_accuracy(time_fraction(t)) for t in lengths]),
        blind=np.ones(max(0, len(won) - _NUM_REFERENCES)),
        failed=np.ones(failures),
    )


def boundary_errors(found: np.ndarray, true: np.ndarray, length: int) -> np.ndarray:
    """Return the error of each true boundary under the one-to-one, ordered match of least sum."""
    cost = np.full((len(found) + 1, len(true) + 1), np.inf)
    cost[:, 0] = 0.0
    step: dict[tuple[int, int], tuple[int, int]] = {}
    for i in range(len(found) + 1):
        for j in range(1, len(true) + 1):
            options = [(cost[i, j - 1] + length, (i, j - 1))]
            if i:
                off = min(length, abs(int(found[i - 1]) - int(true[j - 1])))
                options += [
                    (cost[i - 1, j], (i - 1, j)),
                    (cost[i - 1, j - 1] + off, (i - 1, j - 1)),
                ]
            cost[i, j], step[i, j] = min(options)
    errors, i, j = [], len(found), len(true)
    while j:
        before = step[i, j]
        if before[1] == j - 1:
            errors.append((cost[i, j] - cost[before]) / length)
        i, j = before
    return np.array(errors)


def _shipped() -> Encode:
    encoder = load_encoder()
    return lambda frames: encoder.encode(frames[None])[0]


def _random() -> Encode:
    shipped = load_encoder()
    torch.manual_seed(0)
    model = type(shipped.model)(shipped.model.config)
    encoder = VJEPA2Encoder(model, preprocess=shipped.preprocess, encoder_id="random")
    return lambda frames: encoder.encode(frames[None])[0]


def _pixels(frames: Tensor) -> Tensor:
    """Return patches of 8 × 8 pixels, values in [0, 1]."""
    patches = frames.float().div(255).unfold(1, 8, 8).unfold(2, 8, 8)
    return patches.flatten(3).flatten(1, 2)


_HEADER = (
    "| task | stages | found | count ± 1 | boundary error | order | AUROC | failures < 0.8 |\n"
    "|---|---|---|---|---|---|---|---|"
)


def _row(task: str, episodes: list[Recorded], scores: Scores) -> str:
    counts = [len(e.boundaries) + 1 for e in episodes if e.completion is not None]
    low, high = min(counts), max(counts)
    stages = f"{low}" if low == high else f"{low}-{high}"
    return f"| {task.removesuffix('-v1')} | {stages} | {scores.found} | {_figures([scores])} |"


def _total(scores: list[Scores]) -> str:
    return f"| all | | | {_figures(scores)} |"


def _figures(scores: list[Scores]) -> str:
    right = np.concatenate([s.count_right for s in scores])
    errors = [e for s in scores for e in s.errors]
    failed = np.concatenate([s.failed for s in scores])
    aurocs = [_auroc(s) for s in scores]
    order = np.concatenate([s.order for s in scores])
    low, high = _bootstrap(errors)
    return (
        f"{_share(right)} | {100 * np.median(np.concatenate(errors)):.1f} % "
        f"[{100 * low:.1f}, {100 * high:.1f}] | {order.mean():.3f} | "
        f"{np.mean(aurocs):.2f} | {_share(failed < 0.8)}"
    )


def _auroc(scores: Scores) -> float:
    success = np.arange(len(scores.blind) + len(scores.failed)) < len(scores.blind)
    return success_auroc(np.concatenate([scores.blind, scores.failed]), success)


def _share(hits: np.ndarray) -> str:
    """Return a share in per cent with its Wilson interval of 95 % and the number of cases."""
    n, p, z = len(hits), float(hits.mean()), 1.96
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return f"{100 * p:.0f} % [{100 * (centre - half):.0f}, {100 * (centre + half):.0f}] of {n}"


def _bootstrap(errors: list[np.ndarray]) -> tuple[float, float]:
    """Return the 95 % interval of the median error when episodes are drawn again."""
    rng = np.random.default_rng(0)
    medians = [
        np.median(np.concatenate([errors[i] for i in rng.integers(len(errors), size=len(errors))]))
        for _ in range(1000)
    ]
    return float(np.quantile(medians, 0.025)), float(np.quantile(medians, 0.975))


if __name__ == "__main__":
    main()
