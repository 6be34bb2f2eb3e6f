"""Walks from noise to actions in a few noisy steps, for the policies that match flows."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from vla_rl.functional.flow import (
    flow_ode_step,
    flow_sde_step,
    flow_times,
    gaussian_entropy,
    gaussian_log_prob,
)

Velocity = Callable[[Tensor, float], Tensor]
"""Velocity field ``(n, k, a)`` at a place and a time."""


class NoisyWalk:
    """Acts by `flow_sde_step`, whose steps are Gaussians: an action has a log-probability.

    Greedy, it follows the noiseless walk from the mean of the noise.
    """

    def __init__(self, *, num_steps: int, noise_level: float) -> None:
        """Choose the steps.

        Args:
            num_steps: From noise to actions, at least 2.
            noise_level: Positive; about how widely it explores.

        Raises:
            ValueError: If a number is out of its range.
        """
        if noise_level <= 0.0:
            raise ValueError(f"Expected `noise_level` > 0, got {noise_level}.")
        self.num_steps, self.noise_level = num_steps, noise_level
        self._times = flow_times(num_steps).tolist()

    def draw(
        self,
        zeros: Float[Tensor, "n k a"],
        velocity: Velocity,
        *,
        generator: Generator | None,
        deterministic: bool,
    ) -> Float[Tensor, "n steps k a"]:
        """Return a walk and its start: ``zeros`` or, sampling, noise of that shape."""
        x = zeros if deterministic else zeros.normal_(generator=generator)
        walk = [x]
        for t in self._times:
            v = velocity(walk[-1], t)
            if deterministic:
                walk.append(flow_ode_step(walk[-1], v, dt=self._dt))
            else:
                mean, std = self._step(walk[-1], v, t)
                walk.append(mean + std * torch.empty_like(mean).normal_(generator=generator))
        return torch.stack(walk, 1)

    def carry(self, x: Float[Tensor, "n k a"], velocity: Velocity) -> Float[Tensor, "n k a"]:
        """Carry noise to actions without further noise."""
        for t in self._times:
            x = flow_ode_step(x, velocity(x, t), dt=self._dt)
        return x

    def log_prob(
        self, walk: Float[Tensor, "n steps k a"], velocity: Velocity
    ) -> Float[Tensor, "n k a"]:
        """Return the sum of the log-probabilities of the steps of walks."""
        total = walk.new_zeros(walk[:, 0].shape)
        for i, t in enumerate(self._times):
            mean, std = self._step(walk[:, i], velocity(walk[:, i], t), t)
            total = total + gaussian_log_prob(walk[:, i + 1], mean, std)
        return total

    def entropy(self) -> Float[Tensor, ""]:
        """Return the sum of the entropies of the steps; it does not depend on the velocity."""
        nowhere = torch.zeros(())
        stds = [self._step(nowhere, nowhere, t)[1] for t in self._times]
        return torch.stack([gaussian_entropy(std) for std in stds]).sum()

    @property
    def _dt(self) -> float:
        return 1.0 / self.num_steps

    def _step(self, x: Tensor, velocity: Tensor, t: float) -> tuple[Tensor, float]:
        return flow_sde_step(x, velocity, t=t, dt=self._dt, noise_level=self.noise_level)
