"""Scripted experts for ManiSkill tasks: waypoints, no motion planner."""

from typing import TYPE_CHECKING

import numpy as np

from bench_adapters.envs.base import Expert, check_failure
from bench_adapters.experts import cubes, pegs, teams
from bench_adapters.experts.waypoints import WaypointExpert

if TYPE_CHECKING:
    from bench_adapters.envs.maniskill import ManiSkillEnvironment

EXPERTS: dict[str, type[WaypointExpert]] = {
    "LiftPegUpright-v1": pegs.LiftPegUprightExpert,
    "PickCube-v1": cubes.PickCubeExpert,
    "PlaceSphere-v1": cubes.PlaceSphereExpert,
    "PokeCube-v1": pegs.PokeCubeExpert,
    "PullCube-v1": cubes.PullCubeExpert,
    "PushCube-v1": cubes.PushCubeExpert,
    "StackCube-v1": cubes.StackCubeExpert,
    "StackPyramid-v1": cubes.StackPyramidExpert,
    "TwoRobotPickCube-v1": teams.TwoRobotPickCubeExpert,
    "TwoRobotStackCube-v1": teams.TwoRobotStackCubeExpert,
}
"""Expert of each task, under the environment's default controller."""


def make_expert(
    env: "ManiSkillEnvironment", *, noise: float, failure: str | None, rng: np.random.Generator
) -> Expert:
    """Build the expert of the environment's task.

    Args:
        env: Environment whose state the expert reads.
        noise: Standard deviation of Gaussian noise on the three translation actions of each arm,
            in action units (1 is 0.1 m).
        failure: One of ``env.perturbations``, or None for an attempt that should succeed.
        rng: Source of the noise and of the place where a failure happens.

    Returns:
        An object with ``reset()``, ``act() -> (action, phase)`` and ``phases``.

    Raises:
        ValueError: If the task has no expert or ``failure`` is not one of its perturbations.
    """
    if env.name not in EXPERTS:
        raise ValueError(f"no scripted expert for {env.env_id!r}; there are {sorted(EXPERTS)}")
    expert = EXPERTS[env.name]
    check_failure(env.env_id, failure, expert.perturbations())
    return expert(env, noise=noise, failure=failure, rng=rng)


def failure_modes(name: str) -> tuple[str, ...]:
    """Return the ways in which the expert of task ``name`` fails; none without an expert."""
    return EXPERTS[name].failure_modes if name in EXPERTS else ()


def perturbations(name: str) -> tuple[str, ...]:
    """Return everything that the expert of task ``name`` can be told to get wrong."""
    return EXPERTS[name].perturbations() if name in EXPERTS else ()
