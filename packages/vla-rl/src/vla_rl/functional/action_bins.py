"""Continuous actions as tokens: uniform bins over a range per action dimension."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def encode_actions(
    action: Float[Tensor, "*b a"],
    low: Float[Tensor, " a"],
    high: Float[Tensor, " a"],
    *,
    num_bins: int,
    clip: bool = False,
) -> Int[Tensor, "*b a"]:
    """Return the bin of each action.

    Args:
        action: Actions, in the environment's units.
        low: Lower edge of the first bin.
        high: Upper edge of the last bin.
        num_bins: At least 2.
        clip: Let actions outside the range fall into the outer bins.

    Raises:
        ValueError: If the range is empty, there are fewer than 2 bins or, without ``clip``, an
            action lies outside the bins by more than rounding.
    """
    width = _bin_width(low, high, num_bins)
    if not clip:
        check_action_range(action, low, high)
    return ((action - low) / width).floor().clamp(0, num_bins - 1).long()


def check_action_range(
    action: Float[Tensor, "*b a"],
    low: Float[Tensor, " a"],
    high: Float[Tensor, " a"],
    *,
    beyond: float = 1e-3,
) -> None:
    """Refuse actions that are not finite or lie outside a range.

    Args:
        action: Actions, in the environment's units.
        low: Lower end, by dimension.
        high: Upper end.
        beyond: How far outside is accepted, as a share of the width; the default is for rounding.

    Raises:
        ValueError: Naming the worst action.
    """
    outside = torch.maximum(low - action, action - high) / (high - low)
    if bool((outside <= beyond).all()):  # not so for NaN
        return
    worst = int(outside.nan_to_num(nan=torch.inf).argmax())
    dim = worst % action.shape[-1]
    accepted = f" (up to {beyond:g} of its width beyond)" if beyond > 0.0 else ""
    raise ValueError(
        f"Expected `action` in [{float(low[dim]):g}, {float(high[dim]):g}]{accepted} in dimension "
        f"{dim}, got {float(action.flatten()[worst]):g}. Widen `action_low` and `action_high`, or "
        "bring the actions into these units."
    )


def check_tokens(token: Int[Tensor, "*b"], *, num_bins: int, first: int = 0) -> None:
    """Refuse tokens that stand for no bin.

    Args:
        token: Action tokens.
        num_bins: How many there are.
        first: The smallest of them.

    Raises:
        ValueError: Naming the first of them.
    """
    wrong = (token < first) | (token >= first + num_bins)
    if bool(wrong.any()):
        raise ValueError(
            f"Expected `action_tokens` from {first} to {first + num_bins - 1}, the bins of this "
            f"policy, got {int(token[wrong][0])}. Was it another policy that acted?"
        )


def decode_actions(
    token: Int[Tensor, "*b a"],
    low: Float[Tensor, " a"],
    high: Float[Tensor, " a"],
    *,
    num_bins: int,
) -> Float[Tensor, "*b a"]:
    """Return the centre of each bin.

    Example:
        >>> low, high = torch.tensor([-1.0]), torch.tensor([1.0])
        >>> decode_actions(torch.tensor([[0], [1], [2]]), low, high, num_bins=4).flatten()
        tensor([-0.7500, -0.2500,  0.2500])
    """
    return low + (token + 0.5) * _bin_width(low, high, num_bins)


def gaussian_bin_labels(
    action: Float[Tensor, "*b a"],
    low: Float[Tensor, " a"],
    high: Float[Tensor, " a"],
    *,
    num_bins: int,
    sigma_bins: float,
) -> Float[Tensor, "*b a bins"]:
    """Return a target distribution over bins: a Gaussian around the action.

    Neighbouring bins are nearly the same action; soft labels say so, which one-hot ones do not.

    Args:
        action: Actions; clipped to the range.
        low: Lower edge of the first bin.
        high: Upper edge of the last bin.
        num_bins: At least 2.
        sigma_bins: Standard deviation in bin widths; 0 gives one-hot labels.

    Raises:
        ValueError: If ``sigma_bins`` is negative, or the bins make no sense.
    """
    if sigma_bins < 0.0:
        raise ValueError(f"Expected `sigma_bins` >= 0, got {sigma_bins}.")
    if sigma_bins == 0.0:
        token = encode_actions(action, low, high, num_bins=num_bins, clip=True)
        return torch.nn.functional.one_hot(token, num_bins).to(action.dtype)
    width = _bin_width(low, high, num_bins)
    position = (action.clamp(low, high) - low) / width - 0.5
    bins = torch.arange(num_bins, dtype=action.dtype, device=action.device)
    distance = (position[..., None] - bins) / sigma_bins
    return (-0.5 * distance.square()).softmax(-1)


def binned_normal_log_prob(
    token: Int[Tensor, "*b a"],
    mean: Float[Tensor, "*b a"],
    low: Float[Tensor, " a"],
    high: Float[Tensor, " a"],
    *,
    num_bins: int,
    sigma_bins: float,
) -> Float[Tensor, "*b a"]:
    """Return the log-probability that a Gaussian around ``mean`` falls into a bin.

    It turns any regressed action into a distribution over tokens whose likeliest one holds the
    regressed action. The outer bins hold the tails, so that probabilities sum to 1. No tensor has
    an axis of bins: a thousand of them cost nothing.

    Args:
        token: Bins, of `encode_actions`.
        mean: Regressed actions, in the environment's units.
        low: Lower edge of the first bin.
        high: Upper edge of the last bin.
        num_bins: At least 2; RFTF uses 1000.
        sigma_bins: Standard deviation in bin widths, positive.

    Raises:
        ValueError: If ``sigma_bins`` is not positive, or the bins make no sense.

    Source: RFTF (arXiv 2505.19767), section 4.1: continuous outputs discretised into 1000 bins; the
    Gaussian is ours, the paper does not say how probabilities arise.
    """
    if sigma_bins <= 0.0:
        raise ValueError(f"Expected `sigma_bins` > 0, got {sigma_bins}.")
    sigma = sigma_bins * _bin_width(low, high, num_bins)
    lower = (low + token * _bin_width(low, high, num_bins) - mean) / sigma
    upper = lower + 1.0 / sigma_bins
    # In the upper half the two log-cdfs are both nearly 0; mirrored they are far apart.
    mirrored = lower + upper > 0.0
    near, far = torch.where(mirrored, -lower, upper), torch.where(mirrored, -upper, lower)
    low_tail, high_tail = token == 0, token == num_bins - 1
    near = torch.where(mirrored & low_tail, torch.inf, near)
    near = torch.where(~mirrored & high_tail, torch.inf, near)
    far = torch.where(mirrored & high_tail, -torch.inf, far)
    far = torch.where(~mirrored & low_tail, -torch.inf, far)
    return _log_ndtr_difference(near, far)


def _log_ndtr_difference(upper: Tensor, lower: Tensor) -> Tensor:
    """Return log(Φ(upper) - Φ(lower)), with finite gradients where a bound is infinite."""
    unbounded = lower.isinf()
    safe_lower = torch.where(unbounded, upper.clamp(max=0.0) - 1.0, lower)
    above = torch.where(upper.isinf(), 0.0, torch.special.log_ndtr(upper.clamp(max=1e4)))
    gap = torch.special.log_ndtr(safe_lower) - above
    inside = torch.log1p(-gap.clamp(max=-1e-12).exp())
    return above + torch.where(unbounded, 0.0, inside)


def _bin_width(low: Tensor, high: Tensor, num_bins: int) -> Tensor:
    if num_bins < 2:
        raise ValueError(f"Expected `num_bins` >= 2, got {num_bins}.")
    if not bool((high > low).all()):
        raise ValueError(
            f"Expected `low` < `high` everywhere, got {low.tolist()} and {high.tolist()}."
        )
    return (high - low) / num_bins
