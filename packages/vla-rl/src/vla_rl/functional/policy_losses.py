"""Losses of policies and critics; masked entries count neither above nor below the line."""

import math
from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

Level = Literal["token", "action", "chunk"]
LEVELS: tuple[Level, ...] = ("token", "action", "chunk")


def masked_mean(
    x: Float[Tensor, "..."],
    mask: Bool[Tensor, "..."],
    *,
    denominator: Tensor | float | None = None,
) -> Float[Tensor, ""]:
    """Return sum(x where mask) / count.

    Args:
        x: Values; what stands under a false mask may even be NaN.
        mask: Of the shape of ``x``, or of its leading axes.
        denominator: The count of all micro-batches, averaged over processes, where this is a part
            of a larger batch; the count of this mask when None. Zero gives zero.
    """
    mask = mask.reshape(mask.shape + (1,) * (x.ndim - mask.ndim)).expand_as(x)
    count = mask.sum() if denominator is None else torch.as_tensor(denominator, device=x.device)
    # Not clamped at 1: the mean count of several processes may be less.
    return torch.where(mask, x, 0.0).sum() / count.where(count > 0, 1)


def imitation_mean(
    loss: Float[Tensor, "n k a"], mask: Bool[Tensor, "n k"], *, reduction: Literal["none", "mean"]
) -> Tensor:
    """Return the mean loss of each sample's own actions ``(n,)``, or of all actions of a batch.

    Args:
        loss: Of every action dimension.
        mask: Which actions are real; a sample without any has zero.
        reduction: ``none`` or ``mean``.
    """
    if reduction == "mean":
        return masked_mean(loss, mask)
    return torch.where(mask, loss.mean(-1), 0.0).sum(-1) / mask.sum(-1).clamp(min=1)


def aggregate_log_ratio(
    log_ratio: Float[Tensor, "n k a"], mask: Bool[Tensor, "n k"], *, level: Level
) -> tuple[Tensor, Tensor]:
    """Join token log-ratios into those of the unit that is clipped.

    Args:
        log_ratio: New minus old log-probability of each action token.
        mask: Which actions of each chunk were executed.
        level: ``token`` keeps them apart, ``action`` sums the tokens of one primitive action,
            ``chunk`` sums all executed tokens of the decision. The larger the unit, the more often
            the same change of the policy is clipped.

    Returns:
        Log-ratios and their mask: ``(n, k, a)``, ``(n, k)`` or ``(n,)``.

    Raises:
        ValueError: If ``level`` is unknown.
    """
    if level == "token":
        return log_ratio, mask[..., None].expand_as(log_ratio)
    if level == "action":
        return log_ratio.sum(-1), mask
    if level == "chunk":
        return torch.where(mask[..., None], log_ratio, 0.0).sum((-2, -1)), mask.any(-1)
    raise ValueError(f"Expected `level` in {LEVELS}, got {level!r}.")


