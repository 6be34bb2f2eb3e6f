"""Flow matching: straight paths from noise (t = 1) to actions (t = 0), and walks along them.

x_t = (1 - t) a + t ε, and the velocity field is v = E[ε - a | x_t], as in π0 (arXiv 2410.24164).
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def flow_times(num_steps: int) -> Float[Tensor, " steps"]:
    """Return the times at which the velocity is asked for: 1, 1 - 1/N, ..., 1/N.

    Raises:
        ValueError: If there are fewer than 2 steps; the noise of one would be zero or infinite.
    """
    if num_steps < 2:
        raise ValueError(f"Expected `num_steps` ≥ 2, got {num_steps}.")
    return 1.0 - torch.arange(num_steps) / num_steps


def flow_ode_step(
    x: Float[Tensor, "*b"], velocity: Float[Tensor, "*b"], *, dt: float
) -> Float[Tensor, "*b"]:
    """Return x at t - dt along the velocity field: Euler's rule."""
    return x - dt * velocity


def flow_sde_step(
    x: Float[Tensor, "*b"],
    velocity: Float[Tensor, "*b"],
    *,
    t: float,
    dt: float,
    noise_level: float,
) -> tuple[Float[Tensor, "*b"], float]:
    """Return mean and standard deviation of x at t - dt along a noisy walk.

    dx = [v + σ² / (2 t) (x + (1 - t) v)] dt + σ dw,   σ = noise_level · sqrt(t / (1 - t))

    The walk has the distribution of the noiseless one at every time, because
    -(x + (1 - t) v) / t is the score of x_t. Each step is a Gaussian, so an action has a
    probability and the policy a gradient.

    Args:
        x: Where the walk is.
        velocity: At ``x`` and ``t``.
        t: In (0, 1]. σ, infinite at 1, is that of 1 - dt there.
        dt: Length of the step, in (0, 1).
        noise_level: 0 gives the noiseless walk.

    Raises:
        ValueError: If a number is out of its range.

    Source: Liu et al. (2025), Flow-GRPO, arXiv 2505.05470, eq. 9; used for π0 as "Flow-SDE".
    """
    if not 0.0 < t <= 1.0 or not 0.0 < dt < 1.0 or noise_level < 0.0:
        raise ValueError(
            f"Expected `t` in (0, 1], `dt` in (0, 1) and `noise_level` ≥ 0, got {t}, {dt}, "
            f"{noise_level}."
        )
    early = min(t, 1.0 - dt)
    sigma = noise_level * math.sqrt(early / (1.0 - early))
    drift = velocity + sigma**2 / (2.0 * t) * (x + (1.0 - t) * velocity)
    return x - dt * drift, sigma * math.sqrt(dt)


def hold_last_action(
    action: Float[Tensor, "n k a"], mask: Bool[Tensor, "n k"]
) -> Float[Tensor, "n k a"]:
    """Return chunks whose padding repeats the last real action before it, whatever it held.

    A flow reads the whole noisy chunk, so that padding reaches the velocity of real actions, too.

    Args:
        action: Chunks; what stands in padding may even be NaN.
        mask: Which actions are real. Where none is before, the chunk's first action is repeated.
    """
    steps = torch.arange(action.shape[1], device=action.device)
    held = torch.where(mask, steps, 0).cummax(-1).values
    return action.gather(1, held[..., None].expand_as(action))


def gaussian_log_prob(
    x: Float[Tensor, "*b"], mean: Float[Tensor, "*b"], std: Float[Tensor, "*b"] | float
) -> Float[Tensor, "*b"]:
    """Return the log-density of a Gaussian, in nats, per element."""
    scale = torch.as_tensor(std, dtype=mean.dtype, device=mean.device)
    return -0.5 * ((x - mean) / scale).square() - scale.log() - 0.5 * math.log(2.0 * math.pi)


def gaussian_entropy(std: Float[Tensor, "*b"] | float) -> Float[Tensor, "*b"]:
    """Return the differential entropy of a Gaussian, in nats."""
    return torch.as_tensor(std).log() + 0.5 * math.log(2.0 * math.pi * math.e)
