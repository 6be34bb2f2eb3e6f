"""The 25-object in-distribution and out-of-distribution suites of RL4VLA and RLinf, on the CPU.

The assets are not ours to ship: ``assets_dir`` holds ``put_on_plate_25`` (``more_carrot``,
``more_plate`` and ``more_table`` of github.com/gen-robot/RL4VLA) and ``widowx250s``
(github.com/haosulab/ManiSkill-WidowX250S). Without ``stages/bridge_table_1_v1.glb`` a box of the
table's height stands in for the table, which the background image hides anyway.
"""

import json
import os
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from bench_adapters.envs._build import exempt_imports
from bench_adapters.envs._tasks import registry
from bench_adapters.envs.base import EnvChunk, Expert, check_failure
from bench_adapters.errors import SimulatorUnavailableError
from bench_adapters.experts.plates import PutOnPlateExpert
from bench_adapters.functional import overlays
from bench_adapters.functional.put_on_plate import (
    OBJECT_SETS,
    SUITES,
    decode_episode,
    instruction,
    num_episodes,
)
from bench_adapters.specs import ActionSpec, end_effector_spec

CAMERA = "3rd_view_camera"
HEIGHT, WIDTH = 480, 640
FOCAL = 623.588  # pixels, of the WidowX's camera in ManiSkill
CONTROL_MODE = "arm_pd_ee_target_delta_pose_align2_gripper_pd_joint_pos"
PROTOCOLS = ("rl4vla", "rlinf")
ASSETS_VARIABLE = "PUT_ON_PLATE_ASSETS"
TEXTURE_SHARES = {"Texture03": 0.3, "Texture05": 0.5, "Whole03": 0.3, "Whole05": 0.5}


def task_names() -> list[str]:
    """Return the names of the suites."""
    return list(SUITES)


def make(name: str, **kwargs: Any) -> "PutOnPlateEnvironment":
    """Build one environment of a suite; see `PutOnPlateEnvironment` for the arguments."""
    return PutOnPlateEnvironment(name, **kwargs)


