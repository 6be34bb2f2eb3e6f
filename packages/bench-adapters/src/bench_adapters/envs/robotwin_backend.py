"""RoboTwin 2.0 itself, inside a process of its own.

Its code wants the clone as working directory, reseeds the global generators, prints, and keeps
state in module globals: nothing here runs in the process of a user.
"""

import contextlib
import copy
import importlib
import os
import random
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench_adapters.envs._robotwin_absent import stand_in
from bench_adapters.envs.base import EnvChunk
from bench_adapters.envs.robotwin_motion import run_as_spline
from bench_adapters.errors import BenchAdaptersError, SimulatorUnavailableError

__all__ = ["RoboTwinBackend", "Settings"]

SAVE_FREQ = 15
"""Physics steps between two frames of a demonstration."""
STRIDE = 10_000_000
"""Between the scenes that are tried for one seed. The next seed's is not among them: two seeds that
played the same scene would count as two trials. Nor are those of recordings, from 1,000,000 on."""
_ABSENT_ON_CPU = ("open3d", "curobo", "mplib", "pytorch3d")


class Settings(NamedTuple):
    """Arguments of `bench_adapters.envs.robotwin.RoboTwinEnvironment`, checked."""

    root: Path
    task: str
    config: str
    cameras: tuple[str, ...]
    mode: str
    instruction_type: str
    device: str
    expert_check: bool
    max_seed_tries: int
    split: str
    shadows: bool
    max_episode_steps: int


