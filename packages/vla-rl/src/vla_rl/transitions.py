"""Decisions as transitions for critics: features, action, reward, what came next."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vla_rl.decisions import Rollout
from vla_rl.functional.advantages import chunk_rewards
from vla_rl.functional.residual import monte_carlo_outcomes

KEYS = ("features", "latent", "action", "reward", "discount", "next_features", "done", "outcome")


class TransitionStore:
    """Transitions of all rounds, in memory; saved with a run's checkpoint."""

    def __init__(self) -> None:
        self.data: dict[str, Tensor] = {}

    def __len__(self) -> int:
        return len(self.data["reward"]) if self.data else 0

    def add(self, transitions: Mapping[str, Tensor]) -> None:
        """Append rows; every entry of `KEYS` must be there.

        Raises:
            ValueError: If a key is missing or a number is not finite.
        """
        if set(transitions) != set(KEYS):
            raise ValueError(f"Expected the keys {KEYS}, got {sorted(transitions)}.")
        for key, value in transitions.items():
            if not bool(value.isfinite().all()):
                raise ValueError(f"Expected finite `{key}` in transitions, got NaN or infinity.")
        self.data = {
            key: torch.cat([self.data[key], value]) if self.data else value
            for key, value in transitions.items()
        }

    def sample(self, size: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Return rows drawn with replacement."""
        rows = torch.randint(len(self), (size,), generator=generator)
        return {key: value.index_select(0, rows) for key, value in self.data.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return all rows."""
        return dict(self.data)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        self.data = dict(state)


def rollout_transitions(rollout: Rollout, *, gamma: float, dense: bool) -> dict[str, Tensor]:
    """Return the transitions of a `vla_rl.policies.residual_policy.ResidualPolicy`'s rollout.

    With ``dense`` a chunk earns the rise of progress across it, spread evenly over its executed
    steps; without, success earns 1 at the last step. A time limit ends an episode like any other
    end: what has not been reached by then does not count.

    Args:
        rollout: With the progress of every state where ``dense``.
        gamma: Discount per primitive step, in [0, 1].
        dense: Whether progress is paid.

    Raises:
        ValueError: If progress is missing or the decisions are those of another policy.

    Source: SPIRAL (arXiv 2606.10305): rewards are differences of predicted progress.
    """
    missing = {"features", "latent", "action"} - set(rollout.replay)
    if missing:
        raise ValueError(
            f"Expected decisions of a ResidualPolicy, whose replay has {sorted(missing)}."
        )
    success = rollout.episodes.success_at_end
    if dense:
        if rollout.progress is None or rollout.next_progress is None:
            raise ValueError(
                "Expected a rollout with the progress of every state, got one without."
            )
        rise = (rollout.next_progress - rollout.progress) / rollout.mask.sum(-1)
        per_step = rise[:, None].expand(rollout.mask.shape)
        outcome = torch.where(success, 1.0, rollout.episodes.progress)
    else:
        at_end = torch.nn.functional.one_hot(
            rollout.mask.sum(-1) - 1, num_classes=rollout.mask.shape[1]
        )
        per_step = at_end * (success[rollout.episode] & rollout.last)[:, None]
        outcome = success.to(torch.float32)
    features = rollout.replay["features"]
    return {
        "features": features,
        "latent": rollout.replay["latent"],
        "action": rollout.replay["action"],
        "reward": chunk_rewards(per_step.to(torch.float32), rollout.mask, gamma=gamma),
        "discount": rollout.discount,
        # The last decision of all has no next row; `done` says that it does not matter.
        "next_features": torch.cat([features[1:], features[-1:]]),
        "done": rollout.last,
        "outcome": monte_carlo_outcomes(
            # A success is paid at its last step, which is left - 1 steps away.
            outcome[rollout.episode],
            _steps_left(rollout.mask, rollout.last) - 1,
            gamma=gamma,
        ),
    }


def _steps_left(mask: Bool[Tensor, "d k"], last: Bool[Tensor, " d"]) -> Float[Tensor, " d"]:
    """Return the primitive steps from each decision to the end of its episode."""
    left = torch.zeros(len(mask), dtype=torch.long)
    carry = 0
    for d in reversed(range(len(mask))):
        carry = int(mask[d].sum()) + (0 if last[d] else carry)
        left[d] = carry
    return left
