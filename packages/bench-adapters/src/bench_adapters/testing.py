"""Sample makers and conformance checks; a check names the first clause that is broken."""

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench_adapters.envs.base import EnvChunk, Environment
from bench_adapters.envs.toy import ReachEnvironment
from bench_adapters.errors import SimulatorUnavailableError
from bench_adapters.types import ChunkStep, Observation, Policy, VectorEnv

__all__ = [
    "FaultyEnvironment",
    "RandomPolicy",
    "check_environment",
    "check_observation",
    "check_policy",
    "check_vector_env",
    "make_observation",
    "random_policy",
]


class Actions(NamedTuple):
    """The smallest `ActOutput`."""

    actions: NDArray[np.float32]
    """``(n, k, a)``."""


class RandomPolicy:
    """Draws actions uniformly from [-1, 1].

    Args:
        action_dim: Size of an action.
        chunk: Actions per call.
        seed: Of its own generator, used when ``act`` gets none.
    """

    def __init__(self, action_dim: int, *, chunk: int = 1, seed: int = 0) -> None:
        self._shape = (chunk, action_dim)
        self._rng = np.random.default_rng(seed)

    @staticmethod
    def make_generator(seed: int) -> np.random.Generator:
        """Return the kind of generator that ``act`` takes."""
        return np.random.default_rng(seed)

    def act(
        self, obs: Observation, *, generator: Any = None, deterministic: bool = False
    ) -> Actions:
        """Return ``(n, k, a)`` actions; all zeros when ``deterministic``."""
        shape = (len(obs["task"]), *self._shape)
        if deterministic:
            return Actions(np.zeros(shape, np.float32))
        rng = self._rng if generator is None else generator
        return Actions(rng.uniform(-1.0, 1.0, shape).astype(np.float32))


def random_policy(env: VectorEnv, *, chunk: int = 4) -> RandomPolicy:
    """Return a `RandomPolicy` for ``env``; a factory for the command line's ``--policy``."""
    return RandomPolicy(_action_dim(env), chunk=chunk)


class FaultyEnvironment(ReachEnvironment):
    """``toy:reach`` that goes wrong, to test what happens around it.

    Args:
        fault: ``raise`` (RuntimeError), ``unavailable`` (SimulatorUnavailableError), ``exit`` (the
            process ends), ``hang`` (for an hour), ``shape`` (an observation that does not fit
            its space) or ``nan`` (a reward that is not finite).
        seed: The episode in which it happens.
        at_build: Go wrong in the constructor.
        once: A file that is made when it goes wrong; where it exists, all goes well. So a fault
            passes, even in another process.
    """

    def __init__(
        self, *, fault: str, seed: int = 1, at_build: bool = False, once: Path | None = None
    ) -> None:
        super().__init__()
        self._fault, self._fault_seed, self._seed = fault, seed, -1
        self._once = once
        if at_build:
            self._go_wrong()

    def reset(self, seed: int) -> dict[str, Any]:
        """Start an episode."""
        self._seed = seed
        return super().reset(seed)

    def step_chunk(self, actions: NDArray[np.float32]) -> EnvChunk:
        """Go wrong in the episode of the faulty seed."""
        chunk = super().step_chunk(actions)
        if self._seed != self._fault_seed or (self._once is not None and self._once.exists()):
            return chunk
        if self._once is not None:
            self._once.touch()
        if self._fault == "shape":
            return chunk._replace(
                observation=chunk.observation | {"observation.state": np.zeros(3, np.float32)}
            )
        if self._fault == "nan":
            return chunk._replace(reward=np.full_like(chunk.reward, np.nan))
        self._go_wrong()
        return chunk

    def _go_wrong(self) -> None:
        if self._fault == "raise":
            raise RuntimeError("the gripper fell off")
        if self._fault == "unavailable":
            raise SimulatorUnavailableError("there is no simulator here")
        if self._fault == "exit":
            os._exit(3)
        time.sleep(3600.0)


def make_observation(
    n: int = 2,
    *,
    cameras: Mapping[str, tuple[int, int]] | None = None,
    state_dim: int = 4,
    seed: int = 0,
) -> Observation:
    """Return a random batch of ``n`` observations.

    Args:
        n: Batch size.
        cameras: Height and width by camera name; one of 32 × 32 named ``top`` when None.
        state_dim: Size of ``observation.state``.
        seed: Same seed, same observations.
    """
    rng = np.random.default_rng(seed)
    sizes = {"top": (32, 32)} if cameras is None else cameras
    return {
        **{
            f"observation.images.{name}": rng.integers(0, 256, (n, *size, 3), np.uint8)
            for name, size in sizes.items()
        },
        "observation.state": rng.standard_normal((n, state_dim)).astype(np.float32),
        "task": [f"task {i}" for i in range(n)],
    }


