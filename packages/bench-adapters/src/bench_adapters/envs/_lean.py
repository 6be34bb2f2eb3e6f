"""A ManiSkill task without what a chunked rollout does not read."""

from typing import Any

import numpy as np
from mani_skill.sensors.camera import parse_camera_configs
from numpy.typing import NDArray

from bench_adapters.envs._control import direct_controller
from bench_adapters.envs._visuals import decimate_scene


def lean(task: type, *, cameras: tuple[str, ...], max_visual_triangles: int) -> type:
    """Return ``task`` with decimated visuals, chosen cameras and `advance` beside ``step``.

    Args:
        task: A ManiSkill environment class.
        cameras: The sensors to keep.
        max_visual_triangles: Triangles each rendered body keeps; 0 leaves the meshes alone.
    """

    class Lean(task):  # type: ignore[misc]  # the base is chosen at run time
        def _setup_sensors(self, options: dict[str, Any]) -> None:
            if max_visual_triangles:
                for scene in self.scene.sub_scenes:
                    decimate_scene(scene, max_triangles=max_visual_triangles)
            known = parse_camera_configs(self._default_sensor_configs)
            known |= parse_camera_configs(self.agent._sensor_configs)
            _require(cameras, known)
            super()._setup_sensors(options)
            for uid in set(known) - set(cameras):
                del self._sensors[uid], self._sensor_configs[uid]

        def _after_reconfigure(self, options: dict[str, Any]) -> None:
            super()._after_reconfigure(options)
            self._set_action = direct_controller(self)

        def get_obs(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
            return {}  # `ManiSkillEnvironment` observes when a policy reads

        def advance(self, action: NDArray[np.float32]) -> dict[str, Any]:
            """Execute ``action`` ``(a,)`` as ``step`` does, without observation and reward."""
            if self._set_action is None:
                self._step_action(action)
            else:
                self._set_action(action)
                self._before_control_step()
                for _ in range(self._sim_steps_per_control):
                    self._before_simulation_step()
                    self.scene.step()
                    self._after_simulation_step()
                self._after_control_step()
            self._elapsed_steps += 1
            return dict(self.get_info())

    Lean.__name__ = task.__name__
    return Lean


def _require(cameras: tuple[str, ...], known: dict[str, Any]) -> None:
    unknown = set(cameras) - set(known)
    if unknown:
        raise ValueError(
            f"unknown cameras {sorted(unknown)}; this robot and task have {sorted(known)}"
        )
