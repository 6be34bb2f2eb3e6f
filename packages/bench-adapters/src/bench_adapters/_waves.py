"""Episodes of an evaluation that run at the same time, one per environment."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench_adapters._journal import Record
from bench_adapters.errors import EnvFailure, WorkerError
from bench_adapters.types import (
    ChunkStep,
    EpisodeError,
    EpisodeResult,
    Observation,
    Policy,
    VectorEnv,
)

IMAGES = "observation.images."
ATTEMPTS = 2
"""How often an episode is begun that its simulator does not finish."""


class Wave(NamedTuple):
    """A wave to run."""

    first: int
    """Number of its first episode."""
    seeds: Sequence[int]
    """One per episode, at most one per environment."""
    filmed: frozenset[int]
    """Rows whose pictures are kept."""


class Film(NamedTuple):
    """Pictures of one episode."""

    frames: list[NDArray[np.uint8]]
    """``(h, w, 3)`` RGB, all cameras side by side; one per chunk."""
    steps_per_frame: int


class Outcome(NamedTuple):
    """How a wave went."""

    records: list[Record]
    films: dict[int, Film]
    """By row, of the filmed episodes that were finished."""


def run_wave(
    policy: Policy,
    env: VectorEnv,
    wave: Wave,
    make_generator: Callable[[int], Any] | None,
    *,
    deterministic: bool,
) -> Outcome:
    """Run every episode of a wave, once more if its simulator failed.

    A repetition starts from the same generator with the same rows, so that a policy that draws the
    same numbers for a row whatever the others do gives the episode that the failure prevented.
    """
    used = len(wave.seeds)
    pending = np.arange(env.num_envs) < used
    records: dict[int, Record] = {}
    films: dict[int, Film] = {}
    strikes = np.zeros(env.num_envs, int)
    while pending.any():
        generator = make_generator(wave.seeds[0]) if make_generator else None
        attempt = _Attempt(policy, env, wave, pending)
        attempt.run(generator, deterministic=deterministic)
        for row in np.flatnonzero(attempt.finished).tolist():
            records[row] = attempt.result(row)
        films |= {row: film for row, film in attempt.films.items() if attempt.finished[row]}
        for row, failure in attempt.failures.items():
            strikes[row] += not failure.bystander
            if strikes[row] == ATTEMPTS:
                records[row] = EpisodeError(wave.first + row, int(wave.seeds[row]), failure.summary)
        pending[list(records)] = False
    return Outcome([records[row] for row in range(used)], films)


class _Attempt:
    """One go at the pending rows of a wave."""

    def __init__(
        self, policy: Policy, env: VectorEnv, wave: Wave, pending: NDArray[np.bool_]
    ) -> None:
        n = env.num_envs
        self._policy, self._env, self._wave = policy, env, wave
        self._live = pending.copy()
        self.finished = np.zeros(n, bool)
        self.failures: dict[int, EnvFailure] = {}
        self.films: dict[int, Film] = {}
        self._length = np.zeros(n, int)
        self._return = np.zeros(n)
        self._once, self._at_end = np.zeros(n, bool), np.zeros(n, bool)

    def run(self, generator: Any, *, deterministic: bool) -> None:
        """Step until every row has ended or failed."""
        env, live, seeds = self._env, self._live, self._wave.seeds
        padded = [*seeds, *[seeds[-1]] * (env.num_envs - len(seeds))]  # not read outside the mask
        obs, _ = self._guarded(env.reset, seed=padded, options={"reset_mask": live.copy()})
        self._film(obs, live)
        while live.any():
            output = self._policy.act(obs, generator=generator, deterministic=deterministic)
            actions = checked_actions(output, obs, live=live, steps=self._length)
            running = live.copy()
            chunk: ChunkStep = self._guarded(env.step_chunk, actions)
            self._count(chunk)
            obs = chunk.observation
            self._film(obs, running, steps_per_frame=actions.shape[1])

    def _guarded(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call the environment; rows that fail are left out, the others go on."""
        try:
            return call(*args, **kwargs)
        except WorkerError as error:
            if error.result is None or not error.failures:
                raise
            lost = {f.env_index: f for f in error.failures if self._live[f.env_index]}
            if all(failure.bystander for failure in lost.values()):
                # The culprit was not asked for: somebody has to take the blame, or it goes on for
                # ever, as where the process cannot be started again.
                lost = {row: failure._replace(bystander=False) for row, failure in lost.items()}
            self.failures |= lost
            self._live[list(lost)] = False
            return error.result

    def _count(self, chunk: ChunkStep) -> None:
        chunk = ChunkStep(*(as_array(field) for field in chunk))
        executed = chunk.valid.sum(axis=1)
        stuck = self._live & (executed == 0)
        if stuck.any() or self._length.max() > self._env.max_episode_steps:
            index = int(np.argmax(stuck))
            raise RuntimeError(
                f"environment {index} neither moves nor ends after {self._length[index]} steps; "
                f"its time limit is {self._env.max_episode_steps}"
            )
        success = as_array(chunk.info["success"]) & chunk.valid
        last = np.maximum(executed - 1, 0)
        now = success[np.arange(len(last)), last]
        self._at_end = np.where(executed > 0, now, self._at_end)
        self._once |= success.any(axis=1)
        self._length += executed
        self._return += np.where(chunk.valid, chunk.reward, 0.0).sum(axis=1)
        ended = self._live & (chunk.terminated | chunk.truncated).any(axis=1)
        self.finished |= ended
        self._live &= ~ended

    def _film(self, obs: Observation, rows: NDArray[np.bool_], steps_per_frame: int = 0) -> None:
        for row in self._wave.filmed:
            if rows[row]:
                film = self.films.get(row, Film([], steps_per_frame))
                film.frames.append(side_by_side(obs, row))
                self.films[row] = film._replace(
                    steps_per_frame=film.steps_per_frame or steps_per_frame
                )

    def result(self, row: int) -> EpisodeResult:
        """Return how the episode of a finished row went."""
        return EpisodeResult(
            episode=self._wave.first + row,
            seed=int(self._wave.seeds[row]),
            success_once=bool(self._once[row]),
            success_at_end=bool(self._at_end[row]),
            length=int(self._length[row]),
            episode_return=float(self._return[row]),
        )


