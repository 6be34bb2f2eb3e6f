"""A tiny world without a simulator: a dot reaches the dot that the instruction names."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from vla_rl.types import Observation

CAMERA = "front"
TASKS = ("reach the green dot", "reach the blue dot")
_STEP = 0.1  # world units per unit of action; the world is [-1, 1] squared
_RADIUS = 0.15  # world units


class ToyChunkStep(NamedTuple):
    """See `vla_rl.types.ChunkStep`."""

    observation: Observation
    reward: NDArray[np.float32]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    valid: NDArray[np.bool_]
    info: dict[str, Any]


class ToyReachEnv:
    """Vector environment of `vla_rl.types.VecEnv`: two-dimensional reaching seen by a camera.

    The agent is the red dot. An action ``(dx, dy)`` in [-1, 1] moves it by up to a tenth of a world
    unit. Reaching the named dot is success, ends the episode and earns a reward of 1.
    """

    action_dim = 2

    def __init__(
        self,
        *,
        num_envs: int = 8,
        image_size: int = 16,
        max_episode_steps: int = 24,
        tasks: Sequence[str] = TASKS,
        observe: Literal["image", "state"] = "image",
        autoreset: Literal["disabled", "same_step"] = "disabled",
        min_distance: float = 3 * _RADIUS,
    ) -> None:
        """Create the environments; call `reset` before stepping.

        Args:
            num_envs: Worlds stepped together.
            image_size: Height and width of the camera's image.
            max_episode_steps: Primitive steps until an episode is truncated.
            tasks: Instructions that episodes may have, out of `TASKS`.
            observe: The state holds where the agent is, ``(2,)``, and an ``image`` shows the dots;
                or the ``state`` holds the named dot, too, ``(4,)``, and there is no image.
            autoreset: After its end an environment waits (``disabled``) or starts anew within the
                same chunk (``same_step``).
            min_distance: From the start to the goal, in world units, at most 1.2: there is a start
                that far from any goal.
        """
        unknown = sorted(set(tasks) - set(TASKS))
        if unknown or not tasks:
            raise ValueError(f"Expected `tasks` out of {TASKS}, got {list(tasks)}.")
        if not min_distance <= 1.2:
            raise ValueError(f"Expected `min_distance` of at most 1.2, got {min_distance}.")
        self.min_distance = min_distance
        self._goals = [TASKS.index(task) for task in tasks]
        self.num_envs, self.image_size = num_envs, image_size
        self.max_episode_steps = max_episode_steps
        self._observe_image = observe == "image"
        self.state_dim = 2 if observe == "image" else 4
        self.metadata = {"autoreset_mode": autoreset}
        self._rngs = [np.random.default_rng(0) for _ in range(num_envs)]
        self._dots = np.zeros((num_envs, 3, 2))  # agent, green, blue
        self._goal = np.zeros(num_envs, dtype=np.int64)
        self._elapsed = np.zeros(num_envs, dtype=np.int64)
        self._over = np.ones(num_envs, dtype=np.bool_)

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start new episodes; ``options["reset_mask"]`` ``(n,)`` restarts only some."""
        if seed is not None and not isinstance(seed, int) and len(seed) != self.num_envs:
            raise ValueError(f"Expected {self.num_envs} seeds, got {len(seed)}.")
        seeds = range(seed, seed + self.num_envs) if isinstance(seed, int) else seed
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, dtype=np.bool_))
        for env in np.flatnonzero(mask):
            if seeds is not None:
                self._rngs[env] = np.random.default_rng(seeds[int(env)])
            self._start(int(env))
        return self._observe(), {}

    def step_chunk(self, actions: Any) -> ToyChunkStep:
        """Execute ``actions`` ``(n, k, 2)``; ended environments execute nothing."""
        actions = np.asarray(actions, dtype=np.float64)
        if actions.ndim != 3 or actions.shape[::2] != (self.num_envs, self.action_dim):
            raise ValueError(
                f"Expected `actions` of shape ({self.num_envs}, k, {self.action_dim}), "
                f"got {actions.shape}."
            )
        shape = actions.shape[:2]
        valid, success, truncated = (np.zeros(shape, dtype=np.bool_) for _ in range(3))
        ended = np.zeros(self.num_envs, dtype=np.bool_)
        final = self._observe()
        for i in range(shape[1]):
            valid[:, i] = ~self._over
            moved = _STEP * actions[:, i].clip(-1.0, 1.0) * valid[:, i, None]
            self._dots[:, 0] = (self._dots[:, 0] + moved).clip(-1.0, 1.0)
            self._elapsed += valid[:, i]
            success[:, i] = valid[:, i] & (self._distance() < _RADIUS)
            truncated[:, i] = (
                valid[:, i] & ~success[:, i] & (self._elapsed >= self.max_episode_steps)
            )
            now = success[:, i] | truncated[:, i]
            if now.any():
                self._finish(now & ~ended, now, final)
                ended |= now
        info = {"success": success, "final_obs": final, "_final_obs": ended}
        reward = success.astype(np.float32)
        return ToyChunkStep(self._observe(), reward, success.copy(), truncated, valid, info)

    def expert_actions(self) -> NDArray[np.float64]:
        """Return the best next action of each environment, ``(n, 2)`` in [-1, 1]."""
        delta = self._dots[np.arange(self.num_envs), 1 + self._goal] - self._dots[:, 0]
        return (delta / _STEP).clip(-1.0, 1.0)

    def close(self) -> None:
        """Do nothing; there is nothing to free."""

    def _start(self, env: int) -> None:
        rng = self._rngs[env]
        self._goal[env] = rng.choice(self._goals)
        self._dots[env] = rng.uniform(-0.9, 0.9, size=(3, 2))
        while self._distance()[env] < self.min_distance:
            self._dots[env, 0] = rng.uniform(-0.9, 0.9, size=2)
        self._elapsed[env] = 0
        self._over[env] = False

    def _finish(
        self, first: NDArray[np.bool_], now: NDArray[np.bool_], final: dict[str, Any]
    ) -> None:
        """Keep the last observation of a first episode, then wait or start anew."""
        observed = self._observe()
        for key in observed:
            for env in np.flatnonzero(first):
                final[key][env] = observed[key][env]
        self._over |= now
        if self.metadata["autoreset_mode"] == "same_step":
            for env in np.flatnonzero(now):
                self._start(int(env))

    def _distance(self) -> NDArray[np.float64]:
        goal = self._dots[np.arange(self.num_envs), 1 + self._goal]
        return np.asarray(np.linalg.norm(goal - self._dots[:, 0], axis=-1))

    def _observe(self) -> dict[str, Any]:
        task = [TASKS[goal] for goal in self._goal]
        if not self._observe_image:
            goal = self._dots[np.arange(self.num_envs), 1 + self._goal]
            state = np.concatenate([self._dots[:, 0], goal], -1).astype(np.float32)
            return {"observation.state": state, "task": task}
        axis = (np.arange(self.image_size) + 0.5) * 2.0 / self.image_size - 1.0
        width = 1.5 * 2.0 / self.image_size
        # Separable Gaussian dots, one colour channel each: n, dot, pixel.
        x, y = (np.exp(-0.5 * ((axis - self._dots[..., i, None]) / width) ** 2) for i in (0, 1))
        image = np.rint(255.0 * np.einsum("ncy,ncx->nyxc", y, x)).astype(np.uint8)
        return {
            f"observation.images.{CAMERA}": image,
            "observation.state": self._dots[:, 0].astype(np.float32),
            "task": task,
        }


