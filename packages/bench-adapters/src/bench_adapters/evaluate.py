"""Evaluation: every seed once, finished episodes kept, timeouts counted as failures."""

import platform
from collections.abc import Callable, Collection, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from bench_adapters._files import read_json
from bench_adapters._journal import Journal, Record
from bench_adapters._waves import IMAGES, Outcome, Wave, run_wave
from bench_adapters.errors import WorkerError
from bench_adapters.functional.scores import success_summary
from bench_adapters.specs import check_specs
from bench_adapters.types import EpisodeError, EpisodeResult, EvaluationResult, Policy, VectorEnv
from bench_adapters.video import write_video

__all__ = ["SCHEMA_VERSION", "evaluate", "read_result"]

SCHEMA_VERSION = 1
"""Of the result file."""


def evaluate(  # noqa: PLR0913  # settings of a run, by name
    policy: Policy,
    env: VectorEnv,
    *,
    seeds: Sequence[int],
    deterministic: bool = False,
    make_generator: Callable[[int], Any] | None = None,
    out: Path | str | None = None,
    videos: int | Collection[int] = 0,
    max_errors: int = 10,
    suite: str = "",
    env_id: str = "",
    policy_name: str = "",
    progress_bar: bool = True,
) -> EvaluationResult:
    """Run one episode per seed and count successes.

    Episodes run in waves of ``env.num_envs``; the last one may be smaller. After each wave its
    episodes go to ``<out>.partial.jsonl``, from which a run that was stopped goes on, with the same
    result as one that was not if the policy draws from the generator alone.

    Success counts twice: *once*, at any step, and *at end*, at the last one. Where the environment
    ends an episode at its success the two agree; where it goes on (`ManiSkillEnvironment` with
    ``ignore_terminations``, ``put_on_plate``) something may be undone again. A time limit without
    success is a failure.

    An episode that is lost to its simulator (`WorkerError`) is begun once more with the same seed;
    the second time it is recorded under ``errors``, which no rate counts, and the run goes on. A
    run that was stopped and is started again tries its wave anew.

    Args:
        policy: Chooses action chunks; a ``versions`` dict of it is stored if there is one, and
            what it declares of its actions and observations is compared first (`check_specs`).
        env: Environments whose auto-reset is disabled.
        seeds: Seed of each episode, in order.
        deterministic: Handed to the policy: its mode, not a sample.
        make_generator: Called with a wave's first seed at its start; what it returns is handed to
            the policy. None hands over None.
        out: File for the result, as JSON.
        videos: Film the first so many episodes, or those of these seeds, as
            ``<out>.videos/episode_<number>_seed_<seed>.mp4``: all cameras side by side in simulated
            time, with the one frame per chunk that the policy saw.
        max_errors: Episodes that may be recorded under ``errors`` before the run is given up.
        suite: Name of the protocol, for the record.
        env_id: Name of the environment; ``env.env_id`` when empty.
        policy_name: Name of the policy; its class when empty.
        progress_bar: Show one.

    Raises:
        SpecMismatchError: If the policy was made for other actions or observations.
        TypeError: If the policy's answer holds no numbers.
        ValueError: If an argument is out of range, ``out`` was begun with other settings, or the
            policy's actions are of the wrong shape or not finite; finished waves are kept.
        FileExistsError: If ``out`` exists.
        PermissionError: If ``out`` cannot be written.
        WorkerError: If more than ``max_errors`` episodes, or all, cannot be run; finished waves are
            kept.
    """
    if not len(seeds) or min(seeds) < 0:
        raise ValueError(f"Expected at least one seed ≥ 0 in `seeds`, got {list(seeds)}.")
    if max_errors < 0:
        raise ValueError(f"Expected `max_errors` ≥ 0, got {max_errors}.")
    check_specs(policy, env)
    header: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "suite": suite,
        "env_id": env_id or getattr(env, "env_id", ""),
        "policy": policy_name or type(policy).__name__,
        "deterministic": deterministic,
        "num_envs": env.num_envs,
        "seeds": [int(seed) for seed in seeds],
        "videos": _filmed(videos, seeds, env, out),
    }
    versions = _versions(policy, env)
    limits = {"max_episode_steps": env.max_episode_steps, "versions": versions}
    journal = Journal(Path(out), header | limits) if out is not None else None
    waves = dict(journal.waves) if journal else {}
    records = [record for wave in waves.values() for record in wave]
    with tqdm(
        total=len(seeds),
        initial=len(records),
        desc="evaluating",
        unit="episode",
        disable=not progress_bar,
    ) as bar:
        for first in range(0, len(seeds), env.num_envs):
            if first in waves:
                continue
            _raise_if_hopeless(records, max_errors)
            wave = _wave(header, first)
            outcome = run_wave(policy, env, wave, make_generator, deterministic=deterministic)
            if out is not None:  # before the journal, so that a finished wave has its videos
                _write_videos(Path(out), outcome, wave, getattr(env, "fps", 1))
            if journal:
                journal.append(outcome.records)
            waves[first] = outcome.records
            records += outcome.records
            bar.update(len(outcome.records))
            played = [record for record in records if isinstance(record, EpisodeResult)]
            rate = sum(episode.success_once for episode in played) / max(1, len(played))
            bar.set_postfix(success=f"{rate:.0%}")
    _raise_if_hopeless(records, min(max_errors, len(records) - 1))
    result = _summarize(header, [r for first in sorted(waves) for r in waves[first]], versions)
    if journal:
        journal.finish(result)
    return result


