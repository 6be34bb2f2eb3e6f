"""RFTF on the trunk of a policy: value tokens take the place of its action tokens."""

import copy
from collections.abc import Sequence
from typing import Any, Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from value_models.functional.ranking import pairwise_ranking_loss
from value_models.networks import ProgressHead
from value_models.progress_model import RankedOutput
from value_models.types import Observation, ProgressBatch


@runtime_checkable
class PolicyTrunk(Protocol):
    """What a policy lends: an ``nn.Module`` with its tokens in and hidden states out."""

    @property
    def token_dim(self) -> int:
        """Width of a token and of a hidden state."""
        ...

    def observation_tokens(self, obs: Observation) -> Float[Tensor, "n l d"]:
        """Everything that the policy reads of one observation, without its action tokens."""
        ...

    def hidden_states(self, tokens: Float[Tensor, "n l d"]) -> Float[Tensor, "n l d"]:
        """Run the transformer; later tokens see all earlier ones."""
        ...


class PolicyRankingModel(nn.Module):
    """Frame and instruction to a value, by a policy's own network.

    A copy of the trunk is trained; the policy that lent it stays as it is. Learned value tokens
    follow the policy's observation tokens, and a head reads the mean of their hidden states. One
    frame in, one value out; no action is needed.

    Args:
        trunk: A `PolicyTrunk` that is an ``nn.Module``.
        num_value_tokens: Tokens in place of the actions.
        freeze: Train value tokens and head only.

    Raises:
        TypeError: If ``trunk`` is no ``nn.Module`` or lacks a part of `PolicyTrunk`.
        ValueError: If ``num_value_tokens`` is less than 1.

    Source: RFTF (arXiv 2505.19767), section 3.1.
    """

    def __init__(
        self, trunk: nn.Module, *, num_value_tokens: int = 1, freeze: bool = False
    ) -> None:
        super().__init__()
        if not all(isinstance(trunk, kind) for kind in (nn.Module, PolicyTrunk)):
            raise TypeError(
                "Expected `trunk` to be an nn.Module with token_dim, observation_tokens and "
                f"hidden_states, got {type(trunk).__name__}."
            )
        if num_value_tokens < 1:
            raise ValueError(f"Expected `num_value_tokens` of at least 1, got {num_value_tokens}.")
        self.trunk = copy.deepcopy(trunk)
        self.trunk.requires_grad_(not freeze)
        dim = cast(PolicyTrunk, trunk).token_dim
        self.value_tokens = nn.Parameter(0.02 * torch.randn(num_value_tokens, dim))
        self.head = ProgressHead(dim, 1)

    def forward(self, obs: Observation) -> RankedOutput:
        """Value of one observation per row; the results have t = 1."""
        trunk = cast(PolicyTrunk, self.trunk)
        tokens = trunk.observation_tokens(obs)
        asked = self.value_tokens.to(tokens.dtype).expand(len(tokens), -1, -1)
        hidden = trunk.hidden_states(torch.cat([tokens, asked], dim=1))
        read = hidden[:, -len(self.value_tokens) :].mean(1)
        value = self.head(read.to(self.value_tokens.dtype)).float()
        return RankedOutput(value, value.sigmoid())

    def values(self, batch: ProgressBatch) -> Float[Tensor, "b t"]:
        """Unbounded values of every frame of a batch of windows, with gradient."""
        obs, b, t = _flattened(batch)
        values: Tensor = self(obs).value.view(b, t)
        return values

    def loss(
        self, batch: ProgressBatch, *, centring: float = 1e-3, count: Tensor | None = None
    ) -> Float[Tensor, ""]:
        """Pairwise logistic loss over the frames of each window, and the centring penalty.

        Args:
            batch: Windows of successful episodes, with ``frame_index`` (b, t).
            centring: Weight of the mean square of the values.
            count: Windows over all processes divided by their number; of this one if None.
        """
        values = self.values(batch)
        time = torch.as_tensor(batch["frame_index"], device=values.device)
        mask = torch.ones_like(time, dtype=torch.bool)
        losses = pairwise_ranking_loss(values, time, mask)
        penalty = values.square().mean(1)
        total: Tensor = (losses + centring * penalty).sum() / (
            len(losses) if count is None else count
        )
        return total

    def compute_progress(self, batch: ProgressBatch) -> Float[Tensor, "b t"]:
        """σ(value) of every frame: an order, no share of the task."""
        obs, b, t = _flattened(batch)
        was_training = self.training
        self.eval()
        try:
            with torch.no_grad():
                progress: Tensor = self(obs).progress.view(b, t)
        finally:
            self.train(was_training)
        return progress

    def compute_reward(self, batch: ProgressBatch) -> Float[Tensor, " b"]:
        """`compute_progress` of the last frame of each window."""
        return self.compute_progress(batch)[:, -1]

    def reset(self, env_mask: Any = None) -> None:
        """Do nothing: a single-frame model has no history."""

    def progress(self, obs: Observation) -> Float[Tensor, " n"]:
        """σ(value) of the newest frame of each environment."""
        batch = {
            key: torch.as_tensor(value).unsqueeze(1) if key.startswith("observation.") else value
            for key, value in obs.items()
        }
        return self.compute_progress(batch)[:, 0]


def _flattened(batch: ProgressBatch) -> tuple[dict[str, Any], int, int]:
    """Windows as one observation per row."""
    frames = {k: torch.as_tensor(v) for k, v in batch.items() if k.startswith("observation.")}
    shapes = {value.shape[:2] for value in frames.values()}
    if len(shapes) != 1:
        raise ValueError(
            f"Expected windows (b, t) of equal size, got {sorted(map(tuple, shapes))}."
        )
    b, t = next(iter(shapes))
    task: Sequence[str] = batch["task"]
    obs: dict[str, Any] = {key: value.flatten(0, 1) for key, value in frames.items()}
    return {**obs, "task": [text for text in task for _ in range(t)]}, b, t