def clipped_surrogate(
    log_prob: Float[Tensor, "n k a"],
    old_log_prob: Float[Tensor, "n k a"],
    advantage: Float[Tensor, " n"],
    mask: Bool[Tensor, "n k"],
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
    level: Level = "token",
    denominator: Tensor | float | None = None,
) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
    """Return PPO's clipped policy loss and what it did.

    L = -sum min(ρ A, clip(ρ, 1 - clip_low, 1 + clip_high) A) / count, ρ = exp(log-ratio)

    Args:
        log_prob: Under the present parameters.
        old_log_prob: Under the parameters that acted.
        advantage: One per decision.
        mask: Which actions of each chunk were executed.
        clip_low: How far the ratio may fall below 1, in (0, 1).
        clip_high: How far the ratio may rise above 1, positive.
        dual_clip: If given (above 1), a bad action's loss is at most ``-dual_clip * A``.
        level: Unit whose ratio is clipped (`aggregate_log_ratio`).
        denominator: See `masked_mean`.

    Returns:
        Loss, and detached scalars ``clip_fraction`` (share of ratios outside the interval),
        ``approx_kl`` (k3 estimate of KL(old || new)) and ``mean_abs_log_ratio``, each by the same
        denominator.

    Raises:
        ValueError: If a clip range or the level makes no sense.

    Source: Schulman et al. (2017), eq. 7; Ye et al. (2020), eq. 5 for the dual clip; Feat2Go
    (arXiv 2605.30795), eq. 6.
    """
    check_clip(clip_low, clip_high, dual_clip)
    # Unexecuted tokens are zeroed before exp: an overflow there would turn gradients into NaN.
    token_log_ratio = torch.where(mask[..., None], log_prob - old_log_prob, 0.0)
    log_ratio, unit_mask = aggregate_log_ratio(token_log_ratio, mask, level=level)
    gain = advantage.reshape(-1, *(1,) * (log_ratio.ndim - 1))
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1.0 - clip_low, 1.0 + clip_high)
    objective = torch.minimum(ratio * gain, clipped * gain)
    if dual_clip is not None:
        objective = torch.where(gain < 0, torch.maximum(objective, dual_clip * gain), objective)
    loss = -masked_mean(objective, unit_mask, denominator=denominator)
    with torch.no_grad():
        diagnostics = {
            name: masked_mean(x, unit_mask, denominator=denominator)
            for name, x in (
                ("clip_fraction", (ratio != clipped).to(ratio.dtype)),
                ("approx_kl", ratio - 1.0 - log_ratio),
                ("mean_abs_log_ratio", log_ratio.abs()),
            )
        }
    return loss, diagnostics


@torch.no_grad()
def clip_fractions(
    log_ratio: Float[Tensor, "n k a"],
    mask: Bool[Tensor, "n k"],
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    denominators: Mapping[Level, float] | None = None,
) -> dict[str, Float[Tensor, ""]]:
    """Return the share of ratios outside the interval, for every unit that could be clipped.

    Args:
        log_ratio: New minus old log-probability of each action token.
        mask: Which actions of each chunk were executed.
        clip_low: How far a ratio may fall below 1.
        clip_high: How far it may rise above 1.
        denominators: See `masked_mean`, one per level.

    Returns:
        ``clip_fraction_token``, ``clip_fraction_action`` and ``clip_fraction_chunk``.
    """
    executed = torch.where(mask[..., None], log_ratio, 0.0)
    fractions = {}
    for level in LEVELS:
        joined, unit_mask = aggregate_log_ratio(executed, mask, level=level)
        outside = (joined < math.log1p(-clip_low)) | (joined > math.log1p(clip_high))
        fractions[f"clip_fraction_{level}"] = masked_mean(
            outside.to(joined.dtype),
            unit_mask,
            denominator=None if denominators is None else denominators[level],
        )
    return fractions


def value_loss(
    value: Float[Tensor, " n"],
    target: Float[Tensor, " n"],
    mask: Bool[Tensor, " n"],
    *,
    old_value: Float[Tensor, " n"] | None = None,
    clip: float | None = None,
    huber_delta: float = 10.0,
    denominator: Tensor | float | None = None,
) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
    """Return the Huber loss of the critic, with optional value clipping.

    Args:
        value: Under the present parameters.
        target: Return to regress to.
        mask: Which decisions count.
        old_value: Under the parameters that acted; needed for ``clip``.
        clip: Largest step from ``old_value`` that is rewarded, in units of return.
        huber_delta: Where the loss turns linear, in units of return.
        denominator: See `masked_mean`.

    Returns:
        Loss, and the detached scalar ``value_clip_fraction``: the share of values further than
        ``clip`` from the old ones.

    Raises:
        ValueError: If only one of ``clip`` and ``old_value`` is given, or a range is not positive.

    Source: Schulman et al. (2017) baselines for the clipping.
    """
    if (clip is None) != (old_value is None):
        raise ValueError("Expected `clip` and `old_value` together, got only one of them.")
    if huber_delta <= 0.0 or (clip is not None and clip <= 0.0):
        raise ValueError(f"Expected positive ranges, got {huber_delta=}, {clip=}.")
    loss = F.huber_loss(value, target, reduction="none", delta=huber_delta)
    clip_fraction = torch.zeros((), device=value.device)
    if clip is not None and old_value is not None:
        near = old_value + (value - old_value).clamp(-clip, clip)
        near_loss = F.huber_loss(near, target, reduction="none", delta=huber_delta)
        loss = torch.maximum(loss, near_loss)
        moved = ((value - old_value).abs() > clip).to(value.dtype)
        clip_fraction = masked_mean(moved, mask, denominator=denominator).detach()
    return masked_mean(loss, mask, denominator=denominator), {"value_clip_fraction": clip_fraction}


