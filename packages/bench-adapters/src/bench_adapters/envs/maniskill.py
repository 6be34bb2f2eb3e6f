"""ManiSkill3 tasks on the CPU: one simulator, stepped in chunks, rendered once per chunk.

Three things make it faster than stock ``env.step`` and change nothing a policy sees: visual meshes
are decimated (physics keeps its own collision shapes), only the cameras that are asked for exist,
and inside a chunk the simulation advances without observing.
"""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench_adapters.envs._build import (
    build_task,
    find_task,
    flat_box,
    leaves,
    observation_space,
)
from bench_adapters.envs._tasks import INSTRUCTIONS, action_spec, default_control_mode, registry
from bench_adapters.envs.base import EnvChunk, Expert
from bench_adapters.experts.maniskill import failure_modes, make_expert, perturbations


def task_names() -> list[str]:
    """Return the tasks that ManiSkill registers, of which some need assets downloaded first.

    Raises:
        SimulatorUnavailableError: If ManiSkill is not installed.
    """
    return sorted(registry())


def make(name: str, **kwargs: Any) -> "ManiSkillEnvironment":
    """Build one ManiSkill environment; see `ManiSkillEnvironment` for the arguments.

    Raises:
        ValueError: If ``name`` is not a ManiSkill task.
        SimulatorUnavailableError: If ManiSkill, a Vulkan device or the task's assets are missing.
    """
    return ManiSkillEnvironment(name, **kwargs)


