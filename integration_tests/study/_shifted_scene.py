"""The scene of `shifts`, registered with ManiSkill; importing it needs the simulator."""

from typing import Any

import sapien
import torch
from mani_skill.envs.tasks.tabletop.pick_cube import PickCubeEnv
from mani_skill.utils.building import actors
from mani_skill.utils.registration import register_env
from mani_skill.utils.structs.pose import Pose
from sapien.render import RenderBodyComponent

from integration_tests.study.shifts import SHIFTS


class ShiftedPickCube(PickCubeEnv):  # type: ignore[misc]  # untyped
    """PickCube with some of its constants changed."""

    def __init__(
        self,
        *args: Any,
        ambient_light: float | None = None,
        field_of_view: float | None = None,
        cube_colour: tuple[float, ...] | None = None,
        cube_half_size: float | None = None,
        num_distractors: int = 0,
        spawn_scale: float = 1.0,
        posture_noise: float = 0.02,
        **kwargs: Any,
    ) -> None:
        self._ambient_light, self._field_of_view = ambient_light, field_of_view
        self._cube_colour, self._half_size = cube_colour, cube_half_size
        self._num_distractors, self._spawn_scale = num_distractors, spawn_scale
        super().__init__(*args, robot_init_qpos_noise=posture_noise, **kwargs)

    def _setup_sensors(self, options: dict[str, Any]) -> None:
        if self._field_of_view is not None:
            camera = next(c for c in self.agent._sensor_configs if c.uid == "hand_camera")
            wider = {"fov": camera.fov * self._field_of_view}
            self._custom_sensor_configs.setdefault("hand_camera", {}).update(wider)
        super()._setup_sensors(options)

    def _load_lighting(self, options: dict[str, Any]) -> None:
        if self._ambient_light is None:
            super()._load_lighting(options)
            return
        self.scene.set_ambient_light([self._ambient_light] * 3)
        for direction in ([1, 1, -1], [0, 0, -1]):
            self.scene.add_directional_light(direction, [0.3, 0.3, 0.3], shadow=False)

    def _load_scene(self, options: dict[str, Any]) -> None:
        if self._half_size is not None:
            self.cube_half_size = self._half_size
        self.cube_spawn_half_size *= self._spawn_scale
        super()._load_scene(options)
        if self._cube_colour is not None:
            for entity in self.cube._objs:
                _paint(entity, self._cube_colour)
        self._distractors = [
            actors.build_box(
                self.scene,
                half_sizes=[0.015, 0.025, 0.02],
                color=[0.35 + 0.1 * i, 0.4, 0.4, 1.0],
                name=f"distractor_{i}",
                body_type="kinematic",
                add_collision=False,
                initial_pose=sapien.Pose(p=[0, 0, 0.02]),
            )
            for i in range(self._num_distractors)
        ]

    def _initialize_episode(self, env_idx: torch.Tensor, options: dict[str, Any]) -> None:
        super()._initialize_episode(env_idx, options)
        for box in self._distractors:  # drawn last: the cube and the goal stay where they were
            place = torch.rand((len(env_idx), 3)) * 0.24 - 0.12
            place[:, 2] = 0.02
            box.set_pose(Pose.create_from_pq(place))


def _paint(entity: Any, colour: tuple[float, ...]) -> None:
    for shape in entity.find_component_by_type(RenderBodyComponent).render_shapes:
        for part in shape.parts:
            part.material.set_base_color(list(colour))


for _name, _shift in SHIFTS.items():
    register_env(f"PickCube-{_name}-v1", max_episode_steps=50, **_shift.scene)(ShiftedPickCube)
