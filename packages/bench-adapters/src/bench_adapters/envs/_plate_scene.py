"""The scene of the 25-object suites: a WidowX, a table, an object, a plate and perhaps a third."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import sapien
import torch
from mani_skill.agents.registration import register_agent
from mani_skill.envs.sapien_env import BaseEnv
from mani_skill.envs.tasks.digital_twins.bridge_dataset_eval.base_env import (
    WidowX250SBridgeDatasetFlatTable,
)
from mani_skill.utils import sapien_utils
from mani_skill.utils.structs.pose import Pose
from mani_skill.utils.structs.types import SimConfig
from numpy.typing import NDArray

from bench_adapters.experts.arms import rotation_matrix
from bench_adapters.functional.put_on_plate import PlateEpisode, pose_tables, robot_offsets

# Constants of RL4VLA's put_on_in_scene_multi.py, metres and radians in the world frame.
HOME_QPOS = np.array(
    [-0.01840777, 0.0398835, 0.22242722, -0.00460194, 1.36524296, 0.00153398, 0.037, 0.037]
)
ROBOT_POSE = sapien.Pose([0.147, 0.028, 0.870], [0, 0, 0, 1])
ROBOT_AWAY = sapien.Pose([0.147, 0.028, 1.870], [0, 0, 0, 1])
TABLE_TOP_M = 0.868
CHANGE_STEP = 5
GRASP_STEPS = 5


def robot_class(assets_dir: Path) -> type:
    """Return ManiSkill's WidowX of the Bridge data set with the URDF of ``assets_dir``."""
    return _robot_class(str(assets_dir / "widowx250s" / "wx250s.urdf"))


@cache
def _robot_class(urdf: str) -> type:
    class PlateRobot(WidowX250SBridgeDatasetFlatTable):  # type: ignore[misc]
        uid = "widowx250s_put_on_plate"
        urdf_path = urdf

        @property
        def _controller_configs(self) -> dict[str, Any]:
            configs: dict[str, Any] = super()._controller_configs
            for parts in configs.values():
                # What ManiSkill assumes when it is not said, with a warning at every reset.
                follower, leader = parts["gripper"].joint_names
                parts["gripper"].mimic = {follower: {"joint": leader}}
            return configs

    registered: type = register_agent(override=True)(PlateRobot)
    return registered


