"""Losses of the value models."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from value_models.functional.bins import hl_gauss, two_hot


def distributional_cross_entropy(
    logits: Float[Tensor, "*shape bins"],
    target: Float[Tensor, "*shape"],
    *,
    sigma_bins: float | None = 0.75,
    low: float = 0.0,
    high: float = 1.0,
) -> Float[Tensor, ""]:
    """Cross-entropy between binned targets and predicted distributions, over known targets.

    L = Σ_known − Σ_i p_i(target) log softmax(logits)_i / number of known targets

    Args:
        logits: Unnormalised log-probabilities of the bins.
        target: Values in [``low``, ``high``]; NaN where unknown: no loss, no gradient.
        sigma_bins: Width of the Gaussian targets in bins (`hl_gauss`); None for `two_hot`.
        low: First bin centre.
        high: Last bin centre.

    Returns:
        Scalar in nats; a differentiable 0 if no target is known.

    Source: Feat2Go (arXiv 2605.30795) trains a 201-bin head and leaves the loss open; this is the
    classification loss of arXiv 2403.03950.
    """
    known = target.isfinite()
    # `where` before the encoding: a NaN multiplied by 0 afterwards would still poison the gradient.
    filled = torch.where(known, target, torch.full_like(target, low)).to(logits.dtype)
    num_bins = logits.shape[-1]
    if sigma_bins is None:
        probs = two_hot(filled, num_bins=num_bins, low=low, high=high)
    else:
        probs = hl_gauss(filled, num_bins=num_bins, sigma_bins=sigma_bins, low=low, high=high)
    losses = -(probs * F.log_softmax(logits, dim=-1)).sum(-1)
    return torch.where(known, losses, 0.0 * losses).sum() / known.sum().clamp(min=1)
