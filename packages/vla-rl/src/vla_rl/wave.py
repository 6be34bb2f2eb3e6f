"""One episode in each environment of a vector, turned into decisions."""

from collections.abc import Callable, Generator
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm import tqdm

from vla_rl.decisions import Episodes, Rollout, join_rows
from vla_rl.functional.advantages import chunk_discounts, chunk_rewards
from vla_rl.observations import concat_rows, replace_rows, select_rows, to_tensor
from vla_rl.types import ActOutput, ChunkStep, Observation, Policy, ProgressModel, VecEnv

OnStep = Callable[[Observation, ActOutput, ChunkStep, Tensor], None]
"""Called after each chunk with the observation before it, the decision, what happened, and which
environments ``(n,)`` were still in their first episode."""

Play = Generator[Callable[[], Any], Any, None]
"""Yields what an environment is to do, and is sent what it answered."""


class Wave:
    """One episode in each environment; see `vla_rl.rollout.collect_episodes`."""

    rollout: Rollout
    """What was played, once it has been."""

    def __init__(
        self,
        policy: Policy,
        env: VecEnv,
        seeds: list[int],
        gamma: float,
        progress_model: ProgressModel | None,
    ) -> None:
        """Prepare a wave; ``progress_model`` is that of every state, if there is one."""
        self.policy, self.env, self.seeds, self.gamma = policy, env, seeds, gamma
        self.progress_model = progress_model
        n = env.num_envs
        self.live = torch.arange(n) < len(seeds)
        self.success_once = torch.zeros(n, dtype=torch.bool)
        self.success_at_end = torch.zeros(n, dtype=torch.bool)
        self.length = torch.zeros(n, dtype=torch.long)
        self.env_return = torch.zeros(n)
        self.truncated = torch.zeros(n, dtype=torch.bool)
        self.final_progress = torch.full((n,), float("nan"))
        self.final_rows: list[int] = []
        self.final_obs: list[Observation] = []
        self.decisions: list[dict[str, Any]] = []

    def play(
        self,
        generator: torch.Generator | None,
        *,
        deterministic: bool,
        on_step: OnStep | None,
        bar: "tqdm[Any]",
        model_of_ends: ProgressModel | None,
        bootstrap: bool,
    ) -> Play:
        """Yield what the environment is to do next; see `Play` and `collect_episodes`."""
        padding = [self.seeds[-1]] * (self.env.num_envs - len(self.seeds))
        obs, _ = yield partial(self.env.reset, seed=self.seeds + padding)
        if self.progress_model is not None:
            self.progress_model.reset()
        progress = self._progress(obs, self.live)
        while self.live.any():
            decision = self.policy.act(obs, generator=generator, deterministic=deterministic)
            step = yield partial(self.env.step_chunk, decision.actions.cpu().numpy())
            live = self.live.clone()
            ended = self._record(decision, step)
            if progress is not None:
                progress = self._record_progress(progress, step, live, ended)
            if on_step is not None:
                on_step(obs, decision, step, live)
            bar.update(int(ended.sum()))
            obs = step.observation
        self.rollout = self._finish(model_of_ends, bootstrap=bootstrap)

    def _record(self, decision: ActOutput, step: ChunkStep) -> Bool[Tensor, " n"]:
        """Store the decisions of running episodes; returns which of them ended."""
        reward, mask, terminated, truncated = self._checked(decision, step)
        rows = self.live.nonzero()[:, 0]
        over = terminated | truncated
        success = _field(step.info, "success", mask.shape).bool() & mask
        steps = mask.sum(-1)
        last = success.gather(1, (steps - 1).clamp(min=0)[:, None])[:, 0]

        self.success_once |= success.any(-1)
        self.success_at_end = torch.where(steps > 0, last, self.success_at_end)
        self.length += steps
        self.env_return += reward.sum(-1)
        self.truncated |= truncated
        kept = {
            "replay": dict(decision.replay),
            "log_prob": decision.log_prob,
            "value": decision.value,
            "progress": None,
            "next_progress": None,
            "reward": chunk_rewards(reward, mask, gamma=self.gamma),
            "discount": chunk_discounts(mask, gamma=self.gamma),
            "mask": mask,
            "terminated": terminated,
            "truncated": truncated,
            "episode": torch.arange(len(mask)),
        }
        self.decisions.append(_select(kept, None if bool(self.live.all()) else rows))
        if over.any():
            self._keep_final(step, over)
        self.live &= ~over
        return over

    def _progress(self, obs: Observation, live: Bool[Tensor, " n"]) -> Float[Tensor, " n"] | None:
        if self.progress_model is None:
            return None
        progress = to_tensor(self.progress_model.progress(obs)).cpu().to(torch.float32)
        if not bool(progress[live].isfinite().all()):
            row = int((live & ~progress.isfinite()).nonzero()[0])
            raise ValueError(
                f"Expected finite progress, got {progress[row].item()} in the episode of seed "
                f"{self.seeds[row]} after {int(self.length[row])} steps."
            )
        return progress

    def _record_progress(
        self,
        progress: Float[Tensor, " n"],
        step: ChunkStep,
        live: Bool[Tensor, " n"],
        ended: Bool[Tensor, " n"],
    ) -> Float[Tensor, " n"]:
        """Store progress before and after a chunk; returns that after."""
        after = step.observation
        if ended.any():
            # An environment that reset itself shows its next episode; progress is of this one.
            after = replace_rows(after, ended.nonzero()[:, 0], self.final_obs[-1])
        reached = self._progress(after, live)
        assert reached is not None
        rows = live.nonzero()[:, 0]
        self.decisions[-1] |= {"progress": progress[rows], "next_progress": reached[rows]}
        self.final_progress[ended] = reached[ended]
        return reached

    def _checked(self, decision: ActOutput, step: ChunkStep) -> tuple[Tensor, ...]:
        """Return reward and mask ``(n, k)`` and per-chunk terminated and truncated ``(n,)``."""
        shape = decision.actions.shape[:2]
        if shape[0] != self.env.num_envs:
            raise ValueError(
                f"Expected actions for {self.env.num_envs} environments, got {shape[0]}."
            )
        reward = _as_chunk(step.reward, shape, "reward").to(torch.float32)
        terminated = _as_chunk(step.terminated, shape, "terminated").bool()
        truncated = _as_chunk(step.truncated, shape, "truncated").bool()
        over = (terminated | truncated).long()
        # Up to and including the first end; an environment that resets itself goes on after it.
        first_episode = over.cumsum(-1) - over == 0
        mask = _as_chunk(step.valid, shape, "valid").bool() & first_episode & self.live[:, None]
        reward = torch.where(mask, reward, 0.0)
        if not bool(reward.isfinite().all()):
            row = int((~reward.isfinite()).any(-1).nonzero()[0])
            raise ValueError(
                f"Expected finite rewards, got {reward[row].tolist()} in the episode of seed "
                f"{self.seeds[row]} after {int(self.length[row])} steps."
            )
        if bool((self.live & ~mask.any(-1)).any()):
            row = int((self.live & ~mask.any(-1)).nonzero()[0])
            raise ValueError(
                f"Expected the running episode of seed {self.seeds[row]} to execute at least one "
                "step of the chunk, got `valid` all false."
            )
        terminated = (terminated & mask).any(-1)
        return reward, mask, terminated, (truncated & mask).any(-1) & ~terminated

    def _keep_final(self, step: ChunkStep, over: Bool[Tensor, " n"]) -> None:
        rows = over.nonzero()[:, 0]
        self.final_obs.append(final_observation(step.info, rows))
        self.final_rows.extend(rows.tolist())

    def _finish(self, progress_model: ProgressModel | None, *, bootstrap: bool) -> Rollout:
        """Put the decisions of each episode one after the other, and add what is known at ends."""
        final_obs, final_rows = concat_rows(self.final_obs), torch.tensor(self.final_rows)
        order = torch.cat([d["episode"] for d in self.decisions]).argsort(stable=True)
        wave = join_rows(self.decisions, order)
        wave["next_value"] = self._next_values(wave, final_obs, final_rows, bootstrap=bootstrap)
        progress = self.final_progress
        failed = (~self.success_at_end[final_rows]).nonzero()[:, 0]
        if progress_model is not None and len(failed):
            progress_model.reset()
            predicted = to_tensor(progress_model.progress(select_rows(final_obs, failed)))
            progress[final_rows[failed]] = predicted.cpu().to(torch.float32)
        count = len(self.seeds)
        episodes = Episodes(
            seed=torch.tensor(self.seeds),
            success_once=self.success_once[:count],
            success_at_end=self.success_at_end[:count],
            length=self.length[:count],
            env_return=self.env_return[:count],
            progress=progress[:count],
        )
        return Rollout(**wave, episodes=episodes)

    def _next_values(
        self,
        wave: dict[str, Any],
        final_obs: Observation,
        final_rows: Int[Tensor, " e"],
        *,
        bootstrap: bool,
    ) -> Float[Tensor, " d"] | None:
        if wave["value"] is None:
            return None
        next_value = torch.cat([wave["value"][1:], wave["value"].new_zeros(1)])
        next_value[wave["terminated"] | wave["truncated"]] = 0.0
        cut = self.truncated[final_rows].nonzero()[:, 0]
        if bootstrap and len(cut):
            # Greedy, so that the look ahead takes nothing from the generator.
            value = self.policy.act(select_rows(final_obs, cut), deterministic=True).value
            assert value is not None
            by_row = next_value.new_zeros(self.env.num_envs)
            by_row[final_rows[cut]] = value.cpu()
            next_value[wave["truncated"]] = by_row[wave["episode"][wave["truncated"]]]
        return next_value


