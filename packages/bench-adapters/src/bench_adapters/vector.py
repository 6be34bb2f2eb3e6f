"""Several environments behind one batched interface, in this process or in worker processes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from bench_adapters._backends import InProcess, Workers
from bench_adapters._shares import EnvFactory
from bench_adapters.errors import EnvFailure, WorkerError
from bench_adapters.types import ChunkStep, Info, Observation

__all__ = ["ProcessVectorEnv"]

BoolArray = NDArray[np.bool_]


class ProcessVectorEnv(VectorEnv[Observation, NDArray[np.float32], NDArray[Any]]):
    """``num_envs`` copies of an environment, stepped together (see `types.VectorEnv`).

    Auto-reset is disabled: an environment whose episode ended executes nothing, reports
    ``valid`` false and repeats its last observation until it is reset. For that reason
    ``info["final_obs"]`` shares its arrays with the observation.

    With worker processes each worker owns a fixed, contiguous share of the environments, frames and
    states come through shared memory, and an episode does not depend on the number of workers. A
    script that starts workers needs the ``if __name__ == "__main__":`` guard.

    An environment that raises, hangs, dies or gives numbers that cannot be right is reported once,
    as a `WorkerError` that also holds what the call gave for the others. It counts as ended, and
    its next reset builds it anew, in a new process where the old one was lost; so
    ``reset(seed=…, options={"reset_mask": mask})`` goes on with the vector. In a worker it loses
    its own episode only, unless the process dies or hangs: then all of that worker's.

    Args:
        env_fn: Builds one `Environment`; picklable when there are workers.
        num_envs: Number of environments.
        num_workers: Number of processes; 0 steps one environment after the other in this one.
        timeout_s: Longest time, in seconds, that a worker may take to build its environments or to
            answer a call.

    Raises:
        ValueError: If an argument is out of range or the environments differ from one another.
        WorkerError: If an environment cannot be built. A ValueError, TypeError or
            SimulatorUnavailableError of ``env_fn`` is passed on as it is.
    """

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.DISABLED}  # noqa: RUF012 gymnasium's

    def __init__(
        self,
        env_fn: EnvFactory,
        num_envs: int,
        *,
        num_workers: int = 0,
        timeout_s: float = 300.0,
    ) -> None:
        self.closed = True  # until there is something to close
        if num_envs < 1:
            raise ValueError(f"Expected `num_envs` of at least 1, got {num_envs}.")
        if not 0 <= num_workers <= num_envs:
            raise ValueError(
                f"Expected `num_workers` from 0 to `num_envs` ({num_envs}), got {num_workers}."
            )
        if not timeout_s > 0:
            raise ValueError(f"Expected positive `timeout_s`, got {timeout_s}.")
        self.num_envs = num_envs
        self._backend = (
            Workers(env_fn, num_envs, num_workers, timeout_s)
            if num_workers
            else InProcess(env_fn, num_envs)
        )
        self.closed = False
        specs = self._backend.specs
        spec = specs[0]
        for index, other in specs.items():
            if other != spec:
                self.close()
                raise ValueError(
                    f"environment {index} differs from environment 0: {other} and {spec}"
                )
        self.env_id = spec.env_id
        self.max_episode_steps = spec.max_episode_steps
        self.fps = spec.fps
        self.versions = dict(spec.versions)
        self.action_spec = spec.action_spec
        self.single_observation_space = spec.observation_space
        self.single_action_space = spec.action_space
        self.observation_space = batch_space(spec.observation_space, num_envs)
        self.action_space = batch_space(spec.action_space, num_envs)
        self._tasks = [""] * num_envs
        self._ended = np.ones(num_envs, bool)
        self._seed_of = np.full(num_envs, -1)
        self._elapsed = np.zeros(num_envs, int)
        self._was_reset = False

    def reset(
        self,
        *,
        seed: int | Sequence[int] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Observation, Info]:
        """Start new episodes.

        Environments outside ``reset_mask`` go on as they are. One that was never reset counts as
        ended; its observation is zeros and its task empty.

        Args:
            seed: One seed per environment; an int ``s`` means ``s, s + 1, …``; None draws them.
            options: ``{"reset_mask": (n,) bool}`` restarts only those; their seeds are read at the
                same positions of ``seed``.

        Returns:
            Observations of all environments, and ``seed`` ``(n,)`` with mask ``_seed``.

        Raises:
            ValueError: If ``seed`` or ``options`` do not fit.
            WorkerError: If an environment fails; it counts as ended, ``result`` holds the rest.
        """
        mask = self._reset_mask(options)
        seeds = self._seeds(seed)
        tasks, failures = self._call("reset", {int(i): int(seeds[i]) for i in np.flatnonzero(mask)})
        for index, task in tasks.items():
            self._tasks[index] = task
        done = np.isin(np.arange(self.num_envs), list(tasks))
        self._ended &= ~done
        self._seed_of[mask], self._elapsed[mask] = seeds[mask], 0
        self._was_reset = True
        result: tuple[Observation, Info] = (self._observation(), {"seed": seeds, "_seed": done})
        self._raise_for(failures, result)
        return result

    def step(
        self, actions: NDArray[np.float32]
    ) -> tuple[Observation, NDArray[Any], NDArray[Any], NDArray[Any], Info]:
        """Execute one primitive action ``(n, a)`` per environment.

        Returns:
            gymnasium's five: observation, reward ``(n,)``, terminated ``(n,)``, truncated
            ``(n,)``, and info with ``success`` and ``valid`` ``(n,)``, ``final_obs``,
            ``_final_obs``.
        """
        actions = np.asarray(actions)
        if actions.ndim != 2:
            raise ValueError(f"Expected `actions` of shape (n, a), got {actions.shape}.")
        chunk = self.step_chunk(actions[:, None])
        info = chunk.info | {"success": chunk.info["success"][:, 0], "valid": chunk.valid[:, 0]}
        return (
            chunk.observation,
            chunk.reward[:, 0],
            chunk.terminated[:, 0],
            chunk.truncated[:, 0],
            info,
        )

    def step_chunk(self, actions: NDArray[np.float32]) -> ChunkStep:
        """Execute ``k`` primitive actions in each environment, one after the other.

        Args:
            actions: ``(n, k, a)``; rows of ended environments are not read.

        Returns:
            What each primitive step gave; see `ChunkStep`.

        Raises:
            ValueError: If the shape is wrong or an action is not finite.
            gymnasium.error.ResetNeeded: If no environment was ever reset.
            WorkerError: If an environment fails; it counts as ended, ``result`` holds the chunk of
                the others, and ``valid`` is false in its row.
        """
        if not self._was_reset:
            raise ResetNeeded("call `reset` before `step` and `step_chunk`")
        live = ~self._ended
        actions = self._checked_actions(actions, live)
        chunks, failures = self._call("step", {int(i): actions[i] for i in np.flatnonzero(live)})
        shape = actions.shape[:2]
        reward = np.zeros(shape, np.float32)
        terminated, truncated, valid, success = (np.zeros(shape, bool) for _ in range(4))
        for index, chunk in chunks.items():
            valid[index] = chunk.valid
            reward[index] = chunk.reward
            terminated[index] = chunk.terminated
            truncated[index] = chunk.truncated
            success[index] = chunk.success
        ended = (terminated | truncated).any(axis=1)
        self._ended |= ended
        observation = self._observation()
        info: Info = {"success": success, "final_obs": dict(observation), "_final_obs": ended}
        result = ChunkStep(observation, reward, terminated, truncated, valid, info)
        self._elapsed += valid.sum(axis=1)
        self._raise_for(failures, result)
        return result

    def close_extras(self, **kwargs: Any) -> None:
        """End the workers and free the shared memory; `close` calls this once."""
        self._backend.close()

    def _call(
        self, method: str, arguments: dict[int, Any]
    ) -> tuple[dict[int, Any], list[EnvFailure]]:
        if self.closed:
            raise ValueError(f"the vector environment is closed; build a new one to `{method}`")
        try:
            answers = self._backend.call(method, arguments)
        except BaseException:
            self.close()  # interrupted in the middle of a call: nothing to go on from
            raise
        failures = [answer for answer in answers.values() if isinstance(answer, EnvFailure)]
        self._ended[[failure.env_index for failure in failures]] = True
        lost = {failure.env_index for failure in failures}
        return {index: answers[index] for index in answers.keys() - lost}, failures

    def _raise_for(self, failures: list[EnvFailure], result: Any) -> None:
        """Report environments that failed, with how far their episodes had come."""
        if not failures:
            return
        first, *others = [
            failure._replace(
                summary=f"{failure.summary} (after {self._elapsed[failure.env_index]} steps of the "
                f"episode of seed {self._seed_of[failure.env_index]})"
            )
            for failure in sorted(failures, key=lambda failure: failure.bystander)
        ]
        raise WorkerError(
            first.summary,
            env_index=first.env_index,
            traceback=first.traceback,
            failures=(first, *others),
            result=result,
        )

    def _observation(self) -> Observation:
        arrays = {key: rows.copy() for key, rows in self._backend.arrays.items()}
        return {**arrays, "task": list(self._tasks)}

    def _reset_mask(self, options: dict[str, Any] | None) -> BoolArray:
        unknown = set(options or {}) - {"reset_mask"}
        if unknown:
            raise ValueError(f"unknown `options` {sorted(unknown)}; there is only 'reset_mask'")
        mask = np.asarray((options or {}).get("reset_mask", np.ones(self.num_envs, bool)))
        if mask.shape != (self.num_envs,) or mask.dtype != bool:
            raise ValueError(
                f"Expected `reset_mask` to be bool ({self.num_envs},), got {mask.dtype} "
                f"{mask.shape}."
            )
        return mask

    def _seeds(self, seed: int | Sequence[int] | None) -> NDArray[np.int64]:
        if seed is None:
            return self.np_random.integers(2**31, size=self.num_envs)
        seeds = np.asarray(seed)
        if seeds.ndim == 0 and seeds.dtype.kind in "iu":
            seeds = seeds + np.arange(self.num_envs)
        if seeds.shape != (self.num_envs,) or seeds.dtype.kind not in "iu" or seeds.min() < 0:
            raise ValueError(
                f"Expected `seed` to be None, an int ≥ 0 or {self.num_envs} of them, got {seed!r}."
            )
        return seeds.astype(np.int64)

    def _checked_actions(
        self, actions: NDArray[np.float32], live: BoolArray
    ) -> NDArray[np.float32]:
        actions = np.asarray(actions, np.float32)
        assert self.single_action_space.shape is not None
        (action_dim,) = self.single_action_space.shape
        expected = f"({self.num_envs}, k, {action_dim})"
        if actions.ndim != 3 or actions.shape[::2] != (self.num_envs, action_dim):
            raise ValueError(f"Expected `actions` of shape {expected}, got {actions.shape}.")
        if actions.shape[1] == 0:
            raise ValueError(f"Expected `actions` of shape {expected} with k ≥ 1, got k = 0.")
        bad = ~np.isfinite(actions) & live[:, None, None]
        if bad.any():
            env, step, dim = np.argwhere(bad)[0]
            raise ValueError(
                f"Expected finite `actions`, got {actions[env, step, dim]} for environment {env} "
                f"at step {step} of the chunk in dimension {dim}."
            )
        return actions
