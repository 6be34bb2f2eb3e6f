import math

import pytest
import torch
from scipy import stats

from vla_rl.functional.flow import (
    flow_ode_step,
    flow_sde_step,
    flow_times,
    gaussian_entropy,
    gaussian_log_prob,
    hold_last_action,
)

MEANS, STDS, WEIGHTS = torch.tensor([-0.8, 0.6]), torch.tensor([0.1, 0.3]), torch.tensor([0.3, 0.7])


def _velocity(x, t):
    """E[noise - action | x_t = x] of a mixture of two Gaussians, in closed form."""
    a, spread = 1.0 - t, (1.0 - t) ** 2 * STDS**2 + t**2
    z = x[:, None] - a * MEANS
    share = (WEIGHTS.log() - 0.5 * spread.log() - 0.5 * z**2 / spread).softmax(-1)
    action = MEANS + a * STDS**2 / spread * z
    noise = t / spread * z
    return (share * (noise - action)).sum(-1)


@pytest.mark.parametrize("noise_level", [0.0, 0.3, 0.8])
def test_walks_end_where_the_data_is_whatever_the_noise(noise_level):
    generator = torch.Generator().manual_seed(0)
    num_steps, n = 400, 4000
    x = torch.randn(n, generator=generator)
    for t in flow_times(num_steps).tolist():
        mean, std = flow_sde_step(
            x, _velocity(x, t), t=t, dt=1.0 / num_steps, noise_level=noise_level
        )
        x = mean + std * torch.randn(n, generator=generator)
    which = torch.multinomial(WEIGHTS, n, replacement=True, generator=generator)
    data = MEANS[which] + STDS[which] * torch.randn(n, generator=generator)
    assert stats.ks_2samp(x.numpy(), data.numpy()).statistic < 0.04  # 1.63 sqrt(2 / n) is 0.036


def test_without_noise_the_walk_is_eulers():
    x, velocity = torch.randn(2, 5, dtype=torch.float64).unbind()
    mean, std = flow_sde_step(x, velocity, t=0.5, dt=0.25, noise_level=0.0)
    assert std == 0.0
    torch.testing.assert_close(mean, flow_ode_step(x, velocity, dt=0.25))


def test_times_go_from_noise_to_the_last_step():
    assert flow_times(4).tolist() == [1.0, 0.75, 0.5, 0.25]
    with pytest.raises(ValueError, match="`num_steps` ≥ 2, got 1"):
        flow_times(1)


def test_log_prob_and_entropy_are_those_of_torch():
    x, mean = torch.randn(2, 5, dtype=torch.float64).unbind()
    expected = torch.distributions.Normal(mean, 0.3)
    torch.testing.assert_close(gaussian_log_prob(x, mean, 0.3), expected.log_prob(x))
    torch.testing.assert_close(gaussian_entropy(0.3).double(), expected.entropy()[0])
    assert math.isfinite(gaussian_entropy(0.3))


@pytest.mark.parametrize(("t", "dt", "level"), [(0.0, 0.1, 0.5), (0.5, 1.0, 0.5), (0.5, 0.1, -1.0)])
def test_bad_numbers(t, dt, level):
    with pytest.raises(ValueError, match=r"Expected `t` in \(0, 1\]"):
        flow_sde_step(torch.zeros(1), torch.zeros(1), t=t, dt=dt, noise_level=level)


def test_padding_repeats_the_last_real_action():
    generator = torch.Generator().manual_seed(0)
    action = torch.randn(50, 6, 2, generator=generator)
    mask = torch.rand(50, 6, generator=generator) < 0.6
    expected = action.clone()
    for row in range(50):
        last = 0
        for step in range(6):
            last = step if mask[row, step] else last
            expected[row, step] = action[row, last]
    assert torch.equal(hold_last_action(action, mask), expected)
