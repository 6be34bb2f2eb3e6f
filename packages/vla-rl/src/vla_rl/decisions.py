"""Decisions of whole episodes, as one flat batch."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Episodes:
    """One row per episode, in the order of the seeds."""

    seed: Int[Tensor, " e"]
    success_once: Bool[Tensor, " e"]
    """Any executed step was a success."""
    success_at_end: Bool[Tensor, " e"]
    """The last executed step was a success."""
    length: Int[Tensor, " e"]
    """Primitive steps executed."""
    env_return: Float[Tensor, " e"]
    """Undiscounted sum of the environment's own rewards."""
    progress: Float[Tensor, " e"]
    """Predicted progress of the last frame; NaN where it was not asked for."""

    def metrics(self) -> dict[str, Tensor]:
        """Return means over the episodes."""
        return {
            "success_once": self.success_once.float().mean(),
            "success_at_end": self.success_at_end.float().mean(),
            "episode_length": self.length.float().mean(),
        }


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """Decisions of whole episodes: episode after episode, in order of time."""

    replay: dict[str, Tensor]
    """What `Policy.evaluate` needs, ``d`` rows each."""
    log_prob: Float[Tensor, "d k a"]
    value: Float[Tensor, " d"] | None
    next_value: Float[Tensor, " d"] | None
    """Value of the state a decision led to: at a truncation that of the final observation, or zero
    where nobody asked for it; zero at a termination."""
    progress: Float[Tensor, " d"] | None
    """Predicted progress of the state a decision was taken in, where every state was asked for."""
    next_progress: Float[Tensor, " d"] | None
    """Predicted progress of the state it led to, the final observation of an episode included."""
    reward: Float[Tensor, " d"]
    """Environment's own reward, discounted to the start of the chunk."""
    discount: Float[Tensor, " d"]
    """gamma to the power of the primitive steps executed."""
    mask: Bool[Tensor, "d k"]
    """Primitive steps that were executed."""
    terminated: Bool[Tensor, " d"]
    truncated: Bool[Tensor, " d"]
    episode: Int[Tensor, " d"]
    """Row of ``episodes`` a decision belongs to."""
    episodes: Episodes

    @property
    def valid(self) -> Bool[Tensor, "e t"]:
        """Where `by_episode` holds decisions rather than padding."""
        counts = torch.bincount(self.episode, minlength=len(self.episodes.seed))
        return torch.arange(int(counts.max())) < counts[:, None]

    @property
    def last(self) -> Bool[Tensor, " d"]:
        """Whether a decision is the last of its episode."""
        return self.terminated | self.truncated

    def by_episode(self, x: Tensor) -> Tensor:
        """Spread ``d`` rows over ``(e, t)``, padded with zeros; ``[valid]`` undoes it."""
        valid = self.valid
        spread = x.new_zeros(valid.shape)
        spread[valid] = x
        return spread


def join_rows(parts: Sequence[Any], order: Tensor | None = None) -> Any:
    """Join tensors (or dicts of them, or Nones) one after the other, and reorder their rows."""
    if parts[0] is None:
        return None
    if isinstance(parts[0], dict):
        return {key: join_rows([part[key] for part in parts], order) for key in parts[0]}
    joined = parts[0] if len(parts) == 1 else torch.cat(list(parts))
    # Rows of images: several times as fast as indexing.
    return joined if order is None else joined.index_select(0, order)


def join_rollouts(rollouts: Sequence[Rollout]) -> Rollout:
    """Return the episodes of several rollouts of one policy, one after the other."""
    if len(rollouts) == 1:
        return rollouts[0]
    tables = [_columns(rollout.episodes) for rollout in rollouts]
    offset, parts = 0, []
    for rollout, table in zip(rollouts, tables, strict=True):
        parts.append(_columns(rollout) | {"episode": rollout.episode + offset})
        offset += len(table["seed"])
        del parts[-1]["episodes"]
    return Rollout(**join_rows(parts), episodes=Episodes(**join_rows(tables)))


def select_episodes(rollout: Rollout, rows: Int[Tensor, " chosen"]) -> Rollout:
    """Return the given episodes of a rollout, each with its decisions, in the order of ``rows``."""
    place = torch.full_like(rollout.episodes.seed, -1)
    place[rows] = torch.arange(len(rows))
    decisions = (place[rollout.episode] >= 0).nonzero()[:, 0]
    order = decisions[place[rollout.episode[decisions]].argsort(stable=True)]
    columns = _columns(rollout) | {"episode": place[rollout.episode]}
    del columns["episodes"]
    table = join_rows([_columns(rollout.episodes)], rows)
    return Rollout(**join_rows([columns], order), episodes=Episodes(**table))


def _columns(table: Rollout | Episodes) -> dict[str, Any]:
    return {field.name: getattr(table, field.name) for field in fields(table)}