class PutOnPlateEnvironment:
    """Put the named object on the named plate (see `envs.base.Environment`).

    An episode runs to its time limit, as in both protocols; ``rl4vla`` reports success at the end,
    ``rlinf`` success at any step, and `evaluate` writes both. The action has 7 numbers: translation
    in metres and rotation as XYZ Euler angles in radians, both added to the commanded tool pose in
    the robot's base frame, and the gripper (1 open, −1 closed). The reward is the change of
    0.1 · grasped so far + 0.1 · held for five steps so far + 1 · (on the plate and grasped so far).

    Args:
        name: Suite, without the prefix ``PutOnPlateInScene25``.
        assets_dir: Folder of the assets; the environment variable ``PUT_ON_PLATE_ASSETS`` when
            None.
        obj_set: ``train``, ``test`` or ``all``.
        protocol: ``rl4vla`` or ``rlinf``, which drops things from 0.90 m in place of 0.95 m and
            does not let them settle before the episode.
        episode_ids: Seed s is episode ``episode_ids[s]``; when None, a generator with that seed
            draws the id.
        cameras: The one there is, or none: nothing is rendered then.
        image_size: Height and width of frames that are rendered small, at a tenth of the time, for
            small policies; the benchmark's 480 x 640 when None. They show the same, squeezed.
        max_episode_steps: Time limit in steps of 0.2 s.

    Raises:
        ValueError: If an argument is not known.
        SimulatorUnavailableError: If ManiSkill, a Vulkan device or the assets are missing.
    """

    fps = 5
    failure_modes = PutOnPlateExpert.failure_modes
    perturbations = PutOnPlateExpert.perturbations()

    def __init__(
        self,
        name: str,
        *,
        assets_dir: Path | str | None = None,
        obj_set: str = "test",
        protocol: str = "rl4vla",
        episode_ids: Sequence[int] | None = None,
        cameras: Sequence[str] = (CAMERA,),
        image_size: int | None = None,
        max_episode_steps: int = 80,
    ) -> None:
        if name not in SUITES:
            raise ValueError(f"unknown suite {name!r}; known suites: {list(SUITES)}")
        for argument, value, known in (
            ("obj_set", obj_set, OBJECT_SETS),
            ("protocol", protocol, PROTOCOLS),
            ("cameras", tuple(cameras), ((CAMERA,), ())),
        ):
            if value not in known:
                raise ValueError(f"unknown `{argument}` {value!r}; there are {list(known)}")
        if image_size is not None and image_size < 1:
            raise ValueError(f"Expected `image_size` of at least 1, got {image_size}.")
        self.env_id = f"put_on_plate:{name}"
        self.max_episode_steps = max_episode_steps
        self._name, self._obj_set = name, obj_set
        self._episode_ids = None if episode_ids is None else list(episode_ids)
        self._cameras = tuple(cameras)
        self._shape = (HEIGHT, WIDTH) if image_size is None else (image_size, image_size)
        self._assets = find_assets(assets_dir)
        registry()  # complains about a missing ManiSkill
        from bench_adapters.envs._plate_scene import PlateScene

        exempt_imports()
        moves = name == "PositionChangeTo-v1" and obj_set != "train"
        self.env = PlateScene(
            self._assets, name, protocol, moves=moves, num_envs=1,
            obs_mode="rgb+segmentation" if self._cameras else "none",
            control_mode=CONTROL_MODE, sim_backend="physx_cpu", render_backend="cpu",
            reward_mode="none",
            sensor_configs={"shader_pack": "default", CAMERA: _camera(*self._shape)},
        )  # fmt: skip
        table = "mesh" if (self._assets / "stages" / "bridge_table_1_v1.glb").exists() else "box"
        self.versions = {
            "mani_skill": version("mani_skill"),
            "sapien": version("sapien"),
            "protocol": protocol,
            "obj_set": obj_set,
            "table": table,
        }
        space = self.env.single_action_space
        self.action_spec = _action_spec(space)
        self.action_space = gym.spaces.Box(space.low, space.high, dtype=np.float32)
        self.observation_space = gym.spaces.Dict(
            {
                **{
                    f"observation.images.{camera}": gym.spaces.Box(
                        0, 255, (*self._shape, 3), np.uint8
                    )
                    for camera in self._cameras
                },
                "observation.state": gym.spaces.Box(-np.inf, np.inf, (8,), np.float32),
            }
        )
        self._elapsed, self._ended, self._reward_so_far = 0, True, 0.0
        self.task = ""

    def reset(self, seed: int) -> dict[str, Any]:
        """Start the episode of ``seed``; see ``episode_ids``."""
        self.episode_id = self._id(int(seed))
        self.episode = decode_episode(self._name, self._obj_set, self.episode_id)
        self.env.prepare(self.episode)
        self.env.reset(seed=int(seed), options={"reconfigure": True})
        objects, plates = list(self.env.objects.values()), list(self.env.plates.values())
        self.task = instruction(
            self._name,
            self.episode,
            objects[self.episode.carrot]["name"],
            plates[self.episode.plate]["name"],
        )
        self._elapsed, self._ended, self._reward_so_far = 0, False, 0.0
        return self._observe()

    def _id(self, seed: int) -> int:
        if self._episode_ids is None:
            total = num_episodes(self._name, self._obj_set)
            return int(np.random.default_rng(seed).integers(total))
        if seed >= len(self._episode_ids):
            raise ValueError(
                f"Expected `seed` below the {len(self._episode_ids)} `episode_ids`, got {seed}."
            )
        return int(self._episode_ids[seed])

    def step_chunk(self, actions: NDArray[np.float32]) -> EnvChunk:
        """Execute up to ``k`` actions and observe once, after the last; see `EnvChunk`."""
        k = len(actions)
        reward = np.zeros(k, np.float32)
        terminated, truncated, valid, success = (np.zeros(k, bool) for _ in range(4))
        for i, action in enumerate(actions):
            if self._ended:
                break
            success[i] = self.env.advance(np.asarray(action, np.float32))
            self._elapsed += 1
            grasped, held = self.env.grasped_once, self.env.held_once
            earned = 0.1 * grasped + 0.1 * held + 1.0 * (success[i] and grasped)
            reward[i] = earned - self._reward_so_far
            self._reward_so_far = earned
            valid[i] = True
            self._ended = truncated[i] = self._elapsed >= self.max_episode_steps
        return EnvChunk(self._observe(), reward, terminated, truncated, valid, success)

    def make_expert(self, *, noise: float, failure: str | None, rng: np.random.Generator) -> Expert:
        """Return the scripted expert.

        Args:
            noise: Standard deviation of the noise on the translations, in units of 0.1 m.
            failure: One of ``perturbations``, or None for an attempt that should succeed.
            rng: Source of all randomness of the expert.

        Raises:
            ValueError: If ``failure`` is not one of ``perturbations``.
        """
        check_failure(self.env_id, failure, self.perturbations)
        return PutOnPlateExpert(self, noise=noise, failure=failure, rng=rng)

    def close(self) -> None:
        """Free the simulator."""
        self.env.close()

    def _observe(self) -> dict[str, Any]:
        qpos = self.env.agent.robot.get_qpos()[0].numpy().astype(np.float32)
        images = {f"observation.images.{camera}": self._frame() for camera in self._cameras}
        return {**images, "observation.state": qpos, "task": self.task}

    def _frame(self) -> NDArray[np.uint8]:
        frame, things = self.env.frame()
        tables = _tables(self._assets)
        background = tables.background(self.episode.overlay, self._shape)
        kind = self._name.removeprefix("Vision").partition("-")[0]
        if kind not in TEXTURE_SHARES:
            return overlays.green_screen(frame, things, background)
        whole = kind.startswith("Whole")
        height, width = self._shape
        shape = (2 * height, 2 * width) if whole else self._shape
        texture = tables.texture(self.episode.extra, shape)
        mix = TEXTURE_SHARES[kind] * tables.mix(self.episode.extra)
        blend = overlays.blend_texture_on_whole if whole else overlays.blend_texture_on_things
        return blend(frame, things, background, texture, mix)


