"""A share of a vector's environments, stepped one after the other, in this process or another."""

import contextlib
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from bench_adapters._workers import ArrayBlock, Layout
from bench_adapters.envs.base import EnvChunk, Environment
from bench_adapters.errors import EnvFailure, SimulatorUnavailableError, WorkerError
from bench_adapters.specs import ActionSpec

# About the arguments or the machine, not about one environment: passed on as they are.
BUILD_ERRORS = (ValueError, TypeError, SimulatorUnavailableError)

EnvFactory = Callable[[], Environment]


class EnvSpec(NamedTuple):
    """What all environments of a vector have in common."""

    env_id: str
    observation_space: spaces.Dict
    action_space: spaces.Box
    max_episode_steps: int
    fps: int
    versions: dict[str, str]
    action_spec: ActionSpec | None


class Share:
    """Environments ``first`` to ``first + count - 1`` of a vector.

    An environment that fails is closed and becomes an `EnvFailure` in the answer; the others go on,
    and its next reset builds it anew.

    Args:
        env_fn: Builds one environment.
        first: Index of the first one in the vector.
        count: How many there are.
        busy: ``busy[0]`` is set to the index of the environment at work, for whoever watches.

    Raises:
        WorkerError: If an environment cannot be built; a complaint about the arguments or the
            machine (`BUILD_ERRORS`) is passed on as it is.
    """

    def __init__(
        self, env_fn: EnvFactory, *, first: int, count: int, busy: NDArray[np.int64]
    ) -> None:
        self.envs: dict[int, Environment] = {}
        self.arrays: Mapping[str, NDArray[Any]] = {}
        self._env_fn = env_fn
        self._busy = busy
        try:
            for index in range(first, first + count):
                failure = self._guarded(index, "built", self._build, index, passing=BUILD_ERRORS)
                if failure is not None:
                    raise WorkerError(failure.summary, env_index=index, traceback=failure.traceback)
        except BaseException:
            self.close()
            raise

    def specs(self) -> dict[int, EnvSpec]:
        """Return the specification of each environment, by index."""
        return {
            index: EnvSpec(
                env.env_id,
                env.observation_space,
                env.action_space,
                env.max_episode_steps,
                env.fps,
                dict(env.versions),
                getattr(env, "action_spec", None),
            )
            for index, env in self.envs.items()
        }

    def reset(self, seeds: Mapping[int, int]) -> dict[int, str | EnvFailure]:
        """Reset the environments of ``seeds`` and return their instructions."""
        return {
            index: self._guarded(index, "reset", self._reset, index, seed)
            for index, seed in seeds.items()
        }

    def step(self, actions: Mapping[int, NDArray[np.float32]]) -> dict[int, EnvChunk | EnvFailure]:
        """Execute a chunk in each environment of ``actions``; observations go to the arrays."""
        return {
            index: self._guarded(index, "stepped", self._step, index, chunk_actions)
            for index, chunk_actions in actions.items()
        }

    def close(self) -> None:
        """Close the environments."""
        while self.envs:
            self.envs.popitem()[1].close()

    def _build(self, index: int) -> None:
        self.envs[index] = self._env_fn()

    def _reset(self, index: int, seed: int) -> str:
        if index not in self.envs:
            self._build(index)
        observation = self.envs[index].reset(seed)
        self._store(index, observation)
        return str(observation["task"])

    def _step(self, index: int, actions: NDArray[np.float32]) -> EnvChunk:
        chunk = self.envs[index].step_chunk(actions)
        _check_chunk(chunk, len(actions))
        self._store(index, chunk.observation)
        return chunk._replace(observation={})

    def _store(self, index: int, observation: Mapping[str, Any]) -> None:
        for key, rows in self.arrays.items():
            value = np.asarray(observation[key])
            if value.shape != rows.shape[1:] or value.dtype != rows.dtype:
                raise ValueError(
                    f"observation {key!r} is {value.dtype} {value.shape}, but the environment's "
                    f"observation space says {rows.dtype} {rows.shape[1:]}"
                )
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                raise ValueError(f"observation {key!r} is not finite: {value}")
        for key, rows in self.arrays.items():
            rows[index] = observation[key]

    def _guarded(
        self,
        index: int,
        doing: str,
        call: Callable[..., Any],
        *args: Any,
        passing: tuple[type[Exception], ...] = (),
    ) -> Any:
        self._busy[0] = index
        try:
            return call(*args)
        except Exception as error:
            if type(error) in passing:
                raise
            text = traceback.format_exc()
            broken = self.envs.pop(index, None)
            if broken is not None:
                with contextlib.suppress(Exception):  # what failed may not close either
                    broken.close()
            return EnvFailure(
                index,
                f"environment {index} failed while it was being {doing}: "
                f"{type(error).__name__}: {error}",
                text,
            )


def _check_chunk(chunk: EnvChunk, k: int) -> None:
    for name, values in chunk._asdict().items():
        if name != "observation" and np.shape(values) != (k,):
            raise ValueError(f"`{name}` has shape {np.shape(values)}, expected {(k,)}")
    bad = np.flatnonzero(~np.isfinite(chunk.reward))
    if len(bad):
        raise ValueError(f"the reward of step {bad[0]} of the chunk is {chunk.reward[bad[0]]}")


def serve_share(
    connection: Connection, env_fn: EnvFactory, first: int, count: int, busy_name: str, slot: int
) -> None:
    """Run a `Share` on the far side of a pipe until the pipe closes.

    Requests are ``(method, argument)``, answers the method's result. The first answer, unasked, is
    `Share.specs`, an `EnvFailure` or one of `BUILD_ERRORS`. ``("attach", (name, layout))`` maps the
    memory that observations go to.

    Args:
        connection: This side of the pipe.
        env_fn: Builds one environment.
        first: Index of the share's first environment.
        count: How many environments it has.
        busy_name: Shared memory with one int64 per worker.
        slot: Which of them is this worker's.
    """
    busy = ArrayBlock({"busy": ((slot + 1,), np.dtype(np.int64))}, busy_name)
    block: ArrayBlock | None = None
    share: Share | None = None
    try:
        share = Share(env_fn, first=first, count=count, busy=busy.arrays["busy"][slot:])
        connection.send(share.specs())
        while True:
            method, argument = connection.recv()
            if method == "attach":
                name, layout = argument
                block = ArrayBlock(_as_layout(layout), name)
                share.arrays = block.arrays
                connection.send(None)
            else:
                connection.send(getattr(share, method)(argument))
    except WorkerError as error:
        connection.send(EnvFailure(error.env_index, error.summary, error.traceback))
    except BUILD_ERRORS as error:
        error.add_note(traceback.format_exc())
        connection.send(error)
    except EOFError:
        if share is not None:
            share.close()
    finally:
        if block is not None:
            block.close()
        busy.close()


def _as_layout(layout: Mapping[str, tuple[tuple[int, ...], str]]) -> Layout:
    return {key: (tuple(shape), np.dtype(dtype)) for key, (shape, dtype) in layout.items()}
