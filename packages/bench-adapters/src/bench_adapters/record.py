"""Recording datasets with scripted experts."""

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from tqdm import tqdm

from bench_adapters._attempts import Attempt, Episode, EpisodeSpec, InProcess, Workers
from bench_adapters.envs.base import ScriptedEnvironment
from bench_adapters.functional.primitives import primitive_group
from bench_adapters.recorder import DatasetRecorder
from bench_adapters.registry import make_single

__all__ = ["RecordSummary", "record_dataset"]

FIRST_SEED = 1_000_000
"""Of a recording that names none."""
_GOLDEN_RATIO = (np.sqrt(5) - 1) / 2


class RecordSummary(NamedTuple):
    """What a dataset holds after `record_dataset`."""

    root: Path
    num_episodes: int
    num_frames: int
    num_successes: int
    num_new_episodes: int
    """Episodes that this call added."""


def record_dataset(  # noqa: PLR0913  one keyword per setting of a recording
    env_id: str,
    root: Path | str,
    *,
    num_episodes: int,
    seed: int = FIRST_SEED,
    noise: float = 0.0,
    failure_fraction: float = 0.0,
    perturbations: Sequence[str] = (),
    num_workers: int = 0,
    env_kwargs: Mapping[str, Any] | None = None,
    progress_bar: bool = True,
    timeout_s: float = 600.0,
) -> RecordSummary:
    """Record attempts of an environment's scripted expert, with a frame at every step.

    Episode i has seed ``seed + i`` and does not depend on the other episodes or on the number of
    workers. A recording that was stopped goes on where it stopped; one that is complete is left
    as it is. Columns beyond LeRobot's own: ``next.reward``, ``next.done``, ``next.success``, and of
    the expert ``phase``, the step of its plan, with the ``primitive`` and ``primitive_group`` it
    belongs to (`functional.primitives`).

    Args:
        env_id: ``<family>:<name>`` of an environment with a scripted expert.
        root: Folder of the dataset.
        num_episodes: Episodes that the dataset shall have.
        seed: Seed of the first episode. The default is far from where evaluations begin: who
            learns from a recording should not be tested on its initial states.
        noise: Standard deviation of the noise on the expert's actions, in action units; where these
            are metres (``put_on_plate``) in units of 0.1 m. Actions are recorded as executed.
        failure_fraction: Share of the episodes, spread evenly, in which the expert is made to fail
            in a way that the episode's own generator draws.
        perturbations: What those ways are; the environment's failure modes when empty.
        num_workers: Number of processes; 0 records in this one.
        env_kwargs: Arguments of the environment.
        progress_bar: Show one.
        timeout_s: Longest time, in seconds, that a worker may take for an episode.

    Raises:
        ValueError: If an argument is out of range, the environment has no expert, or ``root`` was
            recorded with other settings.
        FileExistsError: If ``root`` holds something else.
        PermissionError: If ``root`` cannot be written.
        WorkerError: If a worker fails; episodes finished before are kept.
    """
    if num_episodes < 1 or num_workers < 0 or seed < 0:
        raise ValueError(
            f"Expected `num_episodes` ≥ 1, `num_workers` ≥ 0 and `seed` ≥ 0, got {num_episodes}, "
            f"{num_workers} and {seed}."
        )
    if perturbations and not failure_fraction:
        raise ValueError(
            f"Expected a `failure_fraction` above 0 with `perturbations` {list(perturbations)}: it "
            "is the share of episodes that they happen in."
        )
    if noise < 0 or not 0 <= failure_fraction <= 1:
        raise ValueError(
            f"Expected `noise` ≥ 0 and `failure_fraction` in [0, 1], got {noise} and "
            f"{failure_fraction}."
        )
    provenance = {
        "env_id": env_id,
        "env_kwargs": dict(env_kwargs or {}),
        "seed": seed,
        "noise": noise,
        "failure_fraction": failure_fraction,
    }
    if perturbations:
        provenance["perturbations"] = list(perturbations)
    make_env = functools.partial(_make_scripted, env_id, dict(env_kwargs or {}))
    source: InProcess | Workers = (
        Workers(make_env, noise=noise, num_workers=num_workers, timeout_s=timeout_s)
        if num_workers
        else InProcess(make_env, noise=noise)
    )
    with contextlib.closing(source):
        if failure_fraction and not source.spec.failure_modes:
            raise ValueError(f"{env_id!r} has no failure modes; use `failure_fraction=0`")
        unknown = set(perturbations) - set(source.spec.perturbations)
        if unknown:
            raise ValueError(
                f"unknown `perturbations` {sorted(unknown)}; {env_id!r} has "
                f"{list(source.spec.perturbations)}"
            )
        with _recorder(source.spec, env_id, Path(root), provenance) as recorder:
            before = recorder.num_episodes
            attempts = [
                Attempt(i, seed + i, _is_failing(i, failure_fraction), tuple(perturbations))
                for i in range(before, num_episodes)
            ]
            _write(recorder, attempts, source.run(attempts), progress_bar=progress_bar)
    return RecordSummary(
        recorder.root,
        recorder.num_episodes,
        recorder.num_frames,
        sum(row.success for row in recorder.episodes),
        recorder.num_episodes - before,
    )


def _make_scripted(env_id: str, env_kwargs: dict[str, Any]) -> ScriptedEnvironment:
    env = make_single(env_id, **env_kwargs)
    if not hasattr(env, "make_expert"):
        env.close()
        raise ValueError(f"{env_id!r} has no scripted expert to record (`make_expert`)")
    return cast("ScriptedEnvironment", env)


def _is_failing(number: int, fraction: float) -> bool:
    # Multiples of the golden ratio fill the unit interval evenly without being periodic, so that
    # neither "every tenth episode" nor the share in a short recording is biased.
    return bool((number + 1) * _GOLDEN_RATIO % 1 < fraction)


def _recorder(
    spec: EpisodeSpec, env_id: str, root: Path, provenance: Mapping[str, Any]
) -> DatasetRecorder:
    return DatasetRecorder(
        root,
        fps=spec.fps,
        cameras=spec.cameras,
        state_dim=spec.state_dim,
        action_dim=spec.action_dim,
        robot_type=env_id,
        extra_features=dict.fromkeys(("phase", "primitive", "primitive_group"), "label"),
        provenance=provenance,
        resume=True,
    )


def _write(
    recorder: DatasetRecorder,
    attempts: Sequence[Attempt],
    episodes: Iterator[Episode],
    *,
    progress_bar: bool,
) -> None:
    start = recorder.num_episodes
    with tqdm(
        total=start + len(attempts),
        initial=start,
        desc="recording",
        unit="episode",
        disable=not progress_bar,
    ) as bar:
        for attempt, episode in zip(attempts, episodes, strict=True):
            recorder.add_episode(
                episode.frames,
                state=episode.state,
                action=episode.action,
                reward=episode.reward,
                success=episode.success,
                done=episode.done,
                task=episode.task,
                seed=attempt.seed,
                failure=episode.failure,
                extra={
                    "phase": episode.phases,
                    "primitive": episode.primitives,
                    "primitive_group": [primitive_group(name) for name in episode.primitives],
                },
            )
            bar.update()
