"""Losses of the value models."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from value_models.functional.bins import hl_gauss, two_hot


def distributional_cross_entropy(
    logits: Float[Tensor, "*shape bins"],
    target: Float[Tensor, "*shape"],
    *,
    sigma_bins: float | None = 0.75,
    low: float = 0.0,
    high: float = 1.0,
    count: Tensor | None = None,
) -> Float[Tensor, ""]:
    """Cross-entropy between binned targets and predicted distributions, over known targets.

    L = Σ_known − Σ_i p_i(target) log softmax(logits)_i / number of known targets

    Args:
        logits: Unnormalised log-probabilities of the bins.
        target: Values in [``low``, ``high``]; NaN where unknown: no loss, no gradient.
        sigma_bins: Width of the Gaussian targets in bins (`hl_gauss`); None for `two_hot`.
        low: First bin centre.
        high: Last bin centre.
        count: Number to divide by in place of the known targets; see `masked_mean`.

    Returns:
        Scalar in nats, in float32 or better; a differentiable 0 if no target is known.

    Source: Feat2Go (arXiv 2605.30795) trains a 201-bin head and leaves the loss open; this is the
    classification loss of arXiv 2403.03950.
    """
    # In half precision the targets' own rounding would be as wide as the bins.
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    known = target.isfinite()
    # `where` before the encoding: a NaN multiplied by 0 afterwards would still poison the gradient.
    filled = torch.where(known, target, torch.full_like(target, low)).to(logits.dtype)
    num_bins = logits.shape[-1]
    if sigma_bins is None:
        probs = two_hot(filled, num_bins=num_bins, low=low, high=high)
    else:
        probs = hl_gauss(filled, num_bins=num_bins, sigma_bins=sigma_bins, low=low, high=high)
    losses = -(probs * F.log_softmax(logits, dim=-1)).sum(-1)
    return masked_mean(losses, known, count=known.sum() if count is None else count)


def masked_mean(
    losses: Float[Tensor, "*shape"],
    mask: Bool[Tensor, "*shape"],
    *,
    count: float | Tensor | None = None,
) -> Float[Tensor, ""]:
    """Sum of the masked-in losses over their number; a differentiable 0 if there is none.

    Args:
        losses: One loss per place. What the mask leaves out may be anything here, but must have
            been made of finite numbers: the gradient on the way to a NaN is NaN, masked or not.
        mask: Places that count.
        count: Number to divide by in place of the mask's own: with several processes, the number
            over all of them divided by their number makes the averaged gradients those of one
            process that sees everything.
    """
    kept = torch.where(mask, losses, torch.zeros_like(losses))
    number = mask.sum() if count is None else torch.as_tensor(count, device=losses.device)
    return kept.sum() / number.clamp(min=torch.finfo(losses.dtype).tiny)
