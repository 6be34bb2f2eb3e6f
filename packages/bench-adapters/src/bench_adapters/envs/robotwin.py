"""RoboTwin 2.0, in the user's clone and a process of its own, behind `Environment`."""

import multiprocessing
import os
import traceback
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from bench_adapters._workers import Worker, WorkerGoneError, receive_any, start_worker, stop_workers
from bench_adapters.envs.base import EnvChunk
from bench_adapters.envs.robotwin_backend import RoboTwinBackend, Settings
from bench_adapters.errors import BenchAdaptersError, SimulatorUnavailableError
from bench_adapters.functional.robotwin_tasks import (
    EVALUATION_EPISODES,
    STEP_LIMITS,
    first_seed,
)
from bench_adapters.specs import ActionSpec, Dimension

__all__ = ["RoboTwinEnvironment", "make", "task_names"]

CAMERAS = ("head_camera", "left_camera", "right_camera", "front_camera")
MODES = ("per_action", "spline")
CONFIGS = ("demo_clean", "demo_randomized")
_FPS = 17
_JOINT_LIMIT = 10.0
"""rad, of the robots' URDFs."""


def task_names() -> list[str]:
    """Return the 50 tasks."""
    return list(STEP_LIMITS)


def make(name: str, **kwargs: Any) -> "RoboTwinEnvironment":
    """Build ``robotwin:<task>``; see `RoboTwinEnvironment` for the arguments.

    Raises:
        ValueError: If ``name`` is not a task.
        SimulatorUnavailableError: If the clone, its assets or a package is missing.
    """
    return RoboTwinEnvironment(name, **kwargs)


