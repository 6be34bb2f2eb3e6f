"""Episodes of scripted experts, made in this process or in workers."""

import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench_adapters._workers import Worker, WorkerGoneError, receive_any, start_worker, stop_workers
from bench_adapters.envs.base import ScriptedEnvironment
from bench_adapters.errors import WorkerError

IMAGES = "observation.images."
EnvFactory = Callable[[], ScriptedEnvironment]


class Attempt(NamedTuple):
    """An episode to make."""

    number: int
    """Position in the dataset; it also chooses the worker."""
    seed: int
    failing: bool
    modes: tuple[str, ...] = ()
    """What a failing attempt draws from; the environment's failure modes when empty."""


class Episode(NamedTuple):
    """An episode of ``t`` steps; fields as in `DatasetRecorder.add_episode`."""

    frames: dict[str, NDArray[np.uint8]]
    state: NDArray[np.float32]
    action: NDArray[np.float32]
    reward: NDArray[np.float32]
    success: NDArray[np.bool_]
    done: NDArray[np.bool_]
    phases: list[str]
    primitives: list[str]
    task: str
    failure: str


class EpisodeSpec(NamedTuple):
    """What a dataset needs to know of an environment."""

    fps: int
    cameras: dict[str, tuple[int, int]]
    """Height and width by camera name."""
    state_dim: int
    action_dim: int
    failure_modes: tuple[str, ...]
    perturbations: tuple[str, ...]


class InProcess:
    """Makes episodes in this process."""

    def __init__(self, make_env: EnvFactory, *, noise: float) -> None:
        self._env = make_env()
        self._noise = noise
        self.spec = episode_spec(self._env)

    def run(self, attempts: Sequence[Attempt]) -> Iterator[Episode]:
        """Yield the episodes in order."""
        for attempt in attempts:
            yield run_attempt(self._env, attempt, noise=self._noise)

    def close(self) -> None:
        """Free the environment."""
        self._env.close()


class Workers:
    """Makes episodes in worker processes; an episode's number says which one makes it."""

    def __init__(
        self, make_env: EnvFactory, *, noise: float, num_workers: int, timeout_s: float
    ) -> None:
        self._timeout_s = timeout_s
        self._workers: list[Worker] = []
        try:
            for _ in range(num_workers):
                self._workers.append(start_worker(_serve, make_env, noise))
            for slot in range(num_workers):
                _, answer = self._receive({slot: "building the environment"})
                if isinstance(answer, WorkerError):
                    raise answer
                self.spec: EpisodeSpec = answer
        except BaseException:
            self.close()
            raise

    def run(self, attempts: Sequence[Attempt]) -> Iterator[Episode]:
        """Yield the episodes in order."""
        count = len(self._workers)
        owing = {w: [a for a in attempts if a.number % count == w] for w in range(count)}
        for slot, share in owing.items():
            self._workers[slot].connection.send(share)
        early: dict[int, Episode | WorkerError] = {}
        for attempt in attempts:
            while attempt.number not in early:
                slot, answer = self._receive(
                    {
                        slot: f"making the episode of seed {share[0].seed}"
                        for slot, share in owing.items()
                        if share
                    }
                )
                early[owing[slot].pop(0).number] = answer
                if isinstance(answer, WorkerError):
                    owing[slot].clear()
            episode = early.pop(attempt.number)
            if isinstance(episode, WorkerError):  # only in its turn: the episodes before it count
                raise episode
            yield episode

    def close(self) -> None:
        """End the processes."""
        stop_workers(self._workers)

    def _receive(self, doing: Mapping[int, str]) -> tuple[int, Any]:
        """Return the next message of any of the workers, of which ``doing`` says what they do.

        A failure inside the worker is returned as a `WorkerError`; a lost worker raises one.
        """
        waiting = {slot: self._workers[slot] for slot in doing}
        slot, answer = next(receive_any(waiting, timeout_s=self._timeout_s))
        if isinstance(answer, WorkerGoneError):
            raise WorkerError(
                f"worker process {slot} {answer.reason} while {doing[slot]}", env_index=slot
            )
        if isinstance(answer, str):
            last_line = answer.strip().splitlines()[-1]
            answer = WorkerError(
                f"worker process {slot} failed while {doing[slot]}: {last_line}",
                env_index=slot,
                traceback=answer,
            )
        return slot, answer


def _serve(connection: Connection, make_env: EnvFactory, noise: float) -> None:
    """Send the specification, receive attempts, send their episodes, or a traceback."""
    try:
        env = make_env()
        connection.send(episode_spec(env))
        for attempt in connection.recv():
            connection.send(run_attempt(env, attempt, noise=noise))
        connection.recv()  # stay until the parent hangs up: an early exit looks like a crash
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    except Exception:
        connection.send(traceback.format_exc())


def episode_spec(env: ScriptedEnvironment) -> EpisodeSpec:
    """Read the specification off an environment's spaces."""
    shapes = {key: box.shape or () for key, box in env.observation_space.items()}
    cameras = {
        key.removeprefix(IMAGES): (shape[0], shape[1])
        for key, shape in shapes.items()
        if key.startswith(IMAGES)
    }
    return EpisodeSpec(
        env.fps,
        cameras,
        shapes["observation.state"][0],
        env.action_space.shape[0],
        tuple(env.failure_modes),
        tuple(env.perturbations),
    )


def run_attempt(env: ScriptedEnvironment, attempt: Attempt, *, noise: float) -> Episode:
    """Run the expert until the episode ends.

    Args:
        env: The environment.
        attempt: Which episode.
        noise: Standard deviation of the noise on the actions.

    Raises:
        RuntimeError: If the environment does not end the episode within its time limit.
        ValueError: If the instruction changes within the episode, which a recording cannot hold.
    """
    rng = np.random.default_rng([attempt.seed, 1])  # not the stream that the environment draws from
    failure = str(rng.choice(attempt.modes or env.failure_modes)) if attempt.failing else None
    observation = env.reset(attempt.seed)
    task = str(observation["task"])
    expert = env.make_expert(noise=noise, failure=failure, rng=rng)
    expert.reset()
    observations, actions, phases, chunks = [], [], [], []
    for _ in range(env.max_episode_steps):
        action, phase = expert.act()
        chunk = env.step_chunk(action[None])
        observations.append(observation)
        actions.append(action)
        phases.append(phase)
        chunks.append(chunk)
        observation = chunk.observation
        if observation["task"] != task:
            raise ValueError(
                f"{env.env_id} changes its instruction within the episode of seed {attempt.seed}, "
                f"from {task!r} to {observation['task']!r}; record single instructions (CALVIN: "
                "`chain_length=1`)"
            )
        if chunk.terminated[0] or chunk.truncated[0]:
            break
    else:
        raise RuntimeError(
            f"{env.env_id} did not end the episode of seed {attempt.seed} within its "
            f"{env.max_episode_steps} steps"
        )
    return Episode(
        frames={
            key.removeprefix(IMAGES): np.stack([obs[key] for obs in observations])
            for key in env.observation_space
            if key.startswith(IMAGES)
        },
        state=np.stack([obs["observation.state"] for obs in observations]),
        action=np.stack(actions),
        reward=np.array([chunk.reward[0] for chunk in chunks]),
        success=np.array([chunk.success[0] for chunk in chunks]),
        done=np.array([chunk.terminated[0] or chunk.truncated[0] for chunk in chunks]),
        phases=phases,
        primitives=[expert.phases[phase] for phase in phases],
        task=task,
        failure=failure or "",
    )
