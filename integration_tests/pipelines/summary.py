"""What a quickstart run shows: videos, the HTML page and one screen of text."""

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench_adapters import Observation, Policy, VectorEnv
from bench_adapters.video import write_video
from integration_tests.pipelines import report
from integration_tests.pipelines.files import write_whole
from integration_tests.pipelines.stages import Stages


def film_one_of_each(
    policy: Policy, env: VectorEnv, outcomes: Sequence[tuple[int, bool]], folder: Path
) -> None:
    """Write ``success.mp4`` and ``failure.mp4``: the greedy policy on the first episode of each.

    Args:
        policy: The policy that was evaluated.
        env: One environment that also renders ``base_camera``; the episodes are the same there.
        outcomes: ``(seed, success)`` of the greedy evaluation.
        folder: Where the videos go.
    """
    for name, wanted in (("success", True), ("failure", False)):
        seed = next((seed for seed, success in outcomes if bool(success) is wanted), None)
        if seed is not None:
            frames = [_side_by_side(obs) for obs in _replay(policy, env, seed)]
            write_video(folder / f"{name}.mp4", np.stack(frames), fps=5)


def _replay(policy: Policy, env: VectorEnv, seed: int) -> Iterator[Observation]:
    obs, _ = env.reset(seed=[seed])
    ended = False
    yield obs
    while not ended:
        actions = policy.act(obs, deterministic=True).actions
        step = env.step_chunk(np.asarray(actions))
        obs, ended = step.observation, bool((step.terminated | step.truncated).any())
        yield obs


def _side_by_side(obs: Observation) -> Any:
    """Put the policy's own view, enlarged, beside the second camera."""
    second = obs["observation.images.base_camera"][0]
    own = next(
        value[0]
        for key, value in obs.items()
        if key.startswith("observation.images.") and not key.endswith("base_camera")
    )
    scale = second.shape[0] // own.shape[0]
    return np.concatenate([own.repeat(scale, 0).repeat(scale, 1), second], axis=1)


def write_result(stages: Stages, made: dict[str, Any]) -> None:
    """Write ``result.json``: how it was made, what every stage found, how long each took.

    One that says the same is left, with the date and the versions it was made with.
    """
    found = {**stages.results, "evaluate": {}}
    for name, scores in stages.results["evaluate"].items():
        found["evaluate"][name] = {key: scores[key] for key in scores if key != "outcomes"}
    seconds = {name: round(value, 1) for name, value in stages.seconds.items()}
    told = {"stages": found, "seconds": seconds}
    path = stages.out / "result.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    if {key: before.get(key) for key in told} != json.loads(json.dumps(told)):
        write_whole(path, json.dumps({**made, **told}, indent=1) + "\n")


def write_report(stages: Stages, rewards: Sequence[str]) -> str:
    """Write ``report.html`` beside the stages and return a one-screen summary."""
    results, folders = stages.results, stages.folders
    curves = {reward: _metrics(folders[f"finetune-{reward}"]) for reward in rewards}
    scores = results["evaluate"]
    here = folders["evaluate"]
    bars = [(name, item["success_once"]) for name, item in scores.items()]
    training = report.save(report.learning_curves(curves), here / "training.png")
    success = report.save(report.success_bars(bars), here / "success.png")
    lines = _lines(stages, rewards)
    page = stages.out / "report.html"
    report.write_page(
        page,
        "Quickstart: dense progress improves a policy",
        [
            report.paragraph(lines[0], css="headline"),
            report.section(
                "Success on held-out episodes",
                report.table(
                    ["policy", "success once", "95 %", "success at end", "95 %", "episodes"],
                    [_score_cells(name, item) for name, item in scores.items()],
                ),
                report.picture(success, "Success at any step, Wilson 95 % interval."),
            ),
            report.section(
                "Fine-tuning", report.picture(training, "Each point is one update; lines smooth 5.")
            ),
            report.section(
                "Progress labels",
                report.picture(
                    folders["label"] / "label.png",
                    "Similarity to the terminal frame, stages, and hierarchical progress.",
                ),
                report.paragraph(_label_text(results)),
            ),
            report.section(
                "Value model on held-out episodes",
                report.table(
                    [
                        "predictor",
                        "order accuracy",
                        "rank correlation",
                        "error",
                        "AUROC of success",
                    ],
                    _value_cells(results["value"]["scores"]),
                ),
                report.picture(
                    folders["value"] / "curves.png", "Predicted progress and its label."
                ),
                report.paragraph(
                    "A clock orders successful episodes perfectly by construction; the error and "
                    "the failed episodes tell it from a model."
                ),
            ),
            report.section("Videos", *_videos(here)),
            report.section(
                "Time", report.table(["stage", "seconds"], _seconds_cells(stages.seconds))
            ),
        ],
    )
    return "\n".join([*lines, "", f"report  {page}"])