def kl_k1(log_prob: Float[Tensor, "*b"], ref_log_prob: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """Return -d with d = log ref - log π: unbiased for KL(π || ref) as a value.

    As a loss its gradient is zero in expectation: use it in rewards.

    Source: Schulman (2020), "Approximating KL divergence".
    """
    return log_prob - ref_log_prob


def kl_k2(log_prob: Float[Tensor, "*b"], ref_log_prob: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """Return d² / 2 with d = log ref - log π: as a loss its gradient is that of KL(π || ref)."""
    return 0.5 * (ref_log_prob - log_prob).square()


def kl_k3(log_prob: Float[Tensor, "*b"], ref_log_prob: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """Return exp(d) - 1 - d with d = log ref - log π: unbiased, never negative, low variance.

    As a loss its gradient is that of KL(ref || π).
    """
    difference = ref_log_prob - log_prob
    return difference.exp() - 1.0 - difference


def reference_kl(
    log_prob: Float[Tensor, "n k a"],
    old_log_prob: Float[Tensor, "n k a"],
    ref_log_prob: Float[Tensor, "n k a"],
    mask: Bool[Tensor, "n k"],
    *,
    denominator: Tensor | float | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Return a loss whose gradient is that of KL(π || ref) per token, and the KL's value.

    The loss is k2 (`kl_k2`). Samples come from the policy that acted; the ratio to it, taken as a
    constant, makes expectations those of the present policy. The value is k3, detached.

    Args:
        log_prob: Under the present parameters.
        old_log_prob: Under the parameters that acted.
        ref_log_prob: Under the reference policy.
        mask: Which actions of each chunk were executed.
        denominator: Tokens over all processes; see `masked_mean`.
    """
    # Unexecuted tokens are zeroed first: an overflow there would turn gradients into NaN.
    new, old, ref = (
        torch.where(mask[..., None], x, 0.0) for x in (log_prob, old_log_prob, ref_log_prob)
    )
    weight = (new - old).detach().exp()
    loss = masked_mean(weight * kl_k2(new, ref), mask, denominator=denominator)
    value = masked_mean(weight * kl_k3(new, ref), mask, denominator=denominator)
    return loss, value.detach()


def adapt_kl_coefficient(coefficient: float, kl: float, *, target: float) -> float:
    """Return the weight of a KL penalty for the next update.

    Doubled when ``kl`` is above twice the ``target``, halved when it is below half of it.

    Example:
        >>> adapt_kl_coefficient(0.01, 0.05, target=0.02)
        0.02

    Source: Schulman et al. (2017), section 4, with wider bounds; RFTF (arXiv 2505.19767) says
    "adaptive KL" without a rule.
    """
    if kl > 2.0 * target:
        return 2.0 * coefficient
    return 0.5 * coefficient if kl < 0.5 * target else coefficient


def check_clip(clip_low: float, clip_high: float, dual_clip: float | None) -> None:
    """Refuse ranges that `clipped_surrogate` cannot clip to.

    Raises:
        ValueError: If ``clip_low`` is not in (0, 1), ``clip_high`` is not positive or ``dual_clip``
            is not above 1.
    """
    if not 0.0 < clip_low < 1.0:
        raise ValueError(f"Expected `clip_low` in (0, 1), got {clip_low}.")
    if clip_high <= 0.0:
        raise ValueError(f"Expected `clip_high` > 0, got {clip_high}.")
    if dual_clip is not None and dual_clip <= 1.0:
        raise ValueError(f"Expected `dual_clip` > 1 or None, got {dual_clip}.")