class ManiSkillEnvironment:
    """One ManiSkill task on the CPU backend (see `envs.base.Environment`).

    Observations are what ManiSkill itself gives an ``rgb`` policy: the camera images, and
    proprioception plus task extras (goal position and the like) flattened to
    ``observation.state``; joint velocities only on request. Actions are those of
    ``control_mode``, in [-1, 1].

    Args:
        name: ManiSkill task id, for example ``PickCube-v1``.
        cameras: Sensors to render, by ManiSkill's names; ``hand_camera`` and ``base_camera`` exist
            on ``panda_wristcam``. None is the hand camera, or the task's first where there is none;
            ``()`` renders nothing.
        image_size: Height and width of the frames in pixels, one number or one per camera.
        robot_uids: ManiSkill robot; None is the wrist-camera Panda where the task takes a Panda,
            else the task's own. With several robots an action is theirs one after the other.
        control_mode: ManiSkill controller; ``pd_ee_delta_pos`` moves the tool by up to ±0.1 m per
            step in the robot's base frame, last dimension the gripper (1 open, −1 closed). None is
            ``pd_ee_target_delta_pose`` for tasks that need the tool turned, else
            ``pd_ee_delta_pos``.
        max_episode_steps: Time limit in primitive steps (20 per second); the task's own when None.
        joint_velocities: Put them into the state. They tell a cloned policy what the demonstrator
            was doing, and it copies that instead of looking.
        ignore_terminations: Go on after success until the time limit, so that success at the end
            can differ from success at any time.
        max_visual_triangles: Triangles each rendered body keeps; 0 leaves the meshes alone.
        reward_mode: ``sparse`` (1 on success) or one of ManiSkill's dense modes. None is
            ``sparse``, or ``none`` for a task without success.

    Raises:
        ValueError: If the task, a camera or an argument is not known.
        SimulatorUnavailableError: If ManiSkill, a Vulkan device or the task's assets are missing.
    """

    def __init__(
        self,
        name: str,
        *,
        cameras: Sequence[str] | None = None,
        image_size: int | Mapping[str, int] = 64,
        robot_uids: str | tuple[str, ...] | None = None,
        control_mode: str | None = None,
        max_episode_steps: int | None = None,
        joint_velocities: bool = False,
        ignore_terminations: bool = False,
        max_visual_triangles: int = 1500,
        reward_mode: str | None = None,
    ) -> None:
        spec, robot = find_task(name, robot_uids)
        self.env_id = f"maniskill:{name}"
        self.name = name
        self.max_episode_steps = int(max_episode_steps or spec.max_episode_steps)
        self.task = INSTRUCTIONS.get(name, name)
        self.failure_modes = failure_modes(name)
        self.perturbations = perturbations(name)
        self.versions = {
            "mani_skill": version("mani_skill"),
            "sapien": version("sapien"),
        }
        self._joint_velocities = joint_velocities
        self._ignore_terminations = ignore_terminations
        control_mode = control_mode or default_control_mode(name, robot)
        self.env = build_task(
            spec,
            num_envs=1,
            sim_backend="physx_cpu",
            render_backend="cpu",
            cameras=cameras,
            image_size=image_size,
            max_visual_triangles=max_visual_triangles,
            robot_uids=robot,
            control_mode=control_mode,
            reward_mode=reward_mode,
        )
        self._cameras = self.env.camera_names
        self.fps = int(self.env.control_freq)
        self._elapsed = 0
        self._ended = True
        self.action_space = flat_box(self.env.single_action_space)
        self.action_spec = action_spec(control_mode, len(self.action_space.low))
        state_dim = len(self._state(self.env.get_info()))
        self.observation_space = observation_space(self.env, state_dim)

    def reset(self, seed: int) -> dict[str, Any]:
        """Start the episode that ``seed`` determines.

        Args:
            seed: Any integer ≥ 0; the same seed gives the same initial state.

        Returns:
            The first observation, unbatched.
        """
        self._elapsed = 0
        self._ended = False
        self.env.reset(seed=int(seed))
        self._forget_contacts()
        return self._observe(self.env.get_info())

    def _forget_contacts(self) -> None:
        # PhysX reports the contacts of its last step, which belongs to the episode before: a grasp
        # there would be a grasp in the first observation here.
        from bench_adapters.envs._lean import can_grasp

        if not can_grasp(self.env.agent):
            return
        state = self.env.get_state_dict()
        self.env.scene.step()
        self.env.set_state_dict(state)

    def step_chunk(self, actions: NDArray[np.float32]) -> EnvChunk:
        """Execute up to ``k`` primitive actions and observe once, after the last.

        Args:
            actions: ``(k, a)`` in [-1, 1]; values outside are clipped by ManiSkill's controller.

        Returns:
            Rows of length ``k``; steps after the episode's end are not executed.
        """
        k = len(actions)
        reward = np.zeros(k, np.float32)
        terminated, truncated, valid, success = (np.zeros(k, bool) for _ in range(4))
        info: dict[str, Any] | None = None
        for i, action in enumerate(actions):
            if self._ended:
                break
            info = self.env.advance(np.asarray(action, np.float32))
            self._elapsed += 1
            success[i] = bool(info.get("success", False))
            reward[i] = self._reward(info, action)
            ending = success[i] or bool(info.get("fail", False))
            terminated[i] = ending and not self._ignore_terminations
            truncated[i] = self._elapsed >= self.max_episode_steps and not terminated[i]
            valid[i] = True
            self._ended = bool(terminated[i] or truncated[i])
        observation = self._observe(self.env.get_info() if info is None else info)
        return EnvChunk(observation, reward, terminated, truncated, valid, success)

    def _reward(self, info: dict[str, Any], action: NDArray[np.float32]) -> float:
        if self.env.reward_mode == "none":
            return 0.0
        if self.env.reward_mode == "sparse":
            return float(info.get("success", 0.0)) - float(info.get("fail", 0.0))
        import torch  # ManiSkill has loaded it

        return float(self.env.get_reward(obs=None, action=torch.as_tensor(action)[None], info=info))

    def make_expert(self, *, noise: float, failure: str | None, rng: np.random.Generator) -> Expert:
        """Return the task's scripted expert; see `bench_adapters.experts.maniskill`."""
        return make_expert(self, noise=noise, failure=failure, rng=rng)

    def close(self) -> None:
        """Free the simulator."""
        self.env.close()

    def _observe(self, info: dict[str, Any]) -> dict[str, Any]:
        data = self.env._get_obs_sensor_data() if self._cameras else {}
        images = {
            f"observation.images.{camera}": data[camera]["rgb"][0].numpy()
            for camera in self._cameras
        }
        return {**images, "observation.state": self._state(info), "task": self.task}

    def _state(self, info: dict[str, Any]) -> NDArray[np.float32]:
        parts = {**self.env._get_obs_agent(), **self.env._get_obs_extra(info)}
        if not self._joint_velocities:
            parts.pop("qvel", None)
        flat = [np.asarray(part, np.float32).reshape(-1) for part in leaves(parts)]
        return np.concatenate(flat)
