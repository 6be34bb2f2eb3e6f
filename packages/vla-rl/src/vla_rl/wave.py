"""One episode in each environment of a vector, turned into decisions."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm import tqdm

from vla_rl.decisions import Episodes, Rollout, join_rollouts, join_rows
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
    """What was played, once it has been, without what is to be replayed; see `join_waves`."""

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
        self.final_progress = torch.full((n,), float("nan"))
        self.final_rows: list[int] = []
        self.final_obs: list[Observation] = []
        self.decisions: list[dict[str, Any]] = []
        self.replays: list[dict[str, Tensor]] = []
        self.order = torch.empty(0, dtype=torch.long)  # of the decisions, by episode

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
        """Store the decisions of running episodes; returns which of them ended.

        No more than must be known at once is worked out here, the rest by `_finish` for all chunks.
        """
        shape = decision.actions.shape[:2]
        if shape[0] != self.env.num_envs:
            raise ValueError(
                f"Expected actions for {self.env.num_envs} environments, got {shape[0]}."
            )
        terminated, truncated, valid = (
            _as_chunk(getattr(step, name), shape, name).bool()
            for name in ("terminated", "truncated", "valid")
        )
        over = (terminated | truncated) & valid
        if bool((self.live & ~valid.any(-1)).any()):
            row = int((self.live & ~valid.any(-1)).nonzero()[0])
            raise ValueError(
                f"Expected the running episode of seed {self.seeds[row]} to execute at least one "
                "step of the chunk, got `valid` all false."
            )
        kept = {
            "log_prob": decision.log_prob,
            "value": decision.value,
            "progress": None,
            "next_progress": None,
            "reward": _as_chunk(step.reward, shape, "reward").to(torch.float32),
            "success": _field(step.info, "success", shape).bool(),
            "valid": valid,
            "terminated": terminated,
            "truncated": truncated,
            "episode": torch.arange(shape[0]),
        }
        chosen = None if bool(self.live.all()) else self.live.nonzero()[:, 0]
        self.decisions.append(_select(kept, chosen))
        self.replays.append(_select(dict(decision.replay), chosen))
        ended = over.any(-1) & self.live
        if ended.any():
            self._keep_final(step, ended)
        self.live &= ~ended
        return ended

    def _progress(self, obs: Observation, live: Bool[Tensor, " n"]) -> Float[Tensor, " n"] | None:
        if self.progress_model is None:
            return None
        progress = to_tensor(self.progress_model.progress(obs)).cpu().to(torch.float32)
        if not bool(progress[live].isfinite().all()):
            row = int((live & ~progress.isfinite()).nonzero()[0])
            raise ValueError(
                f"Expected finite progress, got {progress[row].item()} in the episode of seed "
                f"{self.seeds[row]} after {self._executed(row)} steps."
            )
        return progress

    def _executed(self, row: int) -> int:
        """Return how many steps an episode has executed so far."""
        return sum(int(d["valid"][d["episode"] == row].sum()) for d in self.decisions)

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

    def _keep_final(self, step: ChunkStep, over: Bool[Tensor, " n"]) -> None:
        rows = over.nonzero()[:, 0]
        self.final_obs.append(final_observation(step.info, rows))
        self.final_rows.extend(rows.tolist())

    def _finish(self, progress_model: ProgressModel | None, *, bootstrap: bool) -> Rollout:
        """Put the decisions of each episode one after the other, and add what is known at ends."""
        final_obs, final_rows = concat_rows(self.final_obs), torch.tensor(self.final_rows)
        self.order = torch.cat([d["episode"] for d in self.decisions]).argsort(stable=True)
        wave = join_rows(self.decisions, self.order)
        episodes = self._summarize(wave)
        wave["next_value"] = self._next_values(wave, final_obs, final_rows, bootstrap=bootstrap)
        failed = (~episodes.success_at_end[final_rows]).nonzero()[:, 0]
        if progress_model is not None and len(failed):
            progress_model.reset()
            predicted = to_tensor(progress_model.progress(select_rows(final_obs, failed)))
            episodes.progress[final_rows[failed]] = predicted.cpu().to(torch.float32)
        return Rollout(**wave, replay={}, episodes=episodes)

    def _summarize(self, wave: dict[str, Any]) -> Episodes:
        """Turn what each step of a chunk reported into decisions; returns a row per episode."""
        ends, valid = wave["terminated"] | wave["truncated"], wave.pop("valid")
        # Up to and including the first end; an environment that resets itself goes on after it.
        mask = valid & (ends.long().cumsum(-1) - ends.long() == 0)
        reward = torch.where(mask, wave["reward"], 0.0)
        success = wave.pop("success") & mask
        steps, episode = mask.sum(-1), wave["episode"]
        self._check_rewards(reward, steps, episode)
        wave["mask"] = mask
        wave["reward"] = chunk_rewards(reward, mask, gamma=self.gamma)
        wave["discount"] = chunk_discounts(mask, gamma=self.gamma)
        wave["terminated"] = (wave["terminated"] & mask).any(-1)
        wave["truncated"] = (wave["truncated"] & mask).any(-1) & ~wave["terminated"]
        last = wave["terminated"] | wave["truncated"]
        count = len(self.seeds)
        zeros = torch.zeros(count, dtype=torch.long)
        return Episodes(
            seed=torch.tensor(self.seeds),
            success_once=zeros.index_add(0, episode, success.any(-1).long()) > 0,
            # One decision of each episode is its last, and they are in the order of the episodes.
            success_at_end=success.gather(1, steps[:, None] - 1)[last, 0],
            length=zeros.index_add(0, episode, steps),
            env_return=torch.zeros(count).index_add(0, episode, reward.sum(-1)),
            progress=self.final_progress[:count],
        )

    def _check_rewards(
        self, reward: Float[Tensor, "d k"], steps: Int[Tensor, " d"], episode: Int[Tensor, " d"]
    ) -> None:
        finite = reward.isfinite().all(-1)
        if bool(finite.all()):
            return
        row = int((~finite).nonzero()[0])
        before = int(steps[:row][episode[:row] == episode[row]].sum())
        raise ValueError(
            f"Expected finite rewards, got {reward[row].tolist()} in the episode of seed "
            f"{self.seeds[int(episode[row])]} after {before} steps."
        )

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
        truncated = torch.zeros(self.env.num_envs, dtype=torch.bool)
        truncated[wave["episode"][wave["truncated"]]] = True
        cut = truncated[final_rows].nonzero()[:, 0]
        if bootstrap and len(cut):
            # Greedy, so that the look ahead takes nothing from the generator.
            value = self.policy.act(select_rows(final_obs, cut), deterministic=True).value
            assert value is not None
            by_row = next_value.new_zeros(self.env.num_envs)
            by_row[final_rows[cut]] = value.cpu()
            next_value[wave["truncated"]] = by_row[wave["episode"][wave["truncated"]]]
        return next_value


def join_waves(waves: Sequence[Wave]) -> Rollout:
    """Return what waves have played, one after the other."""
    replay = {}
    counts = [len(wave.order) for wave in waves]
    for key, first in waves[0].replays[0].items():
        # Images are most of a rollout: each is copied once, straight to its place.
        rows = first.new_empty(sum(counts), *first.shape[1:])
        for wave, place in zip(waves, torch.split(rows, counts), strict=True):
            played = torch.cat([part[key] for part in wave.replays])
            torch.index_select(played, 0, wave.order, out=place)
        replay[key] = rows
    return replace(join_rollouts([wave.rollout for wave in waves]), replay=replay)


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
    return x.cpu() if rows is None else x.cpu().index_select(0, rows)
