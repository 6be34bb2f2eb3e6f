"""One robot arm as an expert sees it: where its tool is, and which action moves it where."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

OPEN, CLOSED = 1.0, -1.0
GAIN = 1.5  # a servo that starts from where the tool is covers less than half of a commanded step

UP = np.array([0.0, 0.0, 1.0])

Vector = NDArray[np.float64]
Action = NDArray[np.float32]


def rotation_matrix(quaternion: Any) -> Vector:
    """Return the ``(3, 3)`` rotation of a quaternion ``(4,)``, scalar first."""
    w, x, y, z = np.asarray(quaternion, np.float64)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def rotation_vector(matrix: Vector) -> Vector:
    """Return axis times angle, in radians, of a ``(3, 3)`` rotation of less than half a turn."""
    cosine = np.clip((np.trace(matrix) - 1) / 2, -1.0, 1.0)
    angle = float(np.arccos(cosine))
    skew = np.array(
        [matrix[2, 1] - matrix[1, 2], matrix[0, 2] - matrix[2, 0], matrix[1, 0] - matrix[0, 1]]
    )
    return skew * (0.5 if angle < 1e-6 else angle / (2 * np.sin(angle)))


def about(axis: str, angle: float) -> Vector:
    """Return the ``(3, 3)`` rotation by ``angle`` radians about ``x``, ``y`` or ``z``."""
    i = "xyz".index(axis)
    j, k = (i + 1) % 3, (i + 2) % 3
    matrix = np.eye(3)
    matrix[j, j] = matrix[k, k] = np.cos(angle)
    matrix[k, j] = np.sin(angle)
    matrix[j, k] = -matrix[k, j]
    return matrix


class Arm:
    """A Panda that is steered by where its tool should go.

    Under ``pd_ee_delta_pos`` an action has 4 numbers, under ``pd_ee_delta_pose`` and
    ``pd_ee_target_delta_pose`` 7; steps of the last add up from the commanded pose, not the tool's.

    Args:
        agent: ManiSkill's robot.
    """

    step_m = 0.1
    """What an action of 1 means in metres."""
    step_rad = -0.1
    """And in radians: ManiSkill scales by the lower bound."""

    def __init__(self, agent: Any) -> None:
        self._agent = agent
        self.action_dim = int(agent.single_action_space.shape[0])
        self.turns = self.action_dim == 7
        self._targeting = "target" in agent.control_mode

    @property
    def tool(self) -> Vector:
        """Tool centre point, world frame, metres."""
        return np.asarray(self._pose.p[0], np.float64)

    @property
    def orientation(self) -> Vector:
        """``(3, 3)``, tool frame to world: z out of the hand, y along the fingers' motion."""
        return rotation_matrix(self._pose.q[0])

    @property
    def _pose(self) -> Any:
        return self._agent.tcp_pose

    @property
    def _base(self) -> Vector:
        return rotation_matrix(self._agent.robot.pose.q[0])

    def _start(self) -> tuple[Vector, Vector]:
        """Return the pose that an action is added to, world frame."""
        if not self._targeting:
            return self.tool, self.orientation
        target = self._agent.controller.controllers["arm"]._target_pose
        pose = self._agent.robot.pose * target
        return np.asarray(pose.p[0], np.float64), rotation_matrix(pose.q[0])

    def still(self, gripper: float) -> Action:
        """Return the action that stays."""
        return np.append(np.zeros(self.action_dim - 1), gripper).astype(np.float32)

    def turn_to(self, orientation: Vector) -> Vector:
        """Return the rotation to a tool orientation: ``(3,)``, radians, world frame."""
        return rotation_vector(orientation @ self._start()[1].T)

    def toward(
        self, target: Vector, gripper: float, *, speed: float, turn: Vector | None = None
    ) -> Action:
        """Return the action that heads for a pose.

        Args:
            target: Tool centre point, world frame, metres.
            gripper: ``OPEN`` or ``CLOSED``.
            speed: Largest translation, in action units.
            turn: Rotation to go, ``(3,)`` in radians, world frame, as of `turn_to`; None keeps the
                orientation.
        """
        gain = 1.0 if self._targeting else GAIN
        delta = self._base.T @ (gain * (target - self._start()[0]) / self.step_m)
        delta = delta * min(1.0, speed / max(float(np.linalg.norm(delta)), 1e-9))
        angles = np.zeros(self.action_dim - 4)
        if turn is not None:
            angles = self._base.T @ (gain * turn / self.step_rad)
            angles = angles / max(1.0, float(np.linalg.norm(angles)))
        return np.concatenate([delta, angles, [gripper]]).astype(np.float32)


class WidowXArm(Arm):
    """A WidowX 250 S under ManiSkill's controller of the Bridge data set: metres and radians."""

    step_m, step_rad = 1.0, 1.0

    @property
    def orientation(self) -> Vector:
        """``(3, 3)``, tool frame to world: x out of the hand, y along the fingers' motion."""
        return super().orientation

    @property
    def _pose(self) -> Any:
        return self._agent.robot.links_map["ee_gripper_link"].pose