class RoboTwinBackend:
    """One task of the clone; see `bench_adapters.envs.robotwin.RoboTwinEnvironment`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._cpu = settings.device == "cpu"
        os.chdir(settings.root)
        sys.path.insert(0, str(settings.root))
        with _quiet(), _assets_named(settings.root):
            if self._cpu:
                stand_in(_ABSENT_ON_CPU)
            self._base = importlib.import_module("envs._base_task").Base_Task
            self._configs = importlib.import_module("envs._GLOBAL_CONFIGS")
            module = importlib.import_module(f"envs.{settings.task}")
            self._unstable = importlib.import_module("envs.utils").UnStableError
            self._prepare()
            self._args = self._arguments()
        self._clutter_defaults = copy.deepcopy(self._base.get_cluttered_table.__defaults__)
        self._task = getattr(module, settings.task)()
        self._open = False
        self._ended = True
        self._elapsed = 0
        self.seed_used = -1
        self.instruction = ""

    def _prepare(self) -> None:
        """Make it run without CUDA."""
        if not self._cpu:
            return
        import sapien

        from bench_adapters.envs.robotwin_planner import set_planner

        importlib.import_module("envs.robot.robot").Robot.set_planner = set_planner
        shader = sapien.render.set_camera_shader_dir
        sapien.render.set_camera_shader_dir = lambda _: shader("default")
        for name in ("samples_per_pixel", "path_depth", "denoiser"):
            setattr(sapien.render, f"set_ray_tracing_{name}", lambda _: None)
        setup, shadows = self._base.setup_scene, self._settings.shadows
        self._base.setup_scene = lambda task, **kwargs: setup(task, **{"shadow": shadows, **kwargs})

    def _arguments(self) -> dict[str, Any]:
        """Return what ``setup_demo`` wants, as ``script/eval_policy.py`` puts it together."""
        args = self._load(f"{self._settings.config}.yml")
        types_ = self._load("_embodiment_config.yml")
        head = self._load("_camera_config.yml")[args["camera"]["head_camera_type"]]
        names = args["embodiment"]
        left, right = names[0], names[0 if len(names) == 1 else 1]
        files = {"left": types_[left]["file_path"], "right": types_[right]["file_path"]}
        for side, folder in files.items():
            args[f"{side}_robot_file"] = folder
            args[f"{side}_embodiment_config"] = _read_yaml(Path(folder) / "config.yml")
        if len(names) == 3:
            args["embodiment_dis"] = names[2]
        return {
            **args,
            "task_name": self._settings.task,
            "task_config": self._settings.config,
            "dual_arm_embodied": len(names) == 1,
            "head_camera_h": head["h"],
            "head_camera_w": head["w"],
            "eval_mode": self._settings.split == "eval",
            "render_freq": 0,
            "eval_video_save_dir": None,
        }

    def _load(self, name: str) -> Any:
        return _read_yaml(Path(self._configs.CONFIGS_PATH) / name)

    def describe(self) -> dict[str, Any]:
        """Return sizes and versions."""
        joints = [
            len(self._args[f"{side}_embodiment_config"]["arm_joints_name"][i])
            for i, side in enumerate(("left", "right"))
        ]
        cameras, kinds = self._args["camera"], self._load("_camera_config.yml")
        sizes = {}
        for name in self._settings.cameras:
            kind = "wrist" if name in ("left_camera", "right_camera") else "head"
            size = kinds[cameras[f"{kind}_camera_type"]]
            sizes[name] = (int(size["h"]), int(size["w"]))
        return {
            "joints": joints,
            "cameras": sizes,
            "versions": {
                "robotwin": _commit(self._settings.root),
                "robotwin_layout": "main" if "env_cfg" in self._configs.CONFIGS_PATH else "stable",
                "renderer": "raster" if self._cpu else "ray tracing",
                "planner": "kinematic" if self._cpu else "curobo",
            },
        }

    def reset(self, seed: int) -> dict[str, Any]:
        """Start the episode of ``seed``, or of the first usable one of those kept for it."""
        last: Exception | None = None
        for candidate in range(seed, seed + self._settings.max_seed_tries * STRIDE, STRIDE):
            try:
                passed, info = self._rehearse(candidate)
                if not passed:
                    last = BenchAdaptersError("the scripted expert does not solve it")
                    continue
                self._setup(candidate)
            except self._unstable as error:
                last = error
                continue
            self.seed_used = candidate
            self.instruction = self._instruct(candidate, info)
            self._elapsed, self._ended = 0, False
            return self._observe()
        raise BenchAdaptersError(
            f"robotwin:{self._settings.task} found no usable scene for seed {seed} in "
            f"{self._settings.max_seed_tries} tries; the last one: {last}"
        ) from last

    def check_seed(self, seed: int) -> bool:
        """Say whether the scripted expert solves ``seed``."""
        try:
            return self._run_expert(seed)[0]
        except self._unstable:
            return False

    def expert_actions(self, seed: int) -> NDArray[np.float32]:
        """Return the joint targets ``(k, a)`` of the expert, one every `SAVE_FREQ` steps."""
        frames: list[Any] = []
        self._task._take_picture = lambda: frames.append(self._vector())
        try:
            self._run_expert(seed)
        finally:
            del self._task._take_picture
        return np.array(frames, np.float32)

    def _rehearse(self, seed: int) -> tuple[bool, dict[str, str]]:
        if self._settings.expert_check:
            return self._run_expert(seed)
        # Without a plan the expert moves nothing, and still says which object and arm it means.
        self._setup(seed)
        self._task.plan_success = False
        info: dict[str, str] = {}
        with _quiet(), contextlib.suppress(Exception):
            info = self._task.play_once()["info"]
        return True, info

    def _run_expert(self, seed: int) -> tuple[bool, dict[str, str]]:
        self._setup(seed)
        with _quiet():
            try:
                info = self._task.play_once()["info"]
            except self._unstable:
                raise
            except Exception:  # as the official loop does: the next seed
                return False, {}
            return bool(self._task.plan_success and self._task.check_success()), info

    def _setup(self, seed: int) -> None:
        self.close()
        # A mutable default argument drifts with every scene whose table is moved.
        self._base.get_cluttered_table.__defaults__ = copy.deepcopy(self._clutter_defaults)
        random.seed(seed)
        self._open = True
        with _quiet(), _assets_named(self._settings.root):
            args = copy.deepcopy(self._args)
            self._task.setup_demo(now_ep_num=0, seed=seed, is_test=True, **args)
        self._task.step_lim = self._settings.max_episode_steps

    def _instruct(self, seed: int, info: dict[str, str]) -> str:
        """Draw an instruction with the seed: RoboTwin's own draw is not seeded."""
        folder = str(Path(self._configs.DESCRIPTION_PATH) / "utils")
        if folder not in sys.path:
            sys.path.append(folder)
        module = importlib.import_module("generate_episode_instructions")
        random.seed(seed)
        with _quiet():
            texts = module.generate_episode_descriptions(self._settings.task, [info], 100)
        choices = texts[0][self._settings.instruction_type] if texts else []
        if not choices:
            return self._settings.task.replace("_", " ")
        return str(choices[random.randrange(len(choices))])

    def step(self, actions: NDArray[np.float32]) -> EnvChunk:
        """Execute a chunk and observe once."""
        k = len(actions)
        reward = np.zeros(k, np.float32)
        terminated, truncated, valid = (np.zeros(k, bool) for _ in range(3))
        left = self._settings.max_episode_steps - self._elapsed
        executed = 0
        if not self._ended:
            wanted = np.asarray(actions[:left], np.float64)
            executed = self._execute(wanted)
            self._elapsed += executed
            valid[:executed] = True
            succeeded = bool(self._task.eval_success)
            terminated[executed - 1] = succeeded
            reward[executed - 1] = float(succeeded)
            timeout = self._elapsed >= self._settings.max_episode_steps
            truncated[executed - 1] = timeout and not succeeded
            self._ended = succeeded or timeout
        return EnvChunk(self._observe(), reward, terminated, truncated, valid, terminated.copy())

    def _execute(self, actions: NDArray[np.float64]) -> int:
        """Return how many of the actions were executed."""
        with _quiet():
            if self._settings.mode == "spline":
                return run_as_spline(self._task, actions)
            for i, action in enumerate(actions):
                self._task.take_action(action)
                if self._task.eval_success:
                    return i + 1
        return len(actions)

    def _vector(self) -> NDArray[np.float32]:
        robot = self._task.robot
        both = [*robot.get_left_arm_jointState(), *robot.get_right_arm_jointState()]
        return np.array(both, np.float32)

    def _observe(self) -> dict[str, Any]:
        with _quiet():
            self._task._update_render()
            cameras = self._task.cameras
            images = {}
            for name, camera in self._cameras(cameras).items():
                camera.take_picture()
                rgba = np.asarray(camera.get_picture("Color"))
                images[f"observation.images.{name}"] = (rgba[..., :3] * 255).clip(0, 255)
        pictures = {key: image.astype(np.uint8) for key, image in images.items()}
        return {**pictures, "observation.state": self._vector(), "task": self.instruction}

    def _cameras(self, cameras: Any) -> dict[str, Any]:
        known = dict(zip(cameras.static_camera_name, cameras.static_camera_list, strict=True))
        known |= {"left_camera": cameras.left_camera, "right_camera": cameras.right_camera}
        return {name: known[name] for name in self._settings.cameras}

    def close(self) -> None:
        """Free the scene."""
        if self._open:
            self._open = False
            with _quiet(), contextlib.suppress(AttributeError):
                self._task.close_env()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with (
        open(os.devnull, "w") as sink,
        contextlib.redirect_stdout(sink),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _assets_named(root: Path) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, ImportError) as error:
        what = "assets" if isinstance(error, FileNotFoundError) else "packages"
        raise SimulatorUnavailableError(
            f"RoboTwin in {root} lacks {what} ({error}); follow its installation guide "
            f"(`bash script/_download_assets.sh` fetches the assets)"
        ) from error


def _read_yaml(path: Path) -> Any:
    import yaml

    return yaml.safe_load(path.read_text())


def _commit(root: Path) -> str:
    if not (root / ".git").exists():
        return "unknown"
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()
