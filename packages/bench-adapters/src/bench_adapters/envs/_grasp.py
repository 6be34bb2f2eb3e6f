"""Tell grasps without ManiSkill's per-step tensor bookkeeping."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from mani_skill.agents.robots.panda import Panda

IsGrasping = Callable[..., torch.Tensor]


def direct_grasp(agent: Any) -> IsGrasping | None:
    """Return a function that answers as ``agent.is_grasping`` does, for one scene on the CPU.

    Tasks ask at every step whether something is held; of a step without a picture, ManiSkill's
    answer in batched tensors took the largest part. This reads the same contacts once, as floats.

    Args:
        agent: One robot of a ManiSkill environment with one scene on the CPU.

    Returns:
        The function, or None for a robot whose answer is not the Panda's.
    """
    if type(agent).is_grasping is not Panda.is_grasping:
        return None
    # Each finger closes along its own y axis, the second one backwards.
    fingers = [
        (agent.finger1_link._objs[0].entity, 1.0),
        (agent.finger2_link._objs[0].entity, -1.0),
    ]
    physics = agent.scene.px

    def is_grasping(object: Any, min_force: float = 0.5, max_angle: float = 85) -> torch.Tensor:
        body = object._bodies[0].entity
        touching = [
            (first, second, contact.points)
            for contact in physics.get_contacts()
            for first, second in [[part.entity for part in contact.bodies]]
            if body in (first, second)
        ]
        held = all(
            _presses(finger, side, touching, min_force * physics.timestep, max_angle)
            for finger, side in fingers
        )
        return torch.tensor([held])

    return is_grasping


def _presses(
    finger: Any, side: float, touching: list[Any], min_impulse: float, max_angle: float
) -> bool:
    impulse = np.zeros(3)
    for first, second, points in touching:
        if finger in (first, second):
            sign = 1.0 if first == finger else -1.0
            impulse += sign * np.sum([point.impulse for point in points], axis=0)
    size = float(np.linalg.norm(impulse))
    if size < max(min_impulse, 1e-12):
        return False
    opening = side * finger.pose.to_transformation_matrix()[:3, 1]
    return float(opening @ impulse) >= math.cos(math.radians(max_angle)) * size
