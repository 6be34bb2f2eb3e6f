import math

import pytest
import torch

from value_models.functional.bins import bin_centers, expectation, hl_gauss, two_hot

VALUES = [0.0, 1e-4, 0.2, 0.3, 0.5, 0.99999, 1.0]


def _reference_two_hot(x: float, num_bins: int, low: float, high: float) -> list[float]:
    width = (high - low) / (num_bins - 1)
    return [max(0.0, 1.0 - abs(x - (low + i * width)) / width) for i in range(num_bins)]


def _reference_hl_gauss(x: float, num_bins: int, sigma_bins: float) -> list[float]:
    width = 1.0 / (num_bins - 1)
    sigma = sigma_bins * width

    def cdf(z: float) -> float:
        return 0.5 * (1.0 + math.erf((z - x) / (sigma * math.sqrt(2.0))))

    mass = [cdf((i + 0.5) * width) - cdf((i - 0.5) * width) for i in range(num_bins)]
    return [m / sum(mass) for m in mass]


def test_bin_centers_cover_both_ends():
    centers = bin_centers(201)
    assert centers[0] == 0.0
    assert centers[-1] == 1.0
    torch.testing.assert_close(centers.diff(), torch.full((200,), 0.005))


@pytest.mark.parametrize("x", VALUES)
@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.0, 3.0)])
def test_two_hot_matches_the_hat_function(x, low, high):
    x = low + x * (high - low)
    actual = two_hot(torch.tensor(x, dtype=torch.float64), num_bins=11, low=low, high=high)
    expected = torch.tensor(_reference_two_hot(x, 11, low, high), dtype=torch.float64)
    torch.testing.assert_close(actual, expected)


def test_two_hot_mean_is_the_value():
    x = torch.rand(4, 7, dtype=torch.float64)
    probs = two_hot(x, num_bins=201)
    assert probs.shape == (4, 7, 201)
    torch.testing.assert_close(probs @ bin_centers(201).double(), x, rtol=1e-6, atol=1e-8)
    assert (probs > 0).sum(-1).max() <= 2


def test_values_outside_are_clamped():
    x = torch.tensor([-0.5, 1.5])
    torch.testing.assert_close(two_hot(x, num_bins=5), torch.eye(5)[[0, 4]])
    torch.testing.assert_close(hl_gauss(x, num_bins=5), hl_gauss(x.clamp(0, 1), num_bins=5))


@pytest.mark.parametrize("x", VALUES)
@pytest.mark.parametrize("sigma_bins", [0.75, 3.0])
def test_hl_gauss_matches_the_error_function(x, sigma_bins):
    actual = hl_gauss(torch.tensor(x, dtype=torch.float64), num_bins=21, sigma_bins=sigma_bins)
    expected = torch.tensor(_reference_hl_gauss(x, 21, sigma_bins), dtype=torch.float64)
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-9)


def test_hl_gauss_mean_is_the_value_away_from_the_ends():
    x = torch.linspace(0.05, 0.95, 50, dtype=torch.float64)
    mean = hl_gauss(x, num_bins=201) @ bin_centers(201).double()
    torch.testing.assert_close(mean, x, rtol=0, atol=1e-4)  # Gaussian over bins, not points


@pytest.mark.parametrize("encode", [two_hot, hl_gauss])
def test_nan_stays_visible(encode):
    probs = encode(torch.tensor([0.5, torch.nan]), num_bins=5)
    assert probs[0].isfinite().all()
    assert probs[1].isnan().any()


def test_expectation_inverts_two_hot():
    x = torch.rand(100)
    logits = two_hot(x, num_bins=201).log()
    torch.testing.assert_close(expectation(logits), x, rtol=1e-5, atol=1e-6)


def test_expectation_stays_inside_in_half_precision():
    logits = 20 * torch.randn(1000, 201).half()
    values = expectation(logits)
    assert values.dtype == torch.float32
    assert ((values >= 0) & (values <= 1)).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bin_centers(1), "`num_bins` of at least 2, got 1"),
        (lambda: bin_centers(5, 1.0, 0.0), "got low=1.0 and high=0.0"),
        (lambda: two_hot(torch.zeros(1), num_bins=1), "got 1"),
        (lambda: hl_gauss(torch.zeros(1), num_bins=5, sigma_bins=0.0), "`sigma_bins` > 0, got 0.0"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