class _Tables:
    """Background images and textures, read when they are first shown."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        database: dict[str, Any] = json.loads((folder / "model_db.json").read_text())
        self._entries = list(database.items())

    @cache  # noqa: B019  one object per folder, for the life of the process
    def background(self, index: int, shape: tuple[int, int]) -> NDArray[np.uint8]:
        """Return a background, ``(*shape, 3)``."""
        return _picture(self._folder / "imgs" / self._entries[index][0], shape)

    @cache  # noqa: B019  as above
    def texture(self, index: int, shape: tuple[int, int]) -> NDArray[np.uint8]:
        """Return a texture, ``(*shape, 3)``."""
        return _picture(self._folder / "textures" / self._entries[index][1]["texture"], shape)

    def mix(self, index: int) -> float:
        """Return the share that the database gives to a texture."""
        return float(self._entries[index][1]["mix"])


@cache
def _tables(assets: Path) -> _Tables:
    return _Tables(assets / "put_on_plate_25" / "more_table")


def _picture(path: Path, shape: tuple[int, int]) -> NDArray[np.uint8]:
    from PIL import Image

    pixels = np.asarray(Image.open(path).convert("RGB"))
    return np.clip(np.rint(overlays.resize_bilinear(pixels, *shape)), 0, 255).astype(np.uint8)


def _camera(height: int, width: int) -> dict[str, Any]:
    """Return ManiSkill's settings for a frame of this size that shows what the benchmark's does."""
    scale = np.array([[width / WIDTH], [height / HEIGHT], [1.0]])
    intrinsic = np.array([[FOCAL, 0, 319.501], [0, FOCAL, 239.545], [0, 0, 1]]) * scale
    return {"height": height, "width": width, "intrinsic": intrinsic}


def _action_spec(space: gym.spaces.Box) -> ActionSpec:
    named = end_effector_spec(
        translation_unit="m",
        rotation_unit="rad",
        frame="base, added to the commanded tool pose",
        rotation="euler XYZ",
    ).dimensions
    ranges = zip(named, space.low, space.high, strict=True)
    return ActionSpec(
        tuple(
            dimension._replace(low=float(low), high=float(high)) for dimension, low, high in ranges
        )
    )


def find_assets(assets_dir: Path | str | None) -> Path:
    """Return the folder of the assets; see `PutOnPlateEnvironment`.

    Raises:
        SimulatorUnavailableError: If it is not known or holds something else.
    """
    chosen = assets_dir if assets_dir is not None else os.environ.get(ASSETS_VARIABLE)
    if chosen is None:
        raise SimulatorUnavailableError(
            f"the 25-object suites need their assets; pass `assets_dir` or set {ASSETS_VARIABLE}"
        )
    root = Path(chosen)
    for needed in ("put_on_plate_25/more_carrot/model_db.json", "widowx250s/wx250s.urdf"):
        if not (root / needed).exists():
            raise SimulatorUnavailableError(
                f"{root / needed} is missing; point `assets_dir` at the folder of the assets"
            )
    return root
