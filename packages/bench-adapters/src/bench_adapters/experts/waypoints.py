"""What scripted experts have in common: a plan of waypoints, noise, and ways to go wrong."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from bench_adapters.experts.arms import CLOSED, OPEN, UP, Action, Arm, Vector

if TYPE_CHECKING:
    from bench_adapters.envs.maniskill import ManiSkillEnvironment
    from bench_adapters.envs.put_on_plate import PutOnPlateEnvironment

Stage = tuple[Action, str]
"""An action and the phase of the plan that it belongs to."""

PHASES: Mapping[str, str] = {
    "reach": "pick_grab",
    "grasp": "pick_grab",
    "lift": "pick_grab",
    "move": "pass",
    "place": "place",
    "release": "place",
    "retreat": "dummy",
}
"""Primitive (see `functional.primitives`) of the phases that many tasks share."""

FUMBLE_STEPS = (8, 16)  # how long a recovering expert errs before it notices


class WaypointExpert(ABC):
    """Runs a plan of clean actions and adds noise to them.

    A subclass writes its plan as a generator of ``(action, phase)``; each ``yield`` is one
    primitive step, so the plan reads the state that the last action led to.

    Args:
        env: Environment whose state is read.
        noise: Standard deviation of the noise on the translations, in units of 0.1 m.
        failure: One of ``perturbations``, or None.
        rng: Source of the noise and of the place where something goes wrong.
    """

    failure_modes: tuple[str, ...] = ("miss", "stall")
    """Ways to fail that are drawn from unless others are asked for: ``miss`` grasps or pushes
    beside the object, ``stall`` stops on the way, ``drop`` lets go on the way."""
    near_miss_m = 0.06
    """How far beside the goal a ``near_miss`` aims, in metres."""
    miss_m = 0.06
    """How far beside the object a ``miss`` closes the gripper, in metres."""
    speed = 0.35
    """Largest translation per step, in action units."""
    phases: Mapping[str, str] = PHASES
    """Primitive of each phase of the plan."""
    arm_class: type[Arm] = Arm

    def __init__(
        self,
        env: "ManiSkillEnvironment | PutOnPlateEnvironment",
        *,
        noise: float,
        failure: str | None,
        rng: np.random.Generator,
    ) -> None:
        self.sim = env.env
        self.noise = noise
        self.failure = failure
        self.rng = rng
        agents = getattr(self.sim.agent, "agents", [self.sim.agent])
        self.arms = [self.arm_class(agent) for agent in agents]
        self.arm = self.arms[0]
        self._plan: Iterator[Stage] = iter(())
        self._carried = 0
        self._drop_after: int | None = None

    @classmethod
    def perturbations(cls) -> tuple[str, ...]:
        """Return everything that can be asked to go wrong.

        Beyond the failures these are ``near_miss``, which ends a little beside the goal, and
        ``recover``, which errs like ``miss``, notices and then succeeds.
        """
        return (*cls.failure_modes, "near_miss", "recover")

    def reset(self) -> None:
        """Plan anew for the episode that has just begun."""
        self._carried, self._drop_after = 0, None
        plans = {"stall": self._stalled, "recover": self._recovering}
        self._plan = plans.get(self.failure or "", self.plan)()

    def act(self) -> Stage:
        """Return the next action ``(a,)`` in [-1, 1] and its phase."""
        action, phase = next(self._plan)
        noisy = action.copy()
        for start, arm in self._starts():
            noise = self.noise * (Arm.step_m / arm.step_m)
            noisy[start : start + 3] += noise * self.rng.standard_normal(3)
        return np.clip(noisy, -1.0, 1.0).astype(np.float32), phase

    @abstractmethod
    def plan(self) -> Iterator[Stage]:
        """Yield ``(action, phase)`` without end."""

    def _arm_starts(self) -> list[int]:
        ends = np.cumsum([arm.action_dim for arm in self.arms]).tolist()
        return [0, *ends[:-1]]

    def _stalled(self) -> Iterator[Stage]:
        """Follow the plan for a while, then stay where it got to."""
        before = self.rng.integers(4, 12)
        grippers = [start + arm.action_dim - 1 for start, arm in self._starts()]
        for count, (action, phase) in enumerate(self.plan()):
            if count >= before:
                still = np.zeros_like(action)
                still[grippers] = action[grippers]
                action = still
            yield action, phase

    def _starts(self) -> Iterator[tuple[int, Arm]]:
        return zip(self._arm_starts(), self.arms, strict=True)

    def _recovering(self) -> Iterator[Stage]:
        """Err for a while, back off, and begin again."""
        self.failure = "miss"
        steps = int(self.rng.integers(*FUMBLE_STEPS))
        for _, stage in zip(range(steps), self.plan(), strict=False):
            yield stage
        self.failure = "recover"
        yield from self.back_off()
        yield from self.plan()

    def back_off(self) -> Iterator[Stage]:
        """Open and rise, away from whatever was touched."""
        up = self.tool + 0.06 * UP
        yield from self.reach(up, OPEN, "retreat", within_m=0.03)

    @property
    def tool(self) -> Vector:
        """Tool centre point of the first arm, world frame, metres."""
        return self.arm.tool

    @staticmethod
    def position(actor: Any) -> Vector:
        """Position of an actor, world frame, metres."""
        return np.asarray(actor.pose.p[0], np.float64)

    def goal(self, position: Vector) -> Vector:
        """Return where to bring things: ``position``, or beside it on a near miss."""
        if self.failure != "near_miss":
            return position
        angle = self.rng.uniform(0, 2 * np.pi)
        return position + self.near_miss_m * np.array([np.cos(angle), np.sin(angle), 0.0])

    def toward(self, target: Vector, gripper: float) -> Action:
        """Return the action of the first arm that heads for ``target`` (world frame, metres)."""
        return self.arm.toward(target, gripper, speed=self.speed)

    def reach(
        self,
        target: Vector,
        gripper: float,
        phase: str,
        *,
        within_m: float,
        max_steps: int = 1000,
    ) -> Iterator[Stage]:
        """Move the tool until it is closer than ``within_m`` to ``target``."""
        for _ in range(max_steps):
            if np.linalg.norm(target - self.tool) <= within_m:
                break
            yield self.toward(target, gripper), phase

    def hold(self, gripper: float, phase: str, steps: int) -> Iterator[Stage]:
        """Stay for ``steps`` primitive steps."""
        for _ in range(steps):
            yield self.arm.still(gripper), phase

    def rest(self, gripper: float, phase: str) -> Iterator[Stage]:
        """Stay for good."""
        while True:
            yield from self.hold(gripper, phase, steps=1)

    def grasp(self, actor: Any) -> Iterator[Stage]:
        """Reach over ``actor``, descend and close the gripper; beside it when told to miss."""
        yield from self.grasp_at(self.position(actor))

    def grasp_at(self, target: Vector) -> Iterator[Stage]:
        """Close the gripper around a point; beside it when told to miss."""
        if self.failure == "miss":
            angle = self.rng.uniform(0, 2 * np.pi)
            target = target + self.miss_m * np.array([np.cos(angle), np.sin(angle), 0.0])
        above = target + np.array([0, 0, 0.06])
        yield from self.reach(above, OPEN, "reach", within_m=0.02)
        yield from self.reach(target, OPEN, "reach", within_m=0.008)
        yield from self.hold(CLOSED, "grasp", steps=3)

    def carry(
        self,
        actor: Any,
        target: Vector,
        phase: str,
        *,
        within_m: float,
        max_steps: int = 1000,
    ) -> Iterator[Stage]:
        """Bring a grasped ``actor`` closer than ``within_m`` to ``target``; or drop it on the way.

        Steers the object, not the tool, because a grasp is never perfectly centred.
        """
        if self.failure == "drop" and self._drop_after is None:
            self._drop_after = int(self.rng.integers(2, 5))
        steps = 0
        while steps < max_steps and np.linalg.norm(target - self.position(actor)) > within_m:
            offset = self.position(actor) - self.tool
            held = np.linalg.norm(offset) < 0.03
            dropped = self._drop_after is not None and self._carried >= self._drop_after
            aim = target - offset if held else target
            yield self.toward(aim, OPEN if dropped else CLOSED), phase
            self._carried += 1
            steps += 1

    def put(
        self, actor: Any, target: Vector, *, clear_m: float = 0.09, release_m: float = 0.003
    ) -> Iterator[Stage]:
        """Lift a grasped ``actor``, carry it to ``target``, release it there and rise."""
        up = clear_m * UP
        yield from self.carry(actor, self.position(actor) + up, "lift", within_m=0.04)
        yield from self.carry(actor, target + up, "move", within_m=0.015)
        low = target + release_m * UP
        yield from self.carry(actor, low, "place", within_m=0.006, max_steps=15)
        yield from self.hold(OPEN, "release", steps=2)
        yield from self.reach(self.tool + up, OPEN, "retreat", within_m=0.02)