def side_by_side(obs: Observation, row: int) -> NDArray[np.uint8]:
    """Return the pictures of all cameras of one environment next to each other.

    Args:
        obs: A batch of observations with at least one camera.
        row: Which of them.

    Returns:
        ``(h, w, 3)`` RGB; smaller pictures are black below.
    """
    pictures = [as_array(value[row]) for key, value in sorted(obs.items()) if IMAGES in key]
    height = max(len(picture) for picture in pictures)
    return np.concatenate(
        [np.pad(p, ((0, height - len(p)), (0, 0), (0, 0))) for p in pictures], axis=1
    )


def as_array(value: Any) -> Any:
    """Return a tensor of any device as an array; anything else as it is."""
    return value.detach().cpu().numpy() if hasattr(value, "detach") else value


def checked_actions(
    output: Any, obs: Observation, *, live: NDArray[np.bool_], steps: NDArray[Any]
) -> NDArray[np.float32]:
    """Return a policy's actions as an array.

    Args:
        output: What ``act`` returned; ``actions`` ``(n, k, a)`` is an array or a tensor on any
            device.
        obs: What it answers.
        live: ``(n,)``, the rows that will be executed; the others may hold anything.
        steps: ``(n,)``, primitive steps executed so far, for the message.

    Raises:
        TypeError: If there are no ``actions`` or they are not numbers.
        ValueError: If the shape is wrong or a live row is not finite.
    """
    actions: Any = getattr(output, "actions", None)
    step = int(steps[live].max())
    if hasattr(actions, "detach"):  # a torch tensor, maybe bfloat16 or on another device
        actions = actions.detach().float().cpu()
    try:
        if actions is None:
            raise TypeError("there are none")
        array = np.asarray(actions, np.float32)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"the policy returned a {type(output).__name__} at step {step} whose `actions` are no "
            f"array of numbers ({error}); expected ({len(obs['task'])}, k, a)"
        ) from error
    n = len(obs["task"])
    if array.ndim != 3 or len(array) != n or array.shape[1] < 1:
        raise ValueError(
            f"the policy returned actions of shape {array.shape} at step {step}; "
            f"expected ({n}, k, a) with k ≥ 1"
        )
    bad = ~np.isfinite(array) & live[:, None, None]
    if bad.any():
        env, offset, dim = np.argwhere(bad)[0]
        raise ValueError(
            f"the policy returned {array[env, offset, dim]} for environment {env} at step "
            f"{steps[env] + offset}, action dimension {dim}; expected finite numbers"
        )
    return array
