"""A tiny environment in numpy, so that everything runs without a simulator."""

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from bench_adapters.envs.base import EnvChunk, Expert, check_failure
from bench_adapters.specs import ActionSpec, Dimension

STEP = 0.1
"""How far an action of 1 moves the point, in board widths."""
REACHED = 0.06
"""Distance per axis, in board widths, below which a square counts as reached."""
COLORS = {"red": (220, 40, 40), "green": (40, 180, 60), "blue": (50, 80, 230)}


def task_names() -> list[str]:
    """Return the names that `make` accepts."""
    return ["reach"]


def make(name: str, **kwargs: Any) -> "ReachEnvironment":
    """Build ``toy:<name>``; see `ReachEnvironment` for the arguments.

    Raises:
        ValueError: If ``name`` is not known.
    """
    if name != "reach":
        raise ValueError(f"unknown toy task {name!r}; known tasks: {task_names()}")
    return ReachEnvironment(**kwargs)


class ReachEnvironment:
    """A white point on a board moves to the square whose colour the instruction names.

    Observations: one camera ``top`` and ``observation.state`` ``(x, y, dx, dy)``, the point's
    position on the unit board and its last move. Actions ``(2,)`` in [-1, 1] move the point by up
    to `STEP` per axis. Reaching the square ends the episode with reward 1.

    Args:
        image_size: Height and width of the frame in pixels, even and at least 16.
        max_episode_steps: Time limit in primitive steps.
    """

    failure_modes = ("wrong_square", "stall")
    perturbations = failure_modes

    def __init__(self, *, image_size: int = 32, max_episode_steps: int = 20) -> None:
        if image_size < 16 or image_size % 2:
            raise ValueError(f"Expected even `image_size` of at least 16, got {image_size}.")
        if max_episode_steps < 1:
            raise ValueError(
                f"Expected `max_episode_steps` of at least 1, got {max_episode_steps}."
            )
        self.env_id = "toy:reach"
        self.max_episode_steps = max_episode_steps
        self.fps = 10
        self.versions: dict[str, str] = {}
        self.action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.action_spec = ActionSpec(
            tuple(Dimension(name, f"{STEP:g} of the width", "picture") for name in "xy")
        )
        self.observation_space = gym.spaces.Dict(
            {
                "observation.images.top": gym.spaces.Box(
                    0, 255, (image_size, image_size, 3), np.uint8
                ),
                "observation.state": gym.spaces.Box(-1.0, 1.0, (4,), np.float32),
            }
        )
        self._image_size = image_size
        self._elapsed = 0
        self._ended = True
        self.colors = ("red", "green")
        self.squares = np.zeros((2, 2), np.float32)
        self.position = np.zeros(2, np.float32)
        self._move = np.zeros(2, np.float32)

    def reset(self, seed: int) -> dict[str, Any]:
        """Place the point, the target square and a square of another colour."""
        rng = np.random.default_rng(seed)
        target, other = rng.choice(list(COLORS), size=2, replace=False)
        self.colors = (str(target), str(other))
        while True:
            places = rng.uniform(0.1, 0.9, (3, 2)).astype(np.float32)
            gaps = np.linalg.norm(places[:, None] - places[None], axis=-1)
            if gaps[np.triu_indices(3, k=1)].min() > 0.3:
                break
        self.squares, self.position = places[:2], places[2]
        self._move = np.zeros(2, np.float32)
        self._elapsed = 0
        self._ended = False
        return self._observe()

    def step_chunk(self, actions: NDArray[np.float32]) -> EnvChunk:
        """Move the point ``k`` times, stopping at the episode's end; see `EnvChunk`."""
        k = len(actions)
        reward = np.zeros(k, np.float32)
        terminated, truncated, valid, success = (np.zeros(k, bool) for _ in range(4))
        for i, action in enumerate(actions):
            if self._ended:
                break
            self._move = STEP * np.clip(action, -1.0, 1.0).astype(np.float32)
            self.position = np.clip(self.position + self._move, 0.0, 1.0)
            self._elapsed += 1
            reached = bool(np.abs(self.position - self.squares[0]).max() < REACHED)
            reward[i] = float(reached)
            success[i] = terminated[i] = reached
            truncated[i] = self._elapsed >= self.max_episode_steps and not reached
            valid[i] = True
            self._ended = reached or bool(truncated[i])
        return EnvChunk(self._observe(), reward, terminated, truncated, valid, success)

    def make_expert(self, *, noise: float, failure: str | None, rng: np.random.Generator) -> Expert:
        """Return a `ReachExpert`; see `envs.base.ScriptedEnvironment`."""
        return ReachExpert(self, noise=noise, failure=failure, rng=rng)

    def close(self) -> None:
        """Nothing to free."""

    def _observe(self) -> dict[str, Any]:
        return {
            "observation.images.top": self._render(),
            "observation.state": np.concatenate([self.position, self._move]).astype(np.float32),
            "task": f"move the white dot to the {self.colors[0]} square",
        }

    def _render(self) -> NDArray[np.uint8]:
        size = self._image_size
        frame = np.full((size, size, 3), 30, np.uint8)
        shapes = [
            (self.squares[1], COLORS[self.colors[1]], 0.08),
            (self.squares[0], COLORS[self.colors[0]], 0.08),
            (self.position, (255, 255, 255), 0.04),
        ]
        for (x, y), color, half in shapes:
            rows, columns = (
                slice(max(0, round((c - half) * size)), max(1, round((c + half) * size)))
                for c in (1.0 - y, x)
            )
            frame[rows, columns] = color
        return frame


class ReachExpert:
    """Heads straight for a square: ``approach`` while far, ``settle`` within two steps of it.

    Args:
        env: Environment whose state is read.
        noise: Standard deviation of Gaussian noise on the action.
        failure: ``wrong_square`` goes to the other one, ``stall`` stops on the way; or None.
        rng: Source of the noise and of where it stalls.

    Raises:
        ValueError: If ``failure`` is not known.
    """

    phases: Mapping[str, str] = {"approach": "pass", "settle": "place"}

    def __init__(
        self,
        env: ReachEnvironment,
        *,
        noise: float,
        failure: str | None,
        rng: np.random.Generator,
    ) -> None:
        check_failure(env.env_id, failure, env.perturbations)
        self._env = env
        self._noise = noise
        self._failure = failure
        self._rng = rng
        self._steps_left = env.max_episode_steps

    def reset(self) -> None:
        """Choose where to stall."""
        if self._failure == "stall":
            self._steps_left = int(self._rng.integers(1, 3))

    def act(self) -> tuple[NDArray[np.float32], str]:
        """Return the next action ``(2,)`` and its phase."""
        goal = self._env.squares[1 if self._failure == "wrong_square" else 0]
        distance = goal - self._env.position
        phase = "approach" if np.abs(distance).max() > 2 * STEP else "settle"
        self._steps_left -= 1
        wanted = distance / STEP if self._steps_left >= 0 else np.zeros(2)
        # Half speed, so that episodes are long enough to have stages.
        action = np.clip(wanted, -0.5, 0.5) + self._noise * self._rng.standard_normal(2)
        return np.clip(action, -1.0, 1.0).astype(np.float32), phase
