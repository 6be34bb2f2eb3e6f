"""A ManiSkill task without what a chunked rollout does not read."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from mani_skill.agents.base_agent import BaseAgent
from mani_skill.agents.multi_agent import MultiAgent
from mani_skill.sensors.camera import parse_camera_configs
from numpy.typing import NDArray

from bench_adapters.envs._control import SetAction, direct_controller
from bench_adapters.envs._grasp import direct_grasp
from bench_adapters.envs._visuals import decimate_scene


def lean(
    task: type,
    *,
    cameras: tuple[str, ...] | None,
    image_size: int | Mapping[str, int],
    max_visual_triangles: int,
) -> type:
    """Return ``task`` with decimated visuals, chosen cameras and `advance` beside ``step``.

    Args:
        task: A ManiSkill environment class.
        cameras: The sensors to keep; None keeps the hand camera, or the first where there is none.
        image_size: Height and width in pixels, one number or one per camera.
        max_visual_triangles: Triangles each rendered body keeps; 0 leaves the meshes alone.
    """

    class Lean(task):  # type: ignore[misc]  # the base is chosen at run time
        camera_names: tuple[str, ...] = ()
        """The sensors that exist."""

        def _setup_sensors(self, options: dict[str, Any]) -> None:
            for scene in self.scene.sub_scenes if max_visual_triangles else ():
                decimate_scene(scene, max_triangles=max_visual_triangles)
            known = parse_camera_configs(self._default_sensor_configs)
            known |= parse_camera_configs(self.agent._sensor_configs)
            self.camera_names = _default_cameras(known) if cameras is None else cameras
            _require(self.camera_names, known)
            for name, size in _sizes(image_size, self.camera_names).items():
                self._custom_sensor_configs[name] = {"width": size, "height": size}
            super()._setup_sensors(options)
            for uid in set(known) - set(self.camera_names):
                del self._sensors[uid], self._sensor_configs[uid]

        def image_shape(self, camera: str) -> tuple[int, int]:
            """Return height and width of a camera in pixels."""
            config = self._sensor_configs[camera]
            return int(config.height), int(config.width)

        def _after_reconfigure(self, options: dict[str, Any]) -> None:
            super()._after_reconfigure(options)
            self._set_action = _shortcuts(self)

        def _initialize_episode(self, env_idx: Any, options: dict[str, Any]) -> None:
            initialize_each(self, super()._initialize_episode, env_idx, options)

        def get_obs(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
            return {}  # `ManiSkillEnvironment` observes when a policy reads

        def advance(self, action: NDArray[np.float32]) -> dict[str, Any]:
            """Execute ``action`` ``(a,)`` as ``step`` does, without observation and reward."""
            _advance(self, action, self._set_action)
            self._elapsed_steps += 1
            return dict(self.get_info())

    Lean.__name__ = task.__name__
    return Lean


def initialize_each(
    env: Any, initialize: Callable[..., None], env_idx: Any, options: dict[str, Any]
) -> None:
    """Draw the first state of each environment from its own seed.

    ManiSkill seeds a batch by its first environment, so that an episode would depend on its place
    and on its neighbours.

    Args:
        env: The batch, whose ``_episode_seed`` holds one seed per environment.
        initialize: ManiSkill's own function.
        env_idx: ``(m,)``, the environments to initialise.
        options: Of the reset.
    """
    if env.num_envs == 1:
        initialize(env_idx, options)
        return
    mask = env.scene._reset_mask
    for index in env_idx.tolist():
        env.scene._reset_mask = torch.zeros_like(mask)
        env.scene._reset_mask[index] = True
        env._episode_rng = env._batched_episode_rng[index]
        with torch.random.fork_rng():
            torch.manual_seed(int(env._episode_seed[index]))
            initialize(torch.tensor([index], device=env.device), options)
    env.scene._reset_mask = mask


def can_grasp(agent: Any) -> bool:
    """Return whether a robot, or one of several, tells grasps."""
    return any(type(one).is_grasping is not BaseAgent.is_grasping for one in _robots(agent))


def _shortcuts(env: Any) -> SetAction | None:
    """Give the robots of one scene on the CPU their fast functions; return how to set actions."""
    if env.num_envs > 1 or env.gpu_sim_enabled:
        return None
    for robot in _robots(env.agent):
        robot.is_grasping = direct_grasp(robot) or robot.is_grasping
    return _direct(env.agent)


def _robots(agent: Any) -> list[Any]:
    return list(getattr(agent, "agents", [agent]))


def _advance(env: Any, action: NDArray[np.float32], set_action: SetAction | None) -> None:
    if set_action is None:
        env._step_action(_per_agent(env.agent, action))
        return
    set_action(action)
    env._before_control_step()
    for _ in range(env._sim_steps_per_control):
        env._before_simulation_step()
        env.scene.step()
        env._after_simulation_step()
    env._after_control_step()


def _default_cameras(known: Mapping[str, Any]) -> tuple[str, ...]:
    return ("hand_camera",) if "hand_camera" in known else tuple(known)[:1]


def _require(cameras: tuple[str, ...], known: Mapping[str, Any]) -> None:
    unknown = set(cameras) - set(known)
    if unknown:
        raise ValueError(
            f"unknown cameras {sorted(unknown)}; this robot and task have {sorted(known)}"
        )


def _sizes(image_size: int | Mapping[str, int], cameras: tuple[str, ...]) -> dict[str, int]:
    if isinstance(image_size, int):
        return dict.fromkeys(cameras, image_size)
    if set(image_size) != set(cameras):
        raise ValueError(
            f"Expected `image_size` for {sorted(cameras)}, got it for {sorted(image_size)}."
        )
    return dict(image_size)


def _slices(agent: MultiAgent[Any]) -> dict[str, slice]:
    """Return the part of a joint action that belongs to each robot."""
    ends = np.cumsum([space.shape[0] for space in agent.single_action_space.values()]).tolist()
    starts = [0, *ends[:-1]]
    return {
        uid: slice(start, end)
        for uid, start, end in zip(agent.single_action_space, starts, ends, strict=True)
    }


def _per_agent(agent: Any, action: NDArray[np.float32]) -> Any:
    if not isinstance(agent, MultiAgent):
        return action
    return {uid: action[part] for uid, part in _slices(agent).items()}


def _direct(agent: Any) -> SetAction | None:
    """Return the fast controller of a robot, or of all robots where each has one."""
    if not isinstance(agent, MultiAgent):
        return direct_controller(agent)
    parts = _slices(agent)
    setters = {uid: direct_controller(one) for uid, one in agent.agents_dict.items()}
    if any(setter is None for setter in setters.values()):
        return None

    def set_action(action: NDArray[np.float32]) -> None:
        for uid, setter in setters.items():
            assert setter is not None
            setter(action[parts[uid]])

    return set_action
