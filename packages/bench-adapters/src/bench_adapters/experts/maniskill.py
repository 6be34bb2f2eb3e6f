"""Scripted experts for ManiSkill tasks under ``pd_ee_delta_pos``: waypoints, no motion planner."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench_adapters.envs.base import Expert

if TYPE_CHECKING:
    from bench_adapters.envs.maniskill import ManiSkillEnvironment

OPEN, CLOSED = 1.0, -1.0
STEP_M = 0.1  # what an action of 1 means under pd_ee_delta_pos, in metres
Action = NDArray[np.float32]
Stage = tuple[Action, str]


def make_expert(
    env: "ManiSkillEnvironment", *, noise: float, failure: str | None, rng: np.random.Generator
) -> Expert:
    """Build the expert of the environment's task.

    Args:
        env: Environment whose state the expert reads.
        noise: Standard deviation of Gaussian noise on the three translation actions, in action
            units (1 is 0.1 m).
        failure: One of ``env.failure_modes``, or None for an attempt that should succeed.
        rng: Source of the noise and of the place where a failure happens.

    Returns:
        An object with ``reset()`` and ``act() -> (action, primitive)``.

    Raises:
        ValueError: If the task has no expert or ``failure`` is not one of its failure modes.
    """
    if env.name not in EXPERTS:
        raise ValueError(f"no scripted expert for {env.env_id!r}; there are {sorted(EXPERTS)}")
    expert = EXPERTS[env.name]
    if failure is not None and failure not in expert.failure_modes:
        raise ValueError(f"unknown `failure` {failure!r}; {env.env_id} has {expert.failure_modes}")
    return expert(env, noise=noise, failure=failure, rng=rng)


def failure_modes(name: str) -> tuple[str, ...]:
    """Return the ways in which the expert of task ``name`` can fail; none without an expert."""
    return EXPERTS[name].failure_modes if name in EXPERTS else ()


class WaypointExpert(ABC):
    """Runs a plan of clean actions and adds noise to them.

    A subclass writes its plan as a generator of ``(action, primitive)``; each ``yield`` is one
    primitive step, so the plan reads the state that the last action led to.
    """

    failure_modes: tuple[str, ...] = ("miss", "stall")
    """Ways to fail: ``miss`` grasps or pushes beside the object, ``stall`` stops on the way."""
    speed = 0.35
    """Largest translation per step, in action units."""

    def __init__(
        self,
        env: "ManiSkillEnvironment",
        *,
        noise: float,
        failure: str | None,
        rng: np.random.Generator,
    ) -> None:
        self.sim = env.env
        self.noise = noise
        self.failure = failure
        self.rng = rng
        self._plan: Iterator[Stage] = iter(())

    def reset(self) -> None:
        """Plan anew for the episode that has just begun."""
        self._plan = self._stalled() if self.failure == "stall" else self.plan()

    def act(self) -> Stage:
        """Return the next action ``(a,)`` in [-1, 1] and the name of its primitive."""
        action, primitive = next(self._plan)
        noisy = action.copy()
        noisy[:3] += self.noise * self.rng.standard_normal(3)
        return np.clip(noisy, -1.0, 1.0).astype(np.float32), primitive

    @abstractmethod
    def plan(self) -> Iterator[Stage]:
        """Yield ``(action, primitive)`` without end."""

    def _stalled(self) -> Iterator[Stage]:
        """Follow the plan for a while, then stay where it got to."""
        before = self.rng.integers(4, 12)
        for count, (action, primitive) in enumerate(self.plan()):
            yield action if count < before else np.append(np.zeros(3), action[3]), primitive

    @property
    def tool(self) -> NDArray[np.float64]:
        """Tool centre point, world frame, metres."""
        return np.asarray(self.sim.agent.tcp_pose.p[0], np.float64)

    @staticmethod
    def position(actor: Any) -> NDArray[np.float64]:
        """Position of an actor, world frame, metres."""
        return np.asarray(actor.pose.p[0], np.float64)

    def toward(self, target: NDArray[np.float64], gripper: float) -> Action:
        """Return the action that heads for ``target`` (world frame, metres)."""
        # Tool and world axes agree: the robot's base is not rotated in these tasks. The servo
        # covers about half of a commanded step, hence the gain.
        delta = 1.5 * (target - self.tool) / STEP_M
        size = float(np.linalg.norm(delta))
        return np.append(delta * min(1.0, self.speed / max(size, 1e-9)), gripper).astype(np.float32)

    def reach(
        self, target: NDArray[np.float64], gripper: float, primitive: str, *, within_m: float
    ) -> Iterator[Stage]:
        """Move the tool until it is closer than ``within_m`` to ``target``."""
        while np.linalg.norm(target - self.tool) > within_m:
            yield self.toward(target, gripper), primitive

    def hold(self, gripper: float, primitive: str, steps: int) -> Iterator[Stage]:
        """Stay for ``steps`` primitive steps."""
        for _ in range(steps):
            yield np.array([0, 0, 0, gripper], np.float32), primitive

    def grasp(self, actor: Any) -> Iterator[Stage]:
        """Reach over ``actor``, descend and close the gripper; beside it when told to miss."""
        target = self.position(actor)
        if self.failure == "miss":
            angle = self.rng.uniform(0, 2 * np.pi)
            target[:2] += 0.06 * np.array([np.cos(angle), np.sin(angle)])
        above = target + np.array([0, 0, 0.06])
        yield from self.reach(above, OPEN, "reach", within_m=0.02)
        yield from self.reach(target, OPEN, "reach", within_m=0.008)
        yield from self.hold(CLOSED, "grasp", steps=3)

    def carry(
        self, actor: Any, target: NDArray[np.float64], primitive: str, *, within_m: float
    ) -> Iterator[Stage]:
        """Bring a grasped ``actor`` closer than ``within_m`` to ``target``; or drop it on the way.

        Steers the object, not the tool, because a grasp is never perfectly centred.
        """
        drop_after = self.rng.integers(2, 5) if self.failure == "drop" else None
        carried = 0
        while np.linalg.norm(target - self.position(actor)) > within_m:
            offset = self.position(actor) - self.tool
            held = np.linalg.norm(offset) < 0.03
            dropped = drop_after is not None and carried >= drop_after
            aim = target - offset if held else target
            yield self.toward(aim, OPEN if dropped else CLOSED), primitive
            carried += 1


class PickCubeExpert(WaypointExpert):
    """Grasp the cube, carry it to the goal, hold still."""

    failure_modes = ("miss", "drop", "stall")

    def plan(self) -> Iterator[Stage]:
        """Yield the steps of one attempt."""
        yield from self.grasp(self.sim.cube)
        goal = self.position(self.sim.goal_site)
        yield from self.carry(self.sim.cube, goal, "move", within_m=0.0)


class StackCubeExpert(WaypointExpert):
    """Grasp the red cube, lift it, carry it over the green cube, lower and release it."""

    failure_modes = ("miss", "drop", "stall")

    def plan(self) -> Iterator[Stage]:
        """Yield the steps of one attempt."""
        red, green = self.sim.cubeA, self.sim.cubeB
        yield from self.grasp(red)
        base = self.position(green)
        clear = np.array([0, 0, 0.09])
        yield from self.carry(red, self.position(red) + clear, "lift", within_m=0.03)
        yield from self.carry(red, base + clear, "move", within_m=0.015)
        yield from self.carry(red, base + np.array([0, 0, 0.042]), "place", within_m=0.006)
        yield from self.hold(OPEN, "release", steps=3)
        retreat = self.tool + np.array([0, 0, 0.1])
        yield from self.reach(retreat, OPEN, "retreat", within_m=0.01)
        while True:
            yield from self.hold(OPEN, "retreat", steps=1)


class SlideCubeExpert(WaypointExpert):
    """Put the closed gripper on the far side of the cube and slide it to the goal region."""

    def plan(self) -> Iterator[Stage]:
        """Yield the steps of one attempt."""
        cube, goal = self.position(self.sim.obj), self.position(self.sim.goal_region)
        way = np.append((goal - cube)[:2] / np.linalg.norm((goal - cube)[:2]), 0.0)
        if self.failure == "miss":
            cube = cube + 0.07 * np.array([-way[1], way[0], 0.0])
        behind = cube - 0.07 * way
        yield from self.reach(behind + np.array([0, 0, 0.1]), CLOSED, "reach", within_m=0.02)
        yield from self.reach(behind, CLOSED, "reach", within_m=0.01)
        # The far end lies past the goal so that the last centimetres are not crept over.
        end = np.append((goal - 0.02 * way)[:2], cube[2])
        yield from self.reach(end, CLOSED, "slide", within_m=0.0)


EXPERTS: dict[str, type[WaypointExpert]] = {
    "PickCube-v1": PickCubeExpert,
    "PullCube-v1": SlideCubeExpert,
    "PushCube-v1": SlideCubeExpert,
    "StackCube-v1": StackCubeExpert,
}
