"""Expert of the 25-object suites: put the object on the plate."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from bench_adapters.experts.arms import (
    CLOSED,
    OPEN,
    UP,
    Action,
    Vector,
    WidowXArm,
    rotation_matrix,
)
from bench_adapters.experts.waypoints import Stage, WaypointExpert

TURN_RAD = 0.3
"""Largest rotation per step."""
DEPTHS = (0.5, 0.2, 0.8)
"""How far down an object the tool gets in one attempt after the other, as shares of its height."""
STEP_S = 0.2
"""Seconds per action."""
FINGER_M = 0.018
"""How far the fingers reach below the tool."""


class PutOnPlateExpert(WaypointExpert):
    """Grasp the object across its narrow side from above, carry it over the plate, release it.

    Some objects roll, so the hand follows them. Actions are metres and radians.
    """

    failure_modes = ("miss", "drop", "stall")
    near_miss_m = 0.17
    speed = 0.035  # in metres, as all actions of this robot

    arm_class = WidowXArm

    def reset(self) -> None:
        """Plan anew for the episode that has just begun."""
        self._hand = self.arm.orientation
        super().reset()

    def plan(self) -> Iterator[Stage]:
        """Yield the steps of one attempt; a grasp that slips is tried again unless it should."""
        thing, up = self.sim.carrot, 0.1 * UP
        for depth in DEPTHS:
            yield from self._grasp(depth)
            lifted = self.position(thing) + up
            yield from self.carry(thing, lifted, "lift", within_m=0.04, max_steps=8)
            if self.position(thing)[2] > lifted[2] - 0.06 or self.failure in self.failure_modes:
                break
            yield from self.back_off()
        spot = self.goal(self.position(self.sim.plate))
        yield from self.carry(thing, spot + up, "move", within_m=0.02, max_steps=30)
        height = self.position(thing)[2] - self._corners()[:, 2].min()
        resting = spot + (height + 0.004) * UP
        yield from self.carry(thing, resting, "place", within_m=0.004, max_steps=12)
        yield from self.hold(OPEN, "release", steps=3)
        yield from self.reach(self.tool + up, OPEN, "retreat", within_m=0.03, max_steps=10)
        yield from self.rest(OPEN, "retreat")

    def back_off(self) -> Iterator[Stage]:
        """Open and rise, away from whatever was touched."""
        yield from self.reach(self.tool + 0.06 * UP, OPEN, "retreat", within_m=0.03, max_steps=6)

    def _grasp(self, depth: float) -> Iterator[Stage]:
        """Follow the object, which may roll, descend on it and close; beside it to miss.

        Args:
            depth: How far down the object the tool should get, as a share of its height.
        """
        angle = self.rng.uniform(0, 2 * np.pi) if self.failure == "miss" else None
        beside = 0.0 if angle is None else self.miss_m * np.array([np.cos(angle), np.sin(angle), 0])
        for _ in range(20):
            above = self._grip(depth) + beside + 0.06 * UP
            turn = float(np.linalg.norm(self.arm.turn_to(self._hand)))
            if turn < 0.05 and np.linalg.norm(above - self.tool) < 0.015:
                break
            yield self.toward(above, OPEN), "reach"
        before = np.inf
        target = self._grip(depth) + beside
        while target[2] + 0.004 < self.tool[2] < before - 0.003:
            before = self.tool[2]
            yield self.toward(target, OPEN), "reach"
            target = self._grip(depth) + beside
        yield self.toward(self.tool, OPEN), "reach"  # where it is blocked it would press on
        yield from self.hold(CLOSED, "grasp", steps=4)

    def _grip(self, depth: float) -> Vector:
        """Return where the tool should close, and turn the hand across the narrow side."""
        thing = self.sim.carrot
        self._hand = self._across(thing)
        corners = self._corners()
        low, high = corners.min(axis=0), corners.max(axis=0)
        height = max(high[2] - depth * (high - low)[2], low[2] + FINGER_M)
        # Where a rolling object is at the end of the step.
        drift = np.asarray(thing.linear_velocity[0], np.float64) * [STEP_S, STEP_S, 0.0]
        grip: Vector = np.append((low + high)[:2] / 2, height) + drift
        return grip

    def toward(self, target: Vector, gripper: float) -> Action:
        """Return the action that heads for ``target`` and turns the fingers across the object."""
        turn = self.arm.turn_to(self._hand)
        turn = turn * min(1.0, TURN_RAD / max(float(np.linalg.norm(turn)), 1e-9))
        return self.arm.toward(target, gripper, speed=self.speed, turn=turn)

    def _box(self) -> Vector:
        """Return two opposite corners of the object's box, ``(2, 3)``, its own frame, metres."""
        box = list(self.sim.objects.values())[self.sim.episode.carrot]["bbox"]
        return np.array([box["min"], box["max"]])

    def _corners(self) -> Vector:
        """Return the corners of the object's bounding box, ``(8, 3)``, world frame, metres."""
        corners = np.stack(np.meshgrid(*self._box().T), axis=-1).reshape(8, 3)
        pose = self.sim.carrot.pose
        return self.position(self.sim.carrot) + corners @ rotation_matrix(pose.q[0]).T

    def _across(self, thing: Any) -> Vector:
        """Return the hand's orientation, ``(3, 3)``: downwards, fingers across the narrow side."""
        axes = rotation_matrix(thing.pose.q[0])
        flat = [i for i in range(3) if abs(axes[2, i]) < 0.7]
        sizes = np.diff(self._box(), axis=0)[0]
        narrow = min(flat, key=lambda i: float(sizes[i]))
        side = axes[:, narrow] * [1.0, 1.0, 0.0]
        side /= np.linalg.norm(side)
        if side @ self.arm.orientation[:, 1] < 0:  # half a turn makes no difference to two fingers
            side = -side
        return np.stack([-UP, side, np.cross(-UP, side)], axis=1)
