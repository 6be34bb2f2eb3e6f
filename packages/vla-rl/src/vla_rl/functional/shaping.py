"""Rewards of whole episodes, made of their outcome and of predicted progress."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def sparse_reward(success: Bool[Tensor, " e"]) -> Float[Tensor, " e"]:
    """Return 1 for a success and 0 for a failure."""
    return success.to(torch.float32)


def terminal_progress_reward(
    success: Bool[Tensor, " e"],
    progress: Float[Tensor, " e"],
    *,
    cap: float = 1.0,
    scale: float = 1.0,
) -> Float[Tensor, " e"]:
    """Return the reward of each episode's last step: 1 for a success, else predicted progress.

    R(s_T) = 1[success] + (1 - 1[success]) * min(scale * V(s_T), cap)

    A cap or scale below 1 keeps a failure that looks finished below a success.

    Args:
        success: Whether the episode succeeded.
        progress: Predicted progress of its last frame, in [0, 1]; not read for successes.
        cap: Largest reward of a failure, in [0, 1].
        scale: Factor on progress, in [0, 1].

    Returns:
        Rewards in [0, 1].

    Raises:
        ValueError: If ``cap``, ``scale`` or a failure's progress is outside [0, 1] or NaN.

    Example:
        >>> terminal_progress_reward(torch.tensor([True, False]), torch.tensor([0.2, 0.6]))
        tensor([1.0000, 0.6000])

    Source: Feat2Go (arXiv 2605.30795), eq. 4; cap and scale are ours.
    """
    for name, number in (("cap", cap), ("scale", scale)):
        if not 0.0 <= number <= 1.0:
            raise ValueError(f"Expected `{name}` in [0, 1], got {number}.")
    failed = progress[~success]
    if not bool(((failed >= 0.0) & (failed <= 1.0)).all()):
        bad = failed[~((failed >= 0.0) & (failed <= 1.0))][0].item()
        raise ValueError(f"Expected `progress` of failed episodes in [0, 1], got {bad}.")
    return torch.where(success, 1.0, (scale * progress).clamp(max=cap)).to(torch.float32)