class PlateScene(BaseEnv):  # type: ignore[misc]
    """One scene on the CPU; ``prepare`` chooses the episode that the next ``reset`` builds.

    Args:
        assets_dir: Holds ``put_on_plate_25`` and ``widowx250s``.
        suite: One of `functional.put_on_plate.SUITES`.
        protocol: ``rl4vla`` or ``rlinf``.
        moves: Whether `PositionChangeTo-v1` moves the object.
    """

    SUPPORTED_REWARD_MODES = ("none",)

    def __init__(
        self, assets_dir: Path, suite: str, protocol: str, *, moves: bool, **kwargs: Any
    ) -> None:
        self._root = assets_dir / "put_on_plate_25"
        self._suite, self._protocol, self._moves = suite, protocol, moves
        self.objects = _database(self._root / "more_carrot", count=25)
        self.plates = _database(self._root / "more_plate", count=17)
        self.episode = PlateEpisode(0, 0, 0, 0, 0, 0)
        super().__init__(robot_uids=robot_class(assets_dir), **kwargs)

    def prepare(self, episode: PlateEpisode) -> None:
        """Choose what the next reset builds."""
        self.episode = episode

    @property
    def _default_sim_config(self) -> SimConfig:
        return SimConfig(sim_freq=500, control_freq=5, spacing=20)

    @property
    def _default_human_render_camera_configs(self) -> list[Any]:
        return []

    def _load_agent(self, options: dict[str, Any]) -> None:
        super()._load_agent(options, sapien.Pose([0.127, 0.060, 0.85], [0, 0, 0, 1]))

    def _load_lighting(self, options: dict[str, Any]) -> None:
        self.scene.set_ambient_light([0.3, 0.3, 0.3])
        self.scene.add_directional_light(
            [0, 0, -1], [2.2, 2.2, 2.2], shadow=False, shadow_scale=5, shadow_map_size=2048
        )
        for direction in ([-1, -0.5, -1], [1, 1, -1]):
            self.scene.add_directional_light(direction, [0.7, 0.7, 0.7])

    def _load_scene(self, options: dict[str, Any]) -> None:
        for articulation in self.agent.robot._objs:
            sapien_utils.set_articulation_render_material(articulation, specular=0.9, roughness=0.3)
        self._load_table()
        carrot, plate = (
            list(self.objects)[self.episode.carrot],
            list(self.plates)[self.episode.plate],
        )
        self.carrot = self._build("more_carrot", carrot, self.objects)
        self.plate = self._build("more_plate", plate, self.plates)
        self.things = [self.carrot, self.plate]
        distractors = {"MultiCarrot-v1": ("more_carrot", self.objects, carrot)}
        distractors["MultiPlate-v1"] = ("more_plate", self.plates, plate)
        if self._suite in distractors:
            folder, database, target = distractors[self._suite]
            name = list(database)[self.episode.extra]
            if name != target:
                self.things.append(self._build(folder, name, database, tag="distractor "))
        self._sizes = [
            _box_size(database[name])
            for database, name in ((self.objects, carrot), (self.plates, plate))
        ]

    def _load_table(self) -> None:
        builder = self.scene.create_actor_builder()
        mesh = self._root.parent / "stages" / "bridge_table_1_v1.glb"
        if mesh.exists():
            pose = sapien.Pose(q=[0.707, 0.707, 0, 0])
            builder.add_nonconvex_collision_from_file(str(mesh), pose=pose)
            builder.add_visual_from_file(str(mesh), pose=pose)
            builder.initial_pose = sapien.Pose([2.0634, 2.8313, 0.0])
        else:  # unseen behind the background image: only its height matters
            half = [1.0, 1.0, 0.05]
            builder.add_box_collision(half_size=half)
            builder.add_box_visual(half_size=half)
            builder.initial_pose = sapien.Pose([-0.2, 0.0, TABLE_TOP_M - half[2]])
        builder.build_static(name="arena")

    def _build(self, folder: str, name: str, database: dict[str, Any], tag: str = "") -> Any:
        path = self._root / folder / name
        builder = self.scene.create_actor_builder()
        builder.add_multiple_convex_collisions_from_file(
            filename=str(path / "collision.obj"),
            material=sapien.physx.PhysxMaterial(1.0, 1.0, 0.0),
            density=database[name].get("density", 1000),
        )
        visuals = [path / f"textured.{suffix}" for suffix in ("obj", "dae", "glb")]
        visual = next((file for file in visuals if file.exists()), path / "collision.obj")
        builder.add_visual_from_file(filename=str(visual))
        builder.initial_pose = sapien.Pose([1.0, 0.3 * len(name), 1.0])
        return builder.build(name=tag + name)

    def _initialize_episode(self, env_idx: torch.Tensor, options: dict[str, Any]) -> None:
        positions, quaternions = pose_tables(self._suite, self._protocol)
        places = positions[self.episode.position]
        yaw = quaternions[self.episode.quaternion]
        self.agent.robot.set_pose(ROBOT_AWAY)
        upright = np.array([1.0, 0, 0, 0])
        extra_yaw = yaw if self._suite == "MultiCarrot-v1" else upright
        for thing, place, q in zip(self.things, places, (yaw, upright, extra_yaw), strict=False):
            thing.set_pose(Pose.create_from_pq(torch.tensor(place), torch.tensor(q)))
        if self._suite == "MultiCarrot-v1" and len(self.things) == 2:  # it is its own distractor
            self.carrot.set_pose(Pose.create_from_pq(torch.tensor(places[2]), torch.tensor(yaw)))
        if self._protocol == "rl4vla":
            self._settle(50)
            if self._is_moving():
                self._settle(600)
        qpos = HOME_QPOS.copy()
        if self._suite == "EEPose-v1":
            qpos[:6] += robot_offsets()[self.episode.extra]
        self.agent.robot.set_pose(ROBOT_POSE)
        self.agent.reset(init_qpos=qpos)
        self._extents = [
            _rotated_extent(size, thing.pose.q[0])
            for size, thing in zip(self._sizes, (self.carrot, self.plate), strict=True)
        ]
        self._held = 0
        self.grasped_once = self.held_once = False

    def _settle(self, steps: int) -> None:
        for _ in range(steps):
            self.scene.step()

    def _is_moving(self) -> bool:
        linear = sum(float(torch.linalg.norm(thing.linear_velocity)) for thing in self.things)
        angular = sum(float(torch.linalg.norm(thing.angular_velocity)) for thing in self.things)
        return linear > 1e-3 or angular > 1e-2

    def advance(self, action: NDArray[np.float32]) -> bool:
        """Execute ``action`` ``(7,)`` and return whether the object is on the plate."""
        self._step_action(action)
        self._elapsed_steps += 1
        # Every scene has its own clock, so that a reset of one does not move another's object.
        if self._moves and int(self._elapsed_steps[0]) == CHANGE_STEP:
            positions, quaternions = pose_tables(self._suite, self._protocol)
            place = torch.tensor(positions[self.episode.position, 2])
            yaw = torch.tensor(quaternions[self.episode.quaternion])
            self.carrot.set_pose(Pose.create_from_pq(place, yaw))
            if self._protocol == "rl4vla":
                self._settle(50)
        grasped = bool(self.agent.is_grasping(self.carrot)[0])
        self._held = self._held + 1 if grasped else 0
        self.grasped_once |= grasped
        self.held_once |= self._held >= GRASP_STEPS
        return self._is_on_plate()

    def _is_on_plate(self) -> bool:
        carrot, plate = (np.asarray(a.pose.p[0], np.float64) for a in (self.carrot, self.plate))
        carrot_half, plate_half = (extent / 2 for extent in self._extents)
        offset = carrot - plate
        beside = np.linalg.norm(offset[:2]) > plate_half.max() + 0.01
        above = offset[2] > 0 and offset[2] - plate_half[2] - carrot_half[2] <= 0.05
        force = self.scene.get_pairwise_contact_forces(self.carrot, self.plate)
        return bool(not beside and above and float(torch.linalg.norm(force)) > 0.03)

    def evaluate(self) -> dict[str, Any]:
        """Return nothing: `advance` says how it went, once per step."""
        return {}

    def _get_obs_extra(self, info: dict[str, Any]) -> dict[str, Any]:
        return {}

    def frame(self) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Return the picture ``(480, 640, 3)`` and where the robot or a thing is seen."""
        data = self._get_obs_sensor_data()["3rd_view_camera"]
        ids = [thing._objs[0].per_scene_id for thing in self.things]
        ids += [link._objs[0].entity.per_scene_id for link in self.agent.robot.get_links()]
        things = np.isin(data["segmentation"][0, ..., 0].numpy(), ids)
        return data["rgb"][0].numpy(), things


def _database(folder: Path, *, count: int) -> dict[str, Any]:
    entries: dict[str, Any] = json.loads((folder / "model_db.json").read_text())
    if len(entries) != count:
        raise ValueError(f"Expected {count} entries in {folder}/model_db.json, got {len(entries)}.")
    return entries


def _box_size(entry: dict[str, Any]) -> NDArray[np.float64]:
    # The databases also list "scales", but the source reads "scale", so that everything is 1.
    low, high = (np.array(entry["bbox"][end], np.float64) for end in ("min", "max"))
    size: NDArray[np.float64] = high - low
    return size


def _rotated_extent(size: NDArray[np.float64], quaternion: Any) -> NDArray[np.float64]:
    """Return the extent of a rotated box along the world's axes."""
    extent: NDArray[np.float64] = np.abs(rotation_matrix(quaternion)) @ size
    return extent