class RoboTwinEnvironment:
    """A task of RoboTwin 2.0 with joint position actions.

    Observations: ``observation.images.<camera>`` at the sizes of the configuration (240 × 320),
    ``observation.state``: commanded joints (rad) and gripper (0 closed … 1 open) of the left, then
    of the right arm, ``(14,)`` for the default robot. Actions have the same layout and are
    absolute. An action is not a fixed time: the arm moves from rest to rest with at most 1 rad/s
    and 1 rad/s², 0.2 s to seconds. ``fps`` is the rate of the recorded demonstrations.

    Success ends the episode with reward 1, `STEP_LIMITS` actions truncate it.

    The simulator runs in a process of its own, or directly in the process of a vector environment's
    worker; in the latter, give each worker one environment.

    Args:
        name: One of the 50 tasks.
        root: The clone of RoboTwin, with its assets; ``ROBOTWIN_ROOT`` when None.
        config: ``demo_clean`` or ``demo_randomized`` (backgrounds, clutter, light, table height),
            or another file of the clone's ``task_config``.
        cameras: Those to render, once per chunk.
        mode: ``per_action``, RoboTwin's own, in which every action ends at rest; or ``spline``, in
            which a chunk is one motion through all its actions, as RLinf and SimpleVLA-RL do it.
            Numbers of the two do not compare.
        instruction_type: ``seen`` or ``unseen``; drawn with the seed.
        device: ``cuda`` runs RoboTwin as it is. ``cpu`` needs neither CUDA, cuRobo, mplib nor
            open3d: it rasters in place of ray tracing, so its pictures differ, and the expert
            looks at no obstacles.
        expert_check: Skip scenes that the scripted expert does not solve, as the official
            evaluation does. Without it only scenes in which objects keep moving are skipped.
        max_seed_tries: How many scenes may be tried for a seed s: s, s + 10,000,000, …
        split: ``eval`` draws from the unseen backgrounds, ``train`` from the seen.
        shadows: Of ``device="cpu"``; without them frames are rendered several times as fast.
        max_episode_steps: In place of the task's limit.
        timeout_s: Longest time, in seconds, that a reset or a chunk may take.

    Raises:
        ValueError: If an argument is not known or out of range.
        SimulatorUnavailableError: If the clone, its assets or a package is missing.

    Source: Chen et al. (2025), "RoboTwin 2.0"; branch stable_2.0 of the repository.
    """

    def __init__(  # noqa: PLR0913  one keyword per setting of a protocol
        self,
        name: str,
        *,
        root: Path | str | None = None,
        config: str = "demo_clean",
        cameras: Sequence[str] = ("head_camera", "left_camera", "right_camera"),
        mode: str = "per_action",
        instruction_type: str = "unseen",
        device: str = "cuda",
        expert_check: bool = True,
        max_seed_tries: int = 20,
        split: str = "eval",
        shadows: bool = True,
        max_episode_steps: int | None = None,
        timeout_s: float = 600.0,
    ) -> None:
        if name not in STEP_LIMITS:
            raise ValueError(f"unknown RoboTwin task {name!r}; known tasks: {task_names()}")
        known = {
            "mode": (mode, MODES),
            "instruction_type": (instruction_type, ("seen", "unseen")),
            "device": (device, ("cuda", "cpu")),
            "split": (split, ("eval", "train")),
            **{f"cameras[{i}]": (camera, CAMERAS) for i, camera in enumerate(cameras)},
        }
        for argument, (value, values) in known.items():
            if value not in values:
                raise ValueError(f"Expected `{argument}` of {list(values)}, got {value!r}.")
        limit = STEP_LIMITS[name] if max_episode_steps is None else max_episode_steps
        if limit < 1 or max_seed_tries < 1:
            raise ValueError(
                f"Expected positive `max_episode_steps` and `max_seed_tries`, got {limit} and "
                f"{max_seed_tries}."
            )
        self.env_id = f"robotwin:{name}"
        self.fps = _FPS
        self.max_episode_steps = limit
        self._timeout_s = timeout_s
        self._worker: Worker | None = None
        self._backend: RoboTwinBackend | None = None
        settings = Settings(
            root=_find_clone(root, config),
            task=name,
            config=config,
            cameras=tuple(cameras),
            mode=mode,
            instruction_type=instruction_type,
            device=device,
            expert_check=expert_check,
            max_seed_tries=max_seed_tries,
            split=split,
            shadows=shadows,
            max_episode_steps=limit,
        )
        self._start(settings)
        facts = self._call("describe")
        self.versions = {
            **facts["versions"],
            "robotwin_config": config,
            "robotwin_mode": mode,
            "robotwin_instructions": instruction_type,
            "robotwin_expert_check": str(expert_check),
        }
        self._define_spaces(facts)

    def _define_spaces(self, facts: dict[str, Any]) -> None:
        high = np.concatenate([[*[_JOINT_LIMIT] * count, 1.0] for count in facts["joints"]])
        low = np.concatenate([[*[-_JOINT_LIMIT] * count, 0.0] for count in facts["joints"]])
        self.action_spec = _action_spec(facts["joints"])
        self.action_space = gym.spaces.Box(low.astype(np.float32), high.astype(np.float32))
        images = {
            f"observation.images.{camera}": gym.spaces.Box(0, 255, (*size, 3), np.uint8)
            for camera, size in facts["cameras"].items()
        }
        state = gym.spaces.Box(-np.inf, np.inf, self.action_space.shape, np.float32)
        self.observation_space = gym.spaces.Dict({**images, "observation.state": state})

    def _start(self, settings: Settings) -> None:
        if multiprocessing.current_process().daemon:  # a vector's worker: may have no children
            self._backend = RoboTwinBackend(settings)
            return
        self._worker = start_worker(_serve, settings)
        self._receive("loading RoboTwin")

    def reset(self, seed: int) -> dict[str, Any]:
        """Start the episode of ``seed``; an unusable scene is replaced by one of no other seed.

        Raises:
            BenchAdaptersError: If there is none within ``max_seed_tries``.
        """
        observation: dict[str, Any] = self._call("reset", int(seed))
        return observation

    def step_chunk(self, actions: NDArray[np.float32]) -> EnvChunk:
        """Execute up to ``k`` actions ``(k, a)`` and observe once, after the last.

        In spline mode a success belongs to the action that was being passed.
        """
        if actions.ndim != 2 or actions.shape[1] != self.action_space.shape[0]:
            raise ValueError(
                f"Expected `actions` (k, {self.action_space.shape[0]}), got {actions.shape}."
            )
        chunk: EnvChunk = self._call("step", np.array(actions, np.float32))
        return chunk

    def checked_seeds(
        self, count: int = EVALUATION_EPISODES, *, seed: int = 0, max_tries: int = 1000
    ) -> Iterator[int]:
        """Yield the seeds of an official evaluation: those that the scripted expert solves.

        Args:
            count: How many.
            seed: The evaluation's seed; it tries 100000 (1 + seed) and what follows.
            max_tries: Seeds to try at most; the official loop goes on for ever.

        Raises:
            BenchAdaptersError: If ``max_tries`` are not enough.
        """
        start, found = first_seed(seed), 0
        for candidate in range(start, start + max_tries):
            if found == count:
                return
            if self._call("check_seed", candidate):
                found += 1
                yield candidate
        if found < count:
            raise BenchAdaptersError(
                f"{self.env_id}: the expert solved {found} of the {max_tries} seeds from {start} "
                f"on, fewer than the {count} that were asked for"
            )

    def expert_actions(self, seed: int) -> NDArray[np.float32]:
        """Return the scripted expert's joint targets ``(k, a)`` on ``seed``, every 60 ms."""
        actions: NDArray[np.float32] = self._call("expert_actions", int(seed))
        return actions

    def close(self) -> None:
        """End the simulator's process; once more does nothing."""
        if self._backend is not None:
            self._backend.close()
            self._backend = None
        if self._worker is not None:
            stop_workers([self._worker])
            self._worker = None

    def _call(self, method: str, *args: Any) -> Any:
        if self._backend is not None:
            return getattr(self._backend, method)(*args)
        if self._worker is None:
            raise BenchAdaptersError(f"{self.env_id} is closed or its process has ended")
        self._worker.connection.send((method, args))
        return self._receive(f"it did `{method}`")

    def _receive(self, doing: str) -> Any:
        assert self._worker is not None
        _, answer = next(receive_any({0: self._worker}, timeout_s=self._timeout_s))
        if isinstance(answer, WorkerGoneError):
            self.close()
            raise BenchAdaptersError(
                f"RoboTwin's process {answer.reason} while {doing} for {self.env_id}"
            )
        kind, content = answer
        if kind == "result":
            return content
        if isinstance(content, Exception):
            raise content
        raise BenchAdaptersError(f"RoboTwin failed while {doing} for {self.env_id}:\n{content}")