def read_result(path: Path | str) -> EvaluationResult:
    """Read an evaluation file.

    Raises:
        ValueError: If it is not an evaluation of this schema version; the message names both.
    """
    content = read_json(Path(path))
    found = content.get("schema_version") if isinstance(content, dict) else None
    if found != SCHEMA_VERSION:
        raise ValueError(
            f"{path} has schema version {found!r}, this release reads {SCHEMA_VERSION}; read it "
            f"with the release that wrote it, or evaluate again"
        )
    try:
        episodes = [EpisodeResult(**episode) for episode in content.pop("episodes")]
        errors = [EpisodeError(**error) for error in content.pop("errors")]
        return EvaluationResult(episodes=episodes, errors=errors, **content)
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is not a complete evaluation ({error}); evaluate again"
        ) from error


def _filmed(
    videos: int | Collection[int], seeds: Sequence[int], env: VectorEnv, out: Path | str | None
) -> list[int]:
    """Return the numbers of the episodes to film."""
    if isinstance(videos, int):
        if videos < 0:
            raise ValueError(f"Expected `videos` ≥ 0, got {videos}.")
        numbers = list(range(min(videos, len(seeds))))
    else:
        unknown = set(videos) - set(seeds)
        if unknown:
            raise ValueError(f"Expected `videos` to be of `seeds`, got {sorted(unknown)} too.")
        numbers = [number for number, seed in enumerate(seeds) if seed in set(videos)]
    if numbers and out is None:
        raise ValueError(f"Expected `out`, beside which the {len(numbers)} `videos` go, got None.")
    space = getattr(env, "single_observation_space", None)
    if numbers and space is not None and not any(IMAGES in key for key in space):
        raise ValueError("Expected an environment with a camera for `videos`, it has none.")
    return numbers


def _wave(header: dict[str, Any], first: int) -> Wave:
    seeds = header["seeds"][first : first + header["num_envs"]]
    return Wave(
        first, seeds, frozenset(n - first for n in header["videos"] if 0 <= n - first < len(seeds))
    )


def _write_videos(out: Path, outcome: Outcome, wave: Wave, fps: int) -> None:
    for row, film in sorted(outcome.films.items()):
        name = f"episode_{wave.first + row:06d}_seed_{wave.seeds[row]}.mp4"
        path = out.with_name(f"{out.name}.videos") / name
        write_video(path, np.stack(film.frames), max(1, round(fps / film.steps_per_frame)))


def _raise_if_hopeless(records: Sequence[Record], max_errors: int) -> None:
    errors = [record for record in records if isinstance(record, EpisodeError)]
    if len(errors) > max_errors:
        last = errors[-1]
        raise WorkerError(
            f"{len(errors)} of {len(records)} episodes could not be run, twice each; the last was "
            f"episode {last.episode} of seed {last.seed}: {last.message}",
            env_index=-1,
        )


def _summarize(
    header: dict[str, Any], records: Sequence[Record], versions: dict[str, str]
) -> EvaluationResult:
    episodes = [record for record in records if isinstance(record, EpisodeResult)]
    return EvaluationResult(
        schema_version=SCHEMA_VERSION,
        suite=header["suite"],
        env_id=header["env_id"],
        policy=header["policy"],
        deterministic=header["deterministic"],
        episodes=episodes,
        success_once=success_summary([episode.success_once for episode in episodes]),
        success_at_end=success_summary([episode.success_at_end for episode in episodes]),
        versions=versions,
        errors=[record for record in records if isinstance(record, EpisodeError)],
    )


def _versions(policy: Policy, env: VectorEnv) -> dict[str, str]:
    packages = ("bench-adapters", "gymnasium", "numpy")
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        **getattr(env, "versions", {}),
        **getattr(policy, "versions", {}),
    }
