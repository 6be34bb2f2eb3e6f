import pytest
import torch

from vla_rl.functional.shaping import sparse_reward, terminal_progress_reward

SUCCESS = torch.tensor([True, False, False, True])


def test_sparse_reward():
    torch.testing.assert_close(sparse_reward(SUCCESS), torch.tensor([1.0, 0.0, 0.0, 1.0]))


@pytest.mark.parametrize(
    ("settings", "failures"),
    [
        ({}, [0.3, 0.95]),
        ({"cap": 0.9}, [0.3, 0.9]),
        ({"scale": 0.5}, [0.15, 0.475]),
        ({"scale": 0.5, "cap": 0.2}, [0.15, 0.2]),
    ],
)
def test_terminal_progress_reward(settings, failures):
    # Progress of successes is not asked for, hence NaN.
    progress = torch.tensor([float("nan"), 0.3, 0.95, float("nan")])
    actual = terminal_progress_reward(SUCCESS, progress, **settings)
    torch.testing.assert_close(actual, torch.tensor([1.0, *failures, 1.0]))


@pytest.mark.parametrize("bad", [-0.1, 1.2, float("nan")])
def test_progress_of_failures_outside_unit_interval_is_an_error(bad):
    with pytest.raises(ValueError, match=rf"`progress` .* got {bad:.1f}"[:-1]):
        terminal_progress_reward(SUCCESS, torch.tensor([0.0, bad, 0.5, 0.0]))


@pytest.mark.parametrize("name", ["cap", "scale"])
def test_cap_and_scale_outside_unit_interval_are_errors(name):
    with pytest.raises(ValueError, match=rf"`{name}` in \[0, 1\], got 1.5"):
        terminal_progress_reward(SUCCESS, torch.zeros(4), **{name: 1.5})