def _serve(connection: Connection, settings: Settings) -> None:
    """Answer ``(method, arguments)`` with ``("result", …)`` or ``("error", …)``."""
    backend: RoboTwinBackend | None = None
    with open(os.devnull) as nothing:  # nothing may wait for a key
        os.dup2(nothing.fileno(), 0)
    method, args = "", ()
    while True:
        try:
            if backend is None:
                backend, answer = RoboTwinBackend(settings), None
            else:
                answer = getattr(backend, method)(*args)
            connection.send(("result", answer))
        except (BenchAdaptersError, ValueError) as error:
            error.add_note(traceback.format_exc())
            connection.send(("error", error))
        except Exception:
            connection.send(("error", traceback.format_exc()))
        if backend is None:
            connection.recv()  # stay until the parent hangs up
            return
        method, args = connection.recv()


def _find_clone(root: Path | str | None, config: str) -> Path:
    named = root or os.environ.get("ROBOTWIN_ROOT")
    remedy = (
        "clone https://github.com/RoboTwin-Platform/RoboTwin, fetch its assets and set "
        "ROBOTWIN_ROOT to its folder"
    )
    if not named:
        raise SimulatorUnavailableError(f"ROBOTWIN_ROOT is not set; {remedy}")
    folder = Path(named).expanduser().resolve()
    if not (folder / "envs/_base_task.py").exists():
        raise SimulatorUnavailableError(
            f"ROBOTWIN_ROOT {folder} has no envs/_base_task.py; {remedy}"
        )
    places = [folder / "task_config", folder / "env_cfg/task_config"]
    known = sorted({path.stem for place in places for path in place.glob("[!_]*.yml")})
    if config not in known:
        raise ValueError(f"Expected `config` of {known}, got {config!r}.")
    return folder


def _action_spec(joints: Sequence[int]) -> ActionSpec:
    dimensions = []
    for side, count in zip(("left", "right"), joints, strict=True):
        dimensions += [
            Dimension(f"{side} joint {i + 1}", "rad", "absolute", "", -_JOINT_LIMIT, _JOINT_LIMIT)
            for i in range(count)
        ]
        dimensions.append(Dimension(f"{side} gripper", "1", "", "1 open, 0 closed", 0.0, 1.0))
    return ActionSpec(tuple(dimensions))
