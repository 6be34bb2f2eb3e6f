"""Vector environments of others, such as gymnasium's own or ManiSkill's, under our contract."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from bench_adapters._waves import as_array
from bench_adapters.types import ChunkStep, Info, Observation

__all__ = ["GymnasiumVectorEnv"]


class GymnasiumVectorEnv:
    """A vector environment that resets by itself, as a `types.VectorEnv` whose auto-reset is off.

    The other one has to reset an environment by itself in the step of its end (``SAME_STEP``) or in
    the one after (``NEXT_STEP``): it cannot hold one still while the others go on. What it plays
    in an environment that has ended here is thrown away until `reset` starts a new episode there.
    The last observation of an episode is read from ``final_obs`` or ``final_observation``,
    whichever there is, or is the step's own under ``NEXT_STEP``.

    Args:
        env: The other one; its ``reset`` has to take ``options={"reset_mask": mask}``, as
            gymnasium's does from 1.1 on.
        observe: Turns a batch of its observations into an `Observation`.
        max_episode_steps: Its time limit in primitive steps.
        env_id: Its name, for the record.
        success: Key of ``info`` (and of ``final_info``) that tells success. Where it is absent, an
            episode that terminates with a positive reward is a success.
        autoreset_mode: Overrides ``env.metadata["autoreset_mode"]``.

    Raises:
        ValueError: If the mode is ``DISABLED``, unknown or not told.
        TypeError: If actions are no boxes.
    """

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.DISABLED}  # noqa: RUF012 gymnasium's

    def __init__(
        self,
        env: Any,
        *,
        observe: Callable[[Any], Observation],
        max_episode_steps: int,
        env_id: str = "",
        success: str = "success",
        autoreset_mode: AutoresetMode | str | None = None,
    ) -> None:
        mode = autoreset_mode or (env.metadata or {}).get("autoreset_mode")
        try:
            self._mode = AutoresetMode(mode)
        except ValueError:
            self._mode = AutoresetMode.DISABLED
        if self._mode is AutoresetMode.DISABLED:
            raise ValueError(
                f"Expected an environment that resets by itself, in the same or the next step, got "
                f"autoreset_mode {mode!r}; name it by `autoreset_mode` if it is one."
            )
        if not isinstance(env.single_action_space, spaces.Box):
            raise TypeError(f"Expected actions in a Box, got {env.single_action_space}.")
        self.num_envs: int = env.num_envs
        self.max_episode_steps = max_episode_steps
        self.env_id = env_id
        self.single_action_space = env.single_action_space
        self.action_space = env.action_space
        self._env = env
        self._observe = observe
        self._success = success
        self._ended = np.ones(self.num_envs, bool)
        self._last: Observation = {}

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, Info]:
        """Start new episodes; see `types.VectorEnv`."""
        mask = np.asarray((options or {}).get("reset_mask", np.ones(self.num_envs, bool)))
        if mask.shape != (self.num_envs,) or mask.dtype != bool:
            raise ValueError(
                f"Expected `reset_mask` to be bool ({self.num_envs},), got {mask.dtype} "
                f"{mask.shape}."
            )
        first = seed if isinstance(seed, (int, np.integer)) else None
        seeds = seed if first is None else range(int(first), int(first) + self.num_envs)
        info: Info = {"_seed": mask} if seeds is None else {"_seed": mask, "seed": np.array(seeds)}
        if mask.any():
            # The first time all of them: the rows outside the mask have nothing to show yet.
            whole = mask.all() or not self._last
            chosen = {} if whole else {"options": {"reset_mask": mask.copy()}}
            observation, _ = self._env.reset(
                seed=None if seeds is None else [int(s) for s in seeds],  # type: ignore[union-attr]
                **chosen,
            )
            self._keep(self._observe(observation), mask)
            self._ended &= ~mask
        return self._copy(), info

    def step_chunk(self, actions: NDArray[np.float32]) -> ChunkStep:
        """Execute ``actions`` ``(n, k, a)``; rows of ended environments are replaced by zeros.

        Raises:
            ValueError: If the shape is wrong or an action is not finite.
            gymnasium.error.ResetNeeded: If there was no reset.
        """
        if not self._last:
            raise ResetNeeded("call `reset` before `step_chunk`")
        actions = self._checked(actions)
        shape = actions.shape[:2]
        reward = np.zeros(shape, np.float32)
        terminated, truncated, valid, success = (np.zeros(shape, bool) for _ in range(4))
        for i in range(shape[1]):
            live = ~self._ended
            if not live.any():
                break
            now = np.where(live[:, None], actions[:, i], 0.0).astype(np.float32)
            observation, *outcome, info = self._env.step(now)
            rewards, ends, limits = (as_array(part) for part in outcome)
            valid[:, i] = live
            reward[:, i] = np.where(live, rewards, 0.0)
            terminated[:, i] = live & ends
            truncated[:, i] = live & limits & ~ends
            ended: NDArray[np.bool_] = terminated[:, i] | truncated[:, i]
            success[:, i] = live & self._successes(info, ended, terminated[:, i] & (rewards > 0))
            self._keep(self._observe(observation), live)
            if ended.any() and self._mode is AutoresetMode.SAME_STEP:
                self._keep_final(info, ended)
            self._ended |= ended
        last, final_rows = self._copy(), (terminated | truncated).any(axis=1)
        info = {"success": success, "final_obs": dict(last), "_final_obs": final_rows}
        return ChunkStep(last, reward, terminated, truncated, valid, info)

    def close(self) -> None:
        """Close the other environment."""
        self._env.close()

    def _keep_final(self, info: Info, ended: NDArray[np.bool_]) -> None:
        """Take the last observations of episodes from ``info``, not those of the next ones."""
        for key in ("final_obs", "final_observation"):
            if key in info:
                final = _without_masks(info[key])
                break
        else:
            raise ValueError(
                f"Expected `final_obs` or `final_observation` in the info of a step that ended "
                f"episodes, got {sorted(info)}."
            )
        if isinstance(final, np.ndarray) and final.dtype == object:  # one of its own per row
            for row in np.flatnonzero(ended):
                batch = _repeated(final[row], self.num_envs)
                self._keep(self._observe(batch), np.arange(self.num_envs) == row)
        else:
            self._keep(self._observe(final), ended)

    def _successes(
        self, info: Info, ended: NDArray[np.bool_], otherwise: NDArray[np.bool_]
    ) -> NDArray[np.bool_]:
        """Return which rows are a success; an ended row's is in ``final_info``."""
        final = info.get("final_info", {}) if ended.any() else {}
        if self._success not in {*info, *final}:
            return otherwise
        now = as_array(info.get(self._success, np.zeros(self.num_envs, bool)))
        last = as_array(final.get(self._success, now))
        chosen: NDArray[np.bool_] = np.where(ended, last, now).astype(bool)
        return chosen

    def _keep(self, new: Observation, rows: NDArray[np.bool_]) -> None:
        for key, values in new.items():
            if key == "task":
                old: Any = self._last.get(key, values)
                self._last[key] = [values[i] if rows[i] else old[i] for i in range(len(rows))]
            else:
                array = as_array(values)
                mask = rows.reshape(-1, *[1] * (array.ndim - 1))
                self._last[key] = np.where(mask, array, self._last.get(key, array))

    def _copy(self) -> Observation:
        return {key: list(v) if key == "task" else v.copy() for key, v in self._last.items()}

    def _checked(self, actions: Any) -> NDArray[np.float32]:
        array = np.asarray(actions, np.float32)
        assert self.single_action_space.shape is not None
        (action_dim,) = self.single_action_space.shape
        if array.ndim != 3 or array.shape[::2] != (self.num_envs, action_dim) or not array.size:
            raise ValueError(
                f"Expected `actions` of shape ({self.num_envs}, k, {action_dim}) with k ≥ 1, got "
                f"{array.shape}."
            )
        bad = ~np.isfinite(array) & ~self._ended[:, None, None]
        if bad.any():
            env, step, dim = np.argwhere(bad)[0]
            raise ValueError(
                f"Expected finite `actions`, got {array[env, step, dim]} for environment {env} at "
                f"step {step} of the chunk in dimension {dim}."
            )
        return array


def _without_masks(final: Any) -> Any:
    """Drop gymnasium's ``_key`` masks from the last observations in an info."""
    if not isinstance(final, dict):
        return final
    return {
        key: _without_masks(value)
        for key, value in final.items()
        if not (key.startswith("_") and key[1:] in final)
    }


def _repeated(observation: Any, n: int) -> Any:
    if isinstance(observation, dict):
        return {key: _repeated(value, n) for key, value in observation.items()}
    return np.repeat(np.asarray(observation)[None], n, axis=0)