def final_observation(info: Any, rows: Int[Tensor, " e"]) -> Observation:
    """Return how the episodes of environments ended, out of the info of the step that ended them.

    Raises:
        ValueError: If it is missing.
    """
    for key in ("final_obs", "final_observation"):
        if key in info and bool(to_tensor(info[f"_{key}"]).bool()[rows].all()):
            return select_rows(info[key], rows)
    raise ValueError(
        "Expected `final_obs` and `_final_obs` in the info of a step that ended episodes, got "
        f"{sorted(info)} for environments {rows.tolist()}."
    )


def _as_chunk(value: Any, shape: tuple[int, ...], name: str) -> Tensor:
    tensor = to_tensor(value).cpu()
    if tensor.shape != shape:
        raise ValueError(
            f"Expected `{name}` of shape {tuple(shape)} (environments, chunk) to match the "
            f"policy's actions, got {tuple(tensor.shape)}."
        )
    return tensor


def _field(info: Any, key: str, shape: tuple[int, ...]) -> Tensor:
    if key not in info:
        raise ValueError(f"Expected {key!r} in the info of a step, got {sorted(info)}.")
    return _as_chunk(info[key], shape, key)


def _select(x: Any, rows: Tensor | None) -> Any:
    """Take rows of tensors (or dicts of them, or Nones) on the CPU; all of them when None."""
    if x is None:
        return None
    if isinstance(x, dict):
        return {key: _select(value, rows) for key, value in x.items()}
    return x.cpu() if rows is None else x.cpu()[rows]