def check_observation(obs: Observation, n: int) -> None:
    """Assert that ``obs`` is a batch of ``n`` observations."""
    images = [key for key in obs if key.startswith("observation.images.")]
    unknown = set(obs) - {*images, "observation.state", "task"}
    assert not unknown, f"unknown observation keys {sorted(unknown)}"
    for key in images:
        image = obs[key]
        assert image.dtype == np.uint8, f"{key} is {image.dtype}, expected uint8"
        assert image.ndim == 4, f"{key} has shape {image.shape}, expected (n, h, w, 3)"
        assert (len(image), image.shape[-1]) == (n, 3), f"{key} has shape {image.shape}"
    state = obs["observation.state"]
    assert state.dtype == np.float32, f"observation.state is {state.dtype}, expected float32"
    assert state.ndim == 2, f"observation.state has shape {state.shape}, expected (n, p)"
    assert len(state) == n, f"observation.state has {len(state)} rows, expected {n}"
    assert np.isfinite(state).all(), "observation.state is not finite"
    task = obs["task"]
    assert isinstance(task, list), f"task is a {type(task).__name__}, expected a list"
    assert len(task) == n, f"task has {len(task)} entries, expected {n}"
    assert all(isinstance(text, str) for text in task), "task holds something else than str"


def check_policy(policy: Policy, obs: Observation, *, action_dim: int | None = None) -> None:
    """Assert that ``policy`` answers ``obs`` with finite ``(n, k, a)`` actions."""
    n = len(obs["task"])
    for deterministic in (False, True):
        actions = policy.act(obs, deterministic=deterministic).actions
        array = np.asarray(
            actions.detach().float().cpu() if hasattr(actions, "detach") else actions
        )
        assert array.ndim == 3, f"actions have shape {array.shape}, expected (n, k, a)"
        assert len(array) == n, f"actions have {len(array)} rows for {n} observations"
        assert array.shape[1] >= 1, "actions hold no step"
        assert action_dim in (None, array.shape[2]), (
            f"actions have size {array.shape[2]}, expected {action_dim}"
        )
        assert np.isfinite(array).all(), "actions are not finite"


def check_environment(env: Environment, *, chunk: int = 4, seed: int = 0) -> None:
    """Assert that ``env`` keeps the promises of `Environment`; leaves it reset."""
    for key, box in env.observation_space.items():
        assert key.startswith("observation."), f"unknown observation key {key!r}"
        dtype = np.uint8 if "images" in key else np.float32
        assert box.dtype == dtype, f"{key} has space dtype {box.dtype}, expected {dtype.__name__}"
    assert env.max_episode_steps >= 1, f"max_episode_steps is {env.max_episode_steps}"
    assert env.fps >= 1, f"fps is {env.fps}"
    first, again = _episode(env, chunk, seed), _episode(env, chunk, seed)
    other = env.reset(seed + 1)
    _assert_equal(first[0], again[0], "two resets with one seed gave different")
    assert not np.array_equal(other["observation.state"], first[0]["observation.state"]) or any(
        not np.array_equal(other[k], first[0][k]) for k in other if "images" in k
    ), "two seeds gave the same observation"
    assert len(first[1]) == len(again[1]), "one seed and the same actions gave different lengths"
    for a, b in zip(first[1], again[1], strict=True):
        _assert_equal(a.observation, b.observation, "same seed, same actions, different")
        np.testing.assert_array_equal(a.reward, b.reward, "same seed, same actions: rewards")


def _episode(env: Environment, chunk: int, seed: int) -> tuple[dict[str, Any], list[EnvChunk]]:
    """Play random actions until the end, checking each chunk."""
    observation = env.reset(seed)
    rng = np.random.default_rng(seed)
    chunks: list[EnvChunk] = []
    ended, length = False, 0
    while not ended:
        actions = rng.uniform(-1, 1, (chunk, *env.action_space.shape)).astype(np.float32)
        step = env.step_chunk(actions)
        for key, box in env.observation_space.items():
            assert box.contains(step.observation[key]), f"{key} is outside its space"
        assert isinstance(step.observation["task"], str), "task is not a str"
        _check_rows(*(np.asarray(field)[None] for field in step[1:]), live=np.array([True]))
        chunks.append(step)
        length += int(step.valid.sum())
        ended = bool((step.terminated | step.truncated).any())
        assert ended or length < env.max_episode_steps, "the time limit passed without truncation"
    assert length <= env.max_episode_steps, f"{length} steps, limit {env.max_episode_steps}"
    after = env.step_chunk(np.zeros((1, *env.action_space.shape), np.float32))
    assert not after.valid.any(), "an ended environment executed an action"
    return observation, chunks


