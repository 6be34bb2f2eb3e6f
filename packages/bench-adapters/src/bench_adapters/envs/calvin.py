"""CALVIN's play table, in the user's clone, behind `Environment`."""

import functools
import gc
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from bench_adapters.envs.base import EnvChunk, Expert, check_failure
from bench_adapters.envs.calvin_chains import OFFICIAL, SUBTASK_STEPS, Chains
from bench_adapters.envs.calvin_clone import (
    SCENES,
    build_simulator,
    find_clone,
    generation,
    instructions,
    quiet,
    require_egl,
    scene_obs_for,
    simulator_commit,
)
from bench_adapters.envs.calvin_expert import CalvinExpert
from bench_adapters.errors import BenchAdaptersError
from bench_adapters.functional.calvin_oracle import is_solved
from bench_adapters.functional.calvin_sequences import Chain
from bench_adapters.functional.calvin_states import HOME_ROBOT_OBS, initial_scene_obs
from bench_adapters.specs import ActionSpec, end_effector_spec

__all__ = ["CalvinEnvironment", "make", "task_names"]

CAMERAS = {"static": (200, 200), "gripper": (84, 84)}
"""Height and width in pixels (calvin_env, ``conf/cameras``)."""


def task_names() -> list[str]:
    """Return the names that `make` accepts: the four scenes."""
    return list(SCENES)


def make(name: str, **kwargs: Any) -> "CalvinEnvironment":
    """Build ``calvin:<scene>``; see `CalvinEnvironment` for the arguments.

    Raises:
        ValueError: If ``name`` is not a scene.
        SimulatorUnavailableError: If the clone, a package or the renderer is missing.
    """
    return CalvinEnvironment(name, **kwargs)


@functools.cache
def _egl_checked() -> None:
    require_egl()


