"""Builds a ManiSkill task, one scene on the CPU or a batch of them, and says what is missing."""

import gc
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import gymnasium as gym
import numpy as np

from bench_adapters.envs._tasks import (
    default_reward_mode,
    default_robot,
    obs_mode,
    registry,
    require_assets,
)
from bench_adapters.errors import SimulatorUnavailableError


def find_task(name: str, robot_uids: Any) -> tuple[Any, Any]:
    """Return ManiSkill's specification of a task, and its robot where ``robot_uids`` is None.

    Raises:
        ValueError: If there is no such task.
        SimulatorUnavailableError: If ManiSkill or assets are missing.
    """
    spec = registry().get(name)
    if spec is None:
        raise ValueError(f"unknown ManiSkill task {name!r}; known tasks: {sorted(registry())}")
    robot = default_robot(spec) if robot_uids is None else robot_uids
    require_assets(spec, robot)
    return spec, robot


def build_task(
    spec: Any,
    *,
    cameras: Sequence[str] | None,
    image_size: int | Mapping[str, int],
    max_visual_triangles: int,
    reward_mode: str | None,
    **kwargs: Any,
) -> Any:
    """Build a task as `_lean.lean` makes it.

    Args:
        spec: ManiSkill's specification.
        cameras: See `ManiSkillEnvironment`, as the next three.
        image_size: Of the frames.
        max_visual_triangles: Of each body.
        reward_mode: Of the task.
        **kwargs: ManiSkill's own arguments; None leaves its default.

    Raises:
        SimulatorUnavailableError: If something is missing on this machine.
    """
    from bench_adapters.envs._lean import lean

    exempt_imports()
    task = lean(
        spec.cls,
        cameras=None if cameras is None else tuple(cameras),
        image_size=image_size,
        max_visual_triangles=max_visual_triangles,
    )
    settings = {
        **spec.default_kwargs,
        "obs_mode": obs_mode(spec),
        "reward_mode": reward_mode or default_reward_mode(spec),
        "sensor_configs": {"shader_pack": "minimal"},
        **{key: value for key, value in kwargs.items() if value is not None},
    }
    try:
        return task(**settings)
    except (OSError, ImportError) as error:
        raise SimulatorUnavailableError(
            f"maniskill:{spec.uid} lacks something on this machine ({error}); run `python -m "
            f"mani_skill.utils.download_asset {spec.uid}`, or install the package"
        ) from error
    except RuntimeError as error:
        if "download" in str(error):
            raise SimulatorUnavailableError(f"maniskill:{spec.uid}: {error}") from error
        if "CUDA" in str(error) or "cuda" in str(error):
            raise SimulatorUnavailableError(
                f"maniskill:{spec.uid} needs an NVIDIA GPU ({error}); use "
                f'`make("maniskill:{spec.uid}", …)` on the CPU'
            ) from error
        if "rendering device" not in str(error) and "vk::" not in str(error):
            raise
        raise SimulatorUnavailableError(
            f"maniskill:{spec.uid} found no Vulkan device ({error}); run `bench-adapters doctor "
            f"--fix`"
        ) from error


@cache
def exempt_imports() -> None:
    """Keep what is loaded by now out of garbage collection, once per process.

    ManiSkill collects whenever it builds a scene; going through all modules each time takes longer
    than building it.
    """
    gc.collect()
    gc.freeze()


def leaves(tree: dict[str, Any]) -> list[Any]:
    """Return what is in a nested dict, in order."""
    return [
        leaf
        for value in tree.values()
        for leaf in (leaves(value) if isinstance(value, dict) else [value])
    ]


def observation_space(env: Any, state_dim: int) -> gym.spaces.Dict:
    """Return the space of one observation of a lean ManiSkill task."""
    images = {
        f"observation.images.{camera}": gym.spaces.Box(
            0, 255, (*env.image_shape(camera), 3), np.uint8
        )
        for camera in env.camera_names
    }
    state = gym.spaces.Box(-np.inf, np.inf, (state_dim,), np.float32)
    return gym.spaces.Dict({**images, "observation.state": state})


def flat_box(space: gym.spaces.Space[Any]) -> gym.spaces.Box:
    """Join the boxes of several robots, in the order in which `Lean.advance` takes them apart."""
    boxes = list(space.values()) if isinstance(space, gym.spaces.Dict) else [space]
    low, high = (np.concatenate([getattr(box, end) for box in boxes]) for end in ("low", "high"))
    return gym.spaces.Box(low, high, dtype=np.float32)
