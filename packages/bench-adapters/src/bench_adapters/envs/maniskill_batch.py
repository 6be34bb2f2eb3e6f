"""ManiSkill's batched simulation, for a GPU, behind the contract of `types.VectorEnv`."""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from bench_adapters.envs._build import (
    build_task,
    find_task,
    flat_box,
    leaves,
    observation_space,
)
from bench_adapters.envs._tasks import INSTRUCTIONS, action_spec, default_control_mode
from bench_adapters.types import ChunkStep, Info, Observation

__all__ = ["ManiSkillBatch"]


class ManiSkillBatch:
    """``num_envs`` copies of a task in one simulation; observations and outcomes are tensors.

    The contract is that of `ProcessVectorEnv`, with torch tensors on the simulation's device in
    place of arrays; actions may be either. The scenes of a batch advance together, so an
    environment whose episode ended goes on inside the simulator with idle actions; its state is put
    back before the chunk is observed, and it reports ``valid`` false and its last observation until
    it is reset. Each environment's first state is drawn from its own seed, whatever its place.

    On a GPU an episode is repeatable for the same ``num_envs`` only, and after a partial reset the
    first observation may tell a grasp of the episode before.

    Args:
        name: ManiSkill task id, for example ``PickCube-v1``.
        num_envs: Number of environments; more than one needs a GPU.
        sim_backend: ManiSkill's; ``physx_cpu`` runs one environment without a GPU.
        render_backend: ManiSkill's; ``cpu`` is software rendering.
        cameras: See `ManiSkillEnvironment`, as for the following.
        image_size: Height and width of the frames in pixels.
        robot_uids: ManiSkill robot, a single one.
        control_mode: ManiSkill controller.
        max_episode_steps: Time limit in primitive steps; the task's own when None.
        joint_velocities: Put them into the state.
        ignore_terminations: Go on after success until the time limit.
        max_visual_triangles: Triangles each rendered body keeps; 0 leaves the meshes alone.
        reward_mode: ``sparse`` or one of ManiSkill's dense modes.

    Raises:
        ValueError: If the task, a camera or an argument is not known or does not work in a batch.
        SimulatorUnavailableError: If ManiSkill, a device or assets are missing.
    """

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.DISABLED}  # noqa: RUF012 gymnasium's

    def __init__(  # noqa: PLR0913  # a task's settings, by name
        self,
        name: str,
        *,
        num_envs: int = 1,
        sim_backend: str = "physx_cuda",
        render_backend: str = "gpu",
        cameras: Sequence[str] | None = None,
        image_size: int | Mapping[str, int] = 64,
        robot_uids: str | None = None,
        control_mode: str | None = None,
        max_episode_steps: int | None = None,
        joint_velocities: bool = False,
        ignore_terminations: bool = False,
        max_visual_triangles: int = 0,
        reward_mode: str | None = None,
    ) -> None:
        if num_envs < 1 or (num_envs > 1 and sim_backend == "physx_cpu"):
            raise ValueError(
                f"Expected `num_envs` of at least 1, and of 1 with `sim_backend` 'physx_cpu', got "
                f"{num_envs}; `make` runs several environments on the CPU."
            )
        spec, robot = find_task(name, robot_uids)
        control_mode = control_mode or default_control_mode(name, robot)
        if num_envs > 1 and "target" in (control_mode or ""):
            # ManiSkill 3.0.1 resets the commanded poses of all when it resets some.
            raise ValueError(
                f"Expected a `control_mode` without a commanded target in a batch, got "
                f"{control_mode!r}; use 'pd_ee_delta_pose' or a joint mode."
            )
        self.num_envs = num_envs
        self.env_id = f"maniskill:{name}"
        self.task = INSTRUCTIONS.get(name, name)
        self.max_episode_steps = int(max_episode_steps or spec.max_episode_steps)
        self.versions = {package: version(package) for package in ("mani_skill", "sapien")}
        self.versions["sim_backend"] = sim_backend
        self._joint_velocities = joint_velocities
        self._ignore_terminations = ignore_terminations
        self.env = build_task(
            spec,
            num_envs=num_envs,
            sim_backend=sim_backend,
            render_backend=render_backend,
            cameras=cameras,
            image_size=image_size,
            max_visual_triangles=max_visual_triangles,
            robot_uids=robot,
            control_mode=control_mode,
            reward_mode=reward_mode,
        )
        self.device: torch.device = self.env.device
        self.fps = int(self.env.control_freq)
        self.single_action_space = flat_box(self.env.single_action_space)
        self.action_spec = action_spec(control_mode, len(self.single_action_space.low))
        state_dim = self._state(self.env.get_info()).shape[1]
        self.single_observation_space = observation_space(self.env, state_dim)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._ended = torch.ones(num_envs, dtype=torch.bool, device=self.device)
        self._elapsed = torch.zeros(num_envs, dtype=torch.long, device=self.device)
        self._seeds = np.zeros(num_envs, np.int64)
        self._rng = np.random.default_rng()
        self._last: dict[str, torch.Tensor] = {}

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, Info]:
        """Start new episodes; see `ProcessVectorEnv.reset`.

        Raises:
            ValueError: If ``seed`` or ``options`` do not fit.
        """
        mask = self._reset_mask(options)
        seeds = self._checked_seeds(seed)
        if mask.any():
            self._seeds = np.where(mask, seeds, self._seeds)
            # The first time all of them: the rows outside the mask have nothing to show yet.
            whole = mask.all() or not self._last
            rows = torch.as_tensor(np.flatnonzero(mask | whole), device=self.device)
            self.env.reset(seed=self._seeds.tolist(), options={"env_idx": rows})
            if whole:
                self._forget_contacts()
            chosen = torch.as_tensor(mask, device=self.device)
            self._ended &= ~chosen
            self._elapsed[chosen] = 0
            self._keep(self._observe(self._state(self.env.get_info())), chosen)
        return self._observation(), {"seed": seeds, "_seed": mask}

    def _forget_contacts(self) -> None:
        # As in `ManiSkillEnvironment`: contacts are those of the episode before.
        state = self.env.get_state_dict()
        self.env.scene.step()
        self.env.set_state_dict(state)

    def step_chunk(self, actions: Any) -> ChunkStep:
        """Execute ``actions`` ``(n, k, a)``, a tensor or an array; see `ChunkStep`.

        Raises:
            ValueError: If the shape is wrong or an action is not finite.
            gymnasium.error.ResetNeeded: If there was no reset.
        """
        if not self._last:
            raise ResetNeeded("call `reset` before `step_chunk`")
        started = ~self._ended
        actions = self._checked_actions(actions, started)
        n, k = actions.shape[:2]
        reward = torch.zeros((n, k), device=self.device)
        flags = torch.zeros((4, n, k), dtype=torch.bool, device=self.device)
        terminated, truncated, valid, success = flags
        state = self._last["observation.state"].clone()
        final = torch.empty(0)
        for i in range(k):
            live = ~self._ended
            if not live.any():
                break
            info = self._advance(torch.where(live[:, None], actions[:, i], 0.0))
            self._elapsed += live
            zeros = torch.zeros_like(live)
            success[:, i] = live & info.get("success", zeros)
            reward[:, i] = self._reward(info, actions[:, i]) * live
            ending = live & (success[:, i] | info.get("fail", zeros))
            terminated[:, i] = ending & (not self._ignore_terminations)
            truncated[:, i] = live & (self._elapsed >= self.max_episode_steps) & ~terminated[:, i]
            valid[:, i] = live
            self._ended |= terminated[:, i] | truncated[:, i]
            # Of a row that ends here, this stays what is observed and where it is put back to.
            state[live] = self._state(info)[live]
            scene = self.env.get_state()
            final = torch.where(live[:, None], scene, final) if len(final) else scene.clone()
        ended = (terminated | truncated).any(dim=1)
        if ended.any():
            rows = ended.nonzero()[:, 0]
            self.env.set_state(final[rows], rows)
        if started.any():
            self._keep(self._observe(state), started)
        observation = self._observation()
        found: Info = {"success": success, "final_obs": dict(observation), "_final_obs": ended}
        return ChunkStep(observation, reward, terminated, truncated, valid, found)  # type: ignore[arg-type]

    def close(self) -> None:
        """Free the simulator."""
        self.env.close()

    def _advance(self, actions: torch.Tensor) -> dict[str, Any]:
        self.env._step_action(actions)
        self.env._elapsed_steps += 1
        return dict(self.env.get_info())

    def _reward(self, info: dict[str, Any], action: torch.Tensor) -> Any:
        if self.env.reward_mode == "none":
            return 0.0
        if self.env.reward_mode == "sparse":
            return 1.0 * info.get("success", 0.0) - 1.0 * info.get("fail", 0.0)
        return self.env.get_reward(obs=None, action=action, info=info)

    def _state(self, info: dict[str, Any]) -> torch.Tensor:
        parts = {**self.env._get_obs_agent(), **self.env._get_obs_extra(info)}
        if not self._joint_velocities:
            parts.pop("qvel", None)
        return torch.cat([part.reshape(self.num_envs, -1).float() for part in leaves(parts)], dim=1)

    def _observe(self, state: torch.Tensor) -> dict[str, torch.Tensor]:
        cameras = self.env.camera_names
        data = self.env._get_obs_sensor_data() if cameras else {}
        images = {f"observation.images.{camera}": data[camera]["rgb"] for camera in cameras}
        return {**images, "observation.state": state}

    def _keep(self, observation: dict[str, torch.Tensor], rows: torch.Tensor) -> None:
        for key, new in observation.items():
            old = self._last.get(key, new)
            mask = rows.view(-1, *[1] * (new.ndim - 1))
            self._last[key] = torch.where(mask, new, old)

    def _observation(self) -> Observation:
        tensors = {key: tensor.clone() for key, tensor in self._last.items()}
        return {**tensors, "task": [self.task] * self.num_envs}

    def _reset_mask(self, options: dict[str, Any] | None) -> np.ndarray[Any, np.dtype[np.bool_]]:
        unknown = set(options or {}) - {"reset_mask"}
        if unknown:
            raise ValueError(f"unknown `options` {sorted(unknown)}; there is only 'reset_mask'")
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, bool))
        mask = np.asarray(mask.cpu() if isinstance(mask, torch.Tensor) else mask)
        if mask.shape != (self.num_envs,) or mask.dtype != bool:
            raise ValueError(
                f"Expected `reset_mask` to be bool ({self.num_envs},), got {mask.dtype} "
                f"{mask.shape}."
            )
        return mask

    def _checked_seeds(
        self, seed: int | Sequence[int] | None
    ) -> np.ndarray[Any, np.dtype[np.int64]]:
        if seed is None:
            return self._rng.integers(2**31, size=self.num_envs)
        seeds = np.asarray(seed)
        if seeds.ndim == 0 and seeds.dtype.kind in "iu":
            seeds = seeds + np.arange(self.num_envs)
        if seeds.shape != (self.num_envs,) or seeds.dtype.kind not in "iu" or seeds.min() < 0:
            raise ValueError(
                f"Expected `seed` to be None, an int ≥ 0 or {self.num_envs} of them, got {seed!r}."
            )
        return seeds.astype(np.int64)

    def _checked_actions(self, actions: Any, live: torch.Tensor) -> torch.Tensor:
        tensor = torch.as_tensor(actions, dtype=torch.float32, device=self.device)
        assert self.single_action_space.shape is not None
        (action_dim,) = self.single_action_space.shape
        expected = (self.num_envs, action_dim)
        if tensor.ndim != 3 or tensor.shape[::2] != expected or tensor.shape[1] == 0:
            raise ValueError(
                f"Expected `actions` of shape ({self.num_envs}, k, {action_dim}) with k ≥ 1, got "
                f"{tuple(tensor.shape)}."
            )
        bad = (~torch.isfinite(tensor) & live[:, None, None]).nonzero()
        if len(bad):
            env, step, dim = bad[0].tolist()
            raise ValueError(
                f"Expected finite `actions`, got {tensor[env, step, dim]} for environment {env} at "
                f"step {step} of the chunk in dimension {dim}."
            )
        return tensor