class CalvinEnvironment:
    """Chains of instructions on the play table, as the CALVIN challenge runs them.

    An episode is a chain of subtasks, each with `SUBTASK_STEPS` steps. Solving one gives reward 1
    and the next instruction, without a reset of the scene; the rest of the action chunk, which
    answered the old instruction, is not executed. Solving the last one terminates the episode with
    success, running out of steps in any truncates it: the episode's return is the number of
    subtasks solved in a row.

    Seeds 0 to 999 are the official evaluation chains in their order; others draw further chains by
    the same rules, for training. An episode depends on nothing but seed and actions: the simulation
    is loaded anew at each reset.

    Observations: ``observation.images.static`` 200 × 200, ``observation.images.gripper`` 84 × 84,
    ``observation.state`` ``(15,)``: TCP position (m) and extrinsic xyz Euler angles (rad) in the
    world frame (z up, x to the right when facing the table), gripper width (m), seven joints (rad),
    last gripper command.

    Actions ``(7,)``; gripper > 0 opens, else it closes, 30 steps per second. ``relative``: change
    of the commanded TCP position in 2 cm and of its Euler angles in 0.05 rad, along the world axes,
    nominally in [-1, 1] and not clipped. ``absolute``: TCP position (m) and Euler angles (rad).

    Args:
        name: The scene, ``A`` to ``D``; the challenge evaluates in ``D``. In the others the blocks
            start where `scene_obs_for` puts them, which no paper specifies.
        root: The clone of mees/calvin; ``CALVIN_ROOT`` when None.
        actions: ``relative`` or ``absolute``.
        renderer: ``egl``, as the data was rendered, or ``tiny``, which needs no OpenGL and whose
            pictures differ too much for a checkpoint's score to mean anything.
        cameras: Those to render, once per chunk; none for states only.
        tasks: The same subtasks in every episode in place of the challenge's chains.
        subtasks: Draw chains of these only, by the episode's seed.
        chain_length: Subtasks of an episode; 1 for single instructions, as in fine-tuning.
        subtask_steps: Steps per subtask.
        warm_up: Scripted motions solve up to so many subtasks, by the episode's seed, before the
            episode begins: a policy that is to go on after its first instruction must have seen how
            others end. Needs scene D, relative actions and a ``chain_length``.

    Raises:
        ValueError: If an argument is not known or out of range.
        SimulatorUnavailableError: If the clone, a package or the renderer is missing.
        BenchAdaptersError: If this process already has one: bullet keeps one world per process.

    Source: Mees et al. (2022), "CALVIN: A Benchmark for Language-Conditioned Policy Learning".
    """

    failure_modes: tuple[str, ...] = ()
    perturbations: tuple[str, ...] = ()
    _alive = False

    def __init__(
        self,
        name: str = "D",
        *,
        root: Path | str | None = None,
        actions: str = "relative",
        renderer: str = "egl",
        cameras: Sequence[str] = ("static", "gripper"),
        tasks: Sequence[str] | None = None,
        subtasks: Sequence[str] | None = None,
        chain_length: int | None = None,
        subtask_steps: int = SUBTASK_STEPS,
        warm_up: int = 0,
    ) -> None:
        _require(name, "name", SCENES)
        _require(actions, "actions", ("relative", "absolute"))
        _require(renderer, "renderer", ("egl", "tiny"))
        for camera in cameras:
            _require(camera, "cameras", tuple(CAMERAS))
        if subtask_steps < 1:
            raise ValueError(f"Expected positive `subtask_steps`, got {subtask_steps}.")
        if warm_up < 0 or (warm_up and chain_length is None):
            raise ValueError(
                f"Expected `warm_up` ≥ 0 and 0 without a `chain_length`, got {warm_up}."
            )
        drawn = None if chain_length is None else chain_length + warm_up
        self._chains = Chains(tasks, subtasks=subtasks, length=drawn)
        clone = find_clone(root)
        self.env_id = f"calvin:{name}"
        self.scene = name
        self.fps = 30
        self.max_episode_steps = (self._chains.length - warm_up) * subtask_steps
        self._subtask_steps, self._warm_up = subtask_steps, warm_up
        self._relative = actions == "relative"
        if warm_up:
            self._require_scripted()
        self._cameras = tuple(cameras)
        self._egl = renderer == "egl" and bool(cameras)
        self.sim = self._build(clone)
        self._instructions = instructions(clone)
        self.versions = {
            "calvin_env": simulator_commit(clone),
            "calvin_env_generation": generation(self.sim),
            "renderer": renderer if cameras else "none",
            # The challenge's own, or others: results of the two do not compare.
            "chains": OFFICIAL if (tasks, subtasks, chain_length) == (None,) * 3 else "other",
            "subtask_steps": str(subtask_steps),
        }
        self.action_space = _action_box(relative=self._relative)
        self.action_spec = _action_spec(relative=self._relative)
        images = {
            f"observation.images.{camera}": gym.spaces.Box(0, 255, (*CAMERAS[camera], 3), np.uint8)
            for camera in self._cameras
        }
        state = gym.spaces.Box(-np.inf, np.inf, (15,), np.float32)
        self.observation_space = gym.spaces.Dict({**images, "observation.state": state})
        self.chain = Chain({}, ())
        self._solved = 0
        self._elapsed = 0
        self._start: Any = None

    def _build(self, clone: Path) -> Any:
        if CalvinEnvironment._alive:
            raise BenchAdaptersError(
                "this process already holds a CALVIN simulator, and bullet mixes up two; close it, "
                "or use as many `num_workers` as `num_envs`"
            )
        if self._egl:
            # Mesa's software renderer is as fast without helper threads, which take other cores.
            os.environ.setdefault("LP_NUM_THREADS", "0")
            _egl_checked()
        simulator = build_simulator(
            clone, scene=self.scene, cameras=self._cameras, use_egl=self._egl
        )
        CalvinEnvironment._alive = True
        return simulator

    @property
    def subtask(self) -> str:
        """The subtask of the current instruction; that of the last one after the episode's end."""
        return self.chain.tasks[min(self._solved, len(self.chain.tasks) - 1)]

    def reset(self, seed: int) -> dict[str, Any]:
        """Start the chain that ``seed`` determines.

        Args:
            seed: 0 to 999 for the official chains; any other integer ≥ 0 for further ones.

        Returns:
            The first observation, unbatched.
        """
        self.chain = self._chains.for_seed(seed)
        scene_obs = initial_scene_obs(self.chain.state)
        self._load()
        self.sim.scene.reset(scene_obs_for(self.sim, self.scene, scene_obs))
        self.sim.robot.reset(HOME_ROBOT_OBS)
        self.sim.p.stepSimulation(physicsClientId=self.sim.cid)
        self._solved = 0
        self._begin_subtask()
        if self._warm_up:
            self._solve_first(seed)
        return self._observe()

    def _solve_first(self, seed: int) -> None:
        """Solve what comes before the episode, and leave out as much of the chain's end."""
        rng = np.random.default_rng([seed, 2])  # not the stream of the chain
        number = int(rng.integers(self._warm_up + 1))
        length = len(self.chain.tasks) - self._warm_up + number
        self.chain = self.chain._replace(tasks=self.chain.tasks[:length])
        expert = CalvinExpert(self, noise=0.0, rng=rng)
        for _ in range(number):
            for _ in range(self._subtask_steps):
                if self._advance(expert.act()[0]):
                    break
            self._solved += 1  # or failed, as other episodes end, too
            self._begin_subtask()

    def _load(self) -> None:
        """Make the simulation new: bullet's caches survive a reset and move states by 1e-6 m."""
        with quiet():
            self.sim.seed(0)
            self.sim.scene.np_random = self.sim.np_random  # blocks are first put down at random
            self.sim.load()
        self.sim.robot.gripper_action = 1  # survives a reset too, and is part of the observation
        if self._egl:
            self.sim.get_camera_obs()  # the first picture after a load lacks shadows

    def _begin_subtask(self) -> None:
        self._elapsed = 0
        self._start = self.sim.get_info()

    def step_chunk(self, actions: NDArray[np.float32]) -> EnvChunk:
        """Execute up to ``k`` actions, stopping where the instruction changes; observe once.

        Args:
            actions: ``(k, 7)``, see the class.

        Returns:
            Rows of length ``k``.
        """
        k = len(actions)
        reward = np.zeros(k, np.float32)
        terminated, truncated, valid, success = (np.zeros(k, bool) for _ in range(4))
        for i, action in enumerate(actions):
            if self._start is None:
                break
            solved = self._advance(action)
            valid[i] = True
            reward[i] = float(solved)
            self._solved += solved
            success[i] = terminated[i] = self._solved == len(self.chain.tasks)
            truncated[i] = self._elapsed >= self._subtask_steps and not solved
            if terminated[i] or truncated[i]:
                self._start = None
            elif solved:
                self._begin_subtask()
                break
        return EnvChunk(self._observe(), reward, terminated, truncated, valid, success)

    def _advance(self, action: NDArray[np.float32]) -> bool:
        """Do what ``env.step`` does, without pictures; say whether the subtask is solved."""
        own = np.array(action, np.float64)  # 1431a46 scales the array that it is given
        own[6] = 1.0 if own[6] > 0 else -1.0
        self.sim.robot.apply_action(own if self._relative else (own[:3], own[3:6], int(own[6])))
        for _ in range(self.sim.action_repeat):
            self.sim.p.stepSimulation(physicsClientId=self.sim.cid)
        self.sim.scene.step()
        self._elapsed += 1
        return is_solved(self.subtask, self._start, self.sim.get_info())

    def make_expert(self, *, noise: float, failure: str | None, rng: np.random.Generator) -> Expert:
        """Return a `CalvinExpert`; see `envs.base.ScriptedEnvironment`."""
        check_failure(self.env_id, failure, self.perturbations)
        self._require_scripted()
        return CalvinExpert(self, noise=noise, rng=rng)

    def _require_scripted(self) -> None:
        if self.scene != "D" or not self._relative:
            raise ValueError("CALVIN's scripted expert knows scene D and relative actions only")

    def close(self) -> None:
        """Free the simulator; once more does nothing."""
        if self.sim is None:
            return
        with quiet():
            self.sim.close()
            self.sim.ownsPhysicsClient = False  # its destructor would disconnect again
            self.sim = None
            gc.collect()
        CalvinEnvironment._alive = False

    def _observe(self) -> dict[str, Any]:
        pictures = self.sim.get_camera_obs()[0] if self._cameras else {}
        images = {
            f"observation.images.{camera}": np.ascontiguousarray(
                pictures[f"rgb_{camera}"], np.uint8
            )
            for camera in self._cameras
        }
        state = self.sim.get_state_obs()["robot_obs"].astype(np.float32)
        task = self._instructions[self.subtask]
        return {**images, "observation.state": state, "task": task}


def _require(value: str, name: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ValueError(f"Expected `{name}` of {list(known)}, got {value!r}.")


def _action_box(*, relative: bool) -> gym.spaces.Box:
    bound = np.ones(7, np.float32)
    if not relative:
        bound[3:6] = np.pi
    return gym.spaces.Box(-bound, bound, dtype=np.float32)


def _action_spec(*, relative: bool) -> ActionSpec:
    if not relative:
        spec = end_effector_spec(
            translation_unit="m",
            rotation_unit="rad",
            frame="world, absolute",
            rotation="euler xyz, extrinsic",
        )
        turns = [d._replace(low=-np.pi, high=np.pi) for d in spec.dimensions[3:6]]
        return ActionSpec((*spec.dimensions[:3], *turns, spec.dimensions[6]))
    return end_effector_spec(
        translation_unit="0.02 m",
        rotation_unit="0.05 rad",
        frame="world, added to the commanded tool pose",
        rotation="euler xyz, extrinsic, angles added",
    )
