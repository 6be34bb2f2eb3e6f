"""PickCube under changes that training did not show, in Feat2Go's three categories."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any

from bench_adapters import ProcessVectorEnv, make_single
from bench_adapters.envs.base import Environment


@dataclass(frozen=True, kw_only=True)
class Shift:
    """One change."""

    category: str
    what: str
    scene: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of `ShiftedPickCube`."""
    task: str = "pick up the red cube and move it to the goal"
    """Instruction; by default that of PickCube itself."""


SHIFTS: Mapping[str, Shift] = MappingProxyType(
    {
        "light": Shift(
            category="vision",
            what="a quarter of the ambient light, 30 % of the direct",
            scene={"ambient_light": 0.075},
        ),
        "camera": Shift(
            category="vision",
            what="wrist camera with a 20 % wider view",
            scene={"field_of_view": 1.2},
        ),
        "colour": Shift(
            category="vision", what="blue cube", scene={"cube_colour": (0.1, 0.2, 0.9, 1.0)}
        ),
        "distractors": Shift(
            category="semantic",
            what="three grey boxes strewn on the table, which may hide the cube",
            scene={"num_distractors": 3},
        ),
        "instruction": Shift(
            category="semantic",
            what="an instruction in words that training did not have",
            task="grab that little block, then hold it where the marker floats",
        ),
        "size": Shift(category="execution", what="cube of 32 mm", scene={"cube_half_size": 0.016}),
        "start": Shift(
            category="execution",
            what="cube and goal spread over an area 1.6 times as wide",
            scene={"spawn_scale": 1.6},
        ),
        "posture": Shift(
            category="execution",
            what="noise on the robot's first posture of 0.06 rad in place of 0.02",
            scene={"posture_noise": 0.06},
        ),
    }
)


def make_shifted(name: str, *, num_envs: int, num_workers: int, **kwargs: Any) -> ProcessVectorEnv:
    """Build environments under a shift; further arguments are those of `bench_adapters.make`."""
    return ProcessVectorEnv(
        partial(_make_one, name, **kwargs), num_envs=num_envs, num_workers=num_workers
    )


def _make_one(name: str, **kwargs: Any) -> Environment:
    import integration_tests.study._shifted_scene  # noqa: F401  registers the tasks

    task = f"maniskill:PickCube-{name}-v1"
    env = make_single(task, robot_uids="panda_wristcam", control_mode="pd_ee_delta_pos", **kwargs)
    env.task = SHIFTS[name].task  # type: ignore[attr-defined]  # ManiSkill's tasks have one
    return env