def _lines(stages: Stages, rewards: Sequence[str]) -> list[str]:
    scores = stages.results["evaluate"]
    before = scores["before, sampled"]["success_once"]
    after = scores[f"{rewards[0]}, sampled"]["success_once"]
    gain = 100 * (after["rate"] - before["rate"])
    overlap = max(before["low"], after["low"]) <= min(before["high"], after["high"])
    episodes = int(after["total"])
    headline = (
        f"Success went from {_percent(before)} to {_percent(after)} ({gain:+.1f} points) on "
        f"{episodes} held-out episodes; the intervals {'overlap' if overlap else 'do not overlap'}."
    )
    lines = [
        headline,
        "",
        f"{'policy':22s} {'success once':>22s} {'success at end':>22s}",
    ]
    lines += [
        f"{name:22s} {_percent(item['success_once']):>22s} {_percent(item['success_at_end']):>22s}"
        for name, item in scores.items()
    ]
    lines += ["", _label_text(stages.results), "", f"{'value model':14s} order  rank  error  AUROC"]
    lines += [
        f"{name:14s} " + "  ".join(cells)
        for name, *cells in _value_cells(stages.results["value"]["scores"])
    ]
    total = sum(stages.seconds.values())
    spent = ", ".join(f"{name} {seconds:.0f}" for name, seconds in stages.seconds.items())
    return [*lines, "", f"{total:.0f} s: {spent}"]


def _metrics(stage: Path) -> list[dict[str, Any]]:
    with (stage / "fit" / "metrics.csv").open() as file:
        return [
            {key: float(value) if value else None for key, value in row.items()}
            for row in csv.DictReader(file)
        ]


def _percent(score: dict[str, float]) -> str:
    return f"{100 * score['rate']:.1f} % [{100 * score['low']:.1f}, {100 * score['high']:.1f}]"


def _score_cells(name: str, item: dict[str, Any]) -> list[str]:
    cells = [name]
    for key in ("success_once", "success_at_end"):
        score = item[key]
        cells += [f"{100 * score['rate']:.1f} %", _percent(score).split("% ")[1]]
    return [*cells, str(int(item["success_once"]["total"]))]


def _value_cells(scores: dict[str, dict[str, float]]) -> list[list[str]]:
    keys = ("order_accuracy", "rank_correlation", "mean_absolute_error", "final_progress_auroc")
    return [[name, *(f"{item[key]:.3f}" for key in keys)] for name, item in scores.items()]


def _label_text(results: dict[str, Any]) -> str:
    record, label = results["record"], results["label"]
    stages = ", ".join(
        f"{count} with {n}" for n, count in enumerate(label["stage_counts"]) if count
    )
    return (
        f"{record['episodes']} recorded attempts ({record['frames']} frames), "
        f"{record['successes']} successes; stages found: {stages}."
    )


def _seconds_cells(seconds: dict[str, float]) -> list[list[str]]:
    return [[name, f"{value:.0f}"] for name, value in seconds.items()]


def _videos(folder: Path) -> list[str]:
    return [
        report.video(folder / f"{name}.mp4", f"{name}: the policy's view and a second camera")
        for name in ("success", "failure")
        if (folder / f"{name}.mp4").exists()
    ]
