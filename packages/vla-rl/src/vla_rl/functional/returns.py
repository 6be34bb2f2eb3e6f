"""Returns of decisions: what followed them, with a critic's value where it was cut off."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def monte_carlo_returns(
    r_t: Float[Tensor, "*b t"],
    discount_t: Float[Tensor, "*b t"],
    v_t: Float[Tensor, "*b t"],
    *,
    terminated: Bool[Tensor, "*b t"],
    truncated: Bool[Tensor, "*b t"],
    valid: Bool[Tensor, "*b t"],
) -> Float[Tensor, "*b t"]:
    """Return the discounted sum of all rewards to the end of the episode, one per decision.

    G = r_t + discount_t * (0 if terminated, v_t if cut off, else G_next)

    Args:
        r_t: Reward of the decision (`vla_rl.functional.advantages.chunk_rewards`).
        discount_t: Discount across the decision, γ^k for k executed steps, in [0, 1].
        v_t: Value of the state it led to; read only where an episode was cut off, by a time limit
            or by the end of the data. Zeros give the plain sum.
        terminated: Decision ended the episode by success or failure.
        truncated: Decision met the time limit.
        valid: False for padding, which contributes nothing and receives zero.

    Example:
        >>> no = torch.zeros(1, 3, dtype=torch.bool)
        >>> half = torch.full((1, 3), 0.5)
        >>> end = torch.tensor([[False, False, True]])
        >>> monte_carlo_returns(
        ...     torch.ones(1, 3), half, half, terminated=end, truncated=no, valid=~no
        ... )
        tensor([[1.7500, 1.5000, 1.0000]])

    Source: Sutton & Barto (2018), eq. 3.9, with bootstrapped truncation.
    """
    return n_step_returns(
        r_t,
        discount_t,
        v_t,
        terminated=terminated,
        truncated=truncated,
        valid=valid,
        n=r_t.shape[-1],
    )


def n_step_returns(
    r_t: Float[Tensor, "*b t"],
    discount_t: Float[Tensor, "*b t"],
    v_t: Float[Tensor, "*b t"],
    *,
    terminated: Bool[Tensor, "*b t"],
    truncated: Bool[Tensor, "*b t"],
    valid: Bool[Tensor, "*b t"],
    n: int,
) -> Float[Tensor, "*b t"]:
    """Return the discounted rewards of ``n`` decisions and the value of the state they led to.

    G¹ = r_t + discount_t * v_t
    Gⁿ = r_t + discount_t * (0 if terminated, v_t if cut off, else Gⁿ⁻¹_next)

    Args:
        r_t: See `monte_carlo_returns` for this and all that is not described here.
        discount_t: Discount across the decision.
        v_t: Value of the state it led to.
        terminated: Ended by success or failure.
        truncated: Met the time limit.
        valid: False for padding.
        n: Decisions before the value takes over, at least 1.

    Raises:
        ValueError: If ``n`` is less than 1.

    Source: Sutton & Barto (2018), eq. 7.1.
    """
    if n < 1:
        raise ValueError(f"Expected `n` of at least 1 decision, got {n}.")
    length = r_t.shape[-1]
    has_next = torch.zeros_like(valid)
    has_next[..., :-1] = valid[..., 1:]
    goes_on = has_next & ~truncated
    reward = torch.where(valid, r_t, 0.0)
    discount = torch.where(valid & ~terminated, discount_t, 0.0)
    value = torch.where(valid & ~terminated, v_t, 0.0)  # what stands elsewhere may be NaN
    returns = reward + discount * value
    for _ in range(min(n, length) - 1):
        following = torch.where(goes_on, returns.roll(-1, dims=-1), value)
        returns = reward + discount * following
    return returns