class ToyProgressModel:
    """A `vla_rl.types.ProgressModel` that measures the distance to the named dot.

    In the image, or where the state holds the named dot, there.
    """

    def __init__(self, *, reach: float = 1.0, near_miss: float = 1.0) -> None:
        """Choose how far it sees and how well it tells a success from a near miss.

        Args:
            reach: Distance from the goal's edge at which progress is 0, in world units; farther
                away nothing makes any progress. The world is 2.6 across.
            near_miss: Progress just outside the goal, in [0, 1].
        """
        self.reach, self.near_miss = reach, near_miss

    def reset(self, env_mask: Any = None) -> None:
        """Do nothing: it has no history."""

    def progress(self, obs: Observation) -> Float[Tensor, " n"]:
        """Return 1 at the goal, outside of it ``near_miss``, falling linearly to 0 at ``reach``."""
        if f"observation.images.{CAMERA}" not in obs:
            state = torch.as_tensor(obs["observation.state"])
            return self._closeness(state[:, 2:] - state[:, :2])
        image = torch.as_tensor(obs[f"observation.images.{CAMERA}"]).to(torch.float32)
        axis = (torch.arange(image.shape[1]) + 0.5) * 2.0 / image.shape[1] - 1.0
        grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)
        weight = image / image.sum((1, 2), keepdim=True)
        dots = torch.einsum("nyxc,yxd->ncd", weight, grid)
        goal = 1 + torch.tensor([TASKS.index(task) for task in obs["task"]])
        return self._closeness(dots[torch.arange(len(goal)), goal] - dots[:, 0])

    def _closeness(self, delta: Float[Tensor, "n 2"]) -> Float[Tensor, " n"]:
        distance = torch.linalg.vector_norm(delta, dim=-1)
        progress = ((self.reach + _RADIUS - distance) / self.reach).clamp(0.0, 1.0)
        return torch.where(progress < 1.0, self.near_miss * progress, progress)