def check_vector_env(env: VectorEnv, *, chunk: int = 3, seed: int = 0) -> None:
    """Assert that ``env`` keeps the promises of `types.VectorEnv`; leaves it reset."""
    n = env.num_envs
    mode = env.metadata.get("autoreset_mode")
    assert mode is not None, "metadata['autoreset_mode'] is not declared"
    assert getattr(mode, "name", mode) == "DISABLED", f"autoreset mode is {mode}, not DISABLED"
    obs, _ = env.reset(seed=seed)
    check_observation(obs, n)
    listed, _ = env.reset(seed=list(range(seed, seed + n)))
    _assert_equal(obs, listed, "seed s and seeds s, s + 1, … gave different")
    rng = np.random.default_rng(seed)
    action_dim = _action_dim(env)
    live = np.ones(n, bool)
    length = np.zeros(n, int)
    while live.any():
        actions = rng.uniform(-1, 1, (n, chunk, action_dim)).astype(np.float32)
        before, step = obs, env.step_chunk(actions)
        obs = step.observation
        _check_chunk(step, n, chunk, live)
        for i in np.flatnonzero(~live):
            _assert_equal(_row(before, i), _row(obs, i), f"ended environment {i} changed its")
        length += step.valid.sum(axis=1)
        live &= ~(step.terminated | step.truncated).any(axis=1)
        assert length.max() <= env.max_episode_steps, "an episode went past max_episode_steps"
    mask = np.arange(n) == n - 1
    restarted, _ = env.reset(seed=[seed] * n, options={"reset_mask": mask})
    for row in range(n - 1):
        _assert_equal(
            _row(obs, row), _row(restarted, row), f"reset_mask did not spare row {row} of"
        )
    _check_refusals(env, action_dim, chunk)
    env.reset(seed=seed)


def _action_dim(env: VectorEnv) -> int:
    space = getattr(env, "single_action_space", None)
    assert space is not None, "single_action_space is missing"
    return int(space.shape[0])


def _check_chunk(step: ChunkStep, n: int, k: int, live: NDArray[np.bool_]) -> None:
    check_observation(step.observation, n)
    success = step.info["success"]
    fields = (step.reward, step.terminated, step.truncated, step.valid, success)
    for name, array in zip(("reward", "terminated", "truncated", "valid"), fields, strict=False):
        assert array.shape == (n, k), f"{name} has shape {array.shape}, expected {(n, k)}"
    _check_rows(*fields, live=live)
    ended = (step.terminated | step.truncated).any(axis=1)
    np.testing.assert_array_equal(step.info["_final_obs"], ended, "_final_obs marks other rows")
    check_observation(step.info["final_obs"], n)


def _check_rows(
    reward: NDArray[Any],
    terminated: NDArray[Any],
    truncated: NDArray[Any],
    valid: NDArray[Any],
    success: NDArray[Any],
    *,
    live: NDArray[np.bool_],
) -> None:
    assert reward.dtype == np.float32, f"reward is {reward.dtype}, expected float32"
    masks = {"terminated": terminated, "truncated": truncated, "valid": valid, "success": success}
    for name, mask in masks.items():
        assert mask.dtype == bool, f"{name} is {mask.dtype}, expected bool"
        assert not (mask & ~valid).any(), f"{name} is set at a step that was not executed"
    assert not reward[~valid].any(), "reward at a step that was not executed"
    assert not (valid[:, 1:] & ~valid[:, :-1]).any(), "a step was executed after a skipped one"
    assert not (terminated & truncated).any(), "a step both terminated and truncated"
    ends = terminated | truncated
    assert (ends.sum(axis=1) <= 1).all(), "an episode ended twice in a chunk"
    after_end = np.cumsum(ends, axis=1) - ends > 0
    assert not (valid & after_end).any(), "an action after the episode's end was executed"
    np.testing.assert_array_equal(
        valid.all(axis=1) | ends.any(axis=1),
        live,
        "a live environment skipped, or an ended one ran",
    )


def _check_refusals(env: VectorEnv, action_dim: int, k: int) -> None:
    env.reset(seed=0)
    good = np.zeros((env.num_envs, k, action_dim), np.float32)
    broken = good.copy()
    broken[-1, -1, -1] = np.nan
    wide = np.zeros((env.num_envs, k, action_dim + 1), np.float32)
    for name, actions in (("NaN", broken), ("too wide", wide)):
        try:
            env.step_chunk(actions)
        except ValueError:
            continue
        raise AssertionError(f"{name} actions were accepted")


def _row(obs: Observation, index: Any) -> dict[str, Any]:
    return {key: values[index] for key, values in obs.items()}


def _assert_equal(a: Mapping[str, Any], b: Mapping[str, Any], message: str) -> None:
    keys: Sequence[str] = sorted(a)
    assert keys == sorted(b), f"{message} keys"
    for key in keys:
        assert np.array_equal(a[key], b[key]), f"{message} {key}"
