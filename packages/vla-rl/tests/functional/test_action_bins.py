import numpy as np
import pytest
import torch
from scipy import stats

from vla_rl.functional.action_bins import (
    binned_normal_log_prob,
    check_tokens,
    decode_actions,
    encode_actions,
    gaussian_bin_labels,
)

LOW, HIGH = torch.tensor([-0.6, -1.0]), torch.tensor([0.6, 1.0])


@pytest.mark.parametrize("num_bins", [2, 21, 256])
def test_encode_undoes_decode(num_bins):
    token = torch.arange(num_bins)[:, None].repeat(1, 2)
    action = decode_actions(token, LOW, HIGH, num_bins=num_bins)
    assert torch.equal(encode_actions(action, LOW, HIGH, num_bins=num_bins), token)


def test_encode_matches_numpy_digitize():
    action = torch.rand(200, 2) * 2.4 - 1.2
    actual = encode_actions(action, LOW, HIGH, num_bins=21, clip=True)
    for dim in range(2):
        edges = np.linspace(float(LOW[dim]), float(HIGH[dim]), 22)
        expected = np.digitize(action[:, dim].numpy(), edges[1:-1])
        np.testing.assert_array_equal(actual[:, dim].numpy(), expected)


def test_decoding_an_encoded_action_is_within_half_a_bin():
    action = LOW + torch.rand(200, 2) * (HIGH - LOW)
    decoded = decode_actions(encode_actions(action, LOW, HIGH, num_bins=21), LOW, HIGH, num_bins=21)
    assert ((decoded - action).abs() <= (HIGH - LOW) / 42 + 1e-6).all()


def test_gaussian_labels_have_the_action_as_their_mean():
    action = torch.tensor([[0.05, -0.3], [-0.11, 0.2]])
    labels = gaussian_bin_labels(action, LOW, HIGH, num_bins=21, sigma_bins=1.0)
    centres = decode_actions(torch.arange(21)[:, None].repeat(1, 2), LOW, HIGH, num_bins=21)
    mean = torch.einsum("nab,ba->na", labels, centres)
    torch.testing.assert_close(labels.sum(-1), torch.ones(2, 2))
    torch.testing.assert_close(mean, action, atol=1e-3, rtol=0.0)  # the range cuts the tails
    spread = torch.einsum("nab,nab->na", labels, (centres.T - action[..., None]) ** 2).sqrt()
    torch.testing.assert_close(spread, ((HIGH - LOW) / 21).expand(2, 2), atol=2e-3, rtol=0.0)


def test_labels_without_width_are_one_hot():
    action = torch.tensor([[0.7, -3.0]])
    labels = gaussian_bin_labels(action, LOW, HIGH, num_bins=21, sigma_bins=0.0)
    assert labels.argmax(-1).tolist() == [[20, 0]]
    assert torch.equal(labels.sum(-1), torch.ones(1, 2))


def test_bad_bins():
    action = torch.zeros(1, 2)
    with pytest.raises(ValueError, match="`num_bins` >= 2, got 1"):
        encode_actions(action, LOW, HIGH, num_bins=1)
    with pytest.raises(ValueError, match="`low` < `high`"):
        encode_actions(action, HIGH, LOW, num_bins=5)
    with pytest.raises(ValueError, match=r"`sigma_bins` >= 0, got -1\.0"):
        gaussian_bin_labels(action, LOW, HIGH, num_bins=5, sigma_bins=-1.0)


@pytest.mark.parametrize("value", [1.1, -1.1, float("nan"), float("inf")])
def test_an_action_outside_the_bins_is_named_unless_clipping_is_asked_for(value):
    action = torch.tensor([[0.5, 0.9], [0.1, value]])
    message = rf"`action` in \[-1, 1\] .* in dimension 1, got {value:g}\. Widen `action_low`"
    with pytest.raises(ValueError, match=message):
        encode_actions(action, LOW, HIGH, num_bins=21)
    rounded = torch.tensor([[-0.6, 1.0005], [0.6, -1.0005]])
    tokens = [[0, 20], [20, 0]]
    assert encode_actions(rounded, LOW, HIGH, num_bins=21).tolist() == tokens
    far = torch.tensor([[-7.0, 7.0], [7.0, -7.0]])
    assert encode_actions(far, LOW, HIGH, num_bins=21, clip=True).tolist() == tokens


@pytest.mark.parametrize("token", [-1, 21])
def test_a_token_of_no_bin_is_named(token):
    with pytest.raises(ValueError, match=rf"`action_tokens` from 0 to 20, .* got {token}\."):
        check_tokens(torch.tensor([[0, 20], [token, 3]]), num_bins=21)
    check_tokens(torch.tensor([[0, 20]]), num_bins=21)


@pytest.mark.parametrize("sigma_bins", [0.3, 2.5])
@pytest.mark.parametrize("mean", [-1.0, -0.97, 0.013, 0.5, 1.0, 1.7])
def test_binned_normal_is_the_integral_of_a_gaussian(mean, sigma_bins):
    num_bins = 50
    low, high = torch.tensor([-1.0]), torch.tensor([1.0])
    tokens = torch.arange(num_bins)[:, None]
    actual = binned_normal_log_prob(
        tokens, torch.full((num_bins, 1), mean), low, high, num_bins=num_bins, sigma_bins=sigma_bins
    )[:, 0]
    edges = np.linspace(-1.0, 1.0, num_bins + 1)
    edges[0], edges[-1] = -np.inf, np.inf
    normal = stats.norm(mean, sigma_bins * 2.0 / num_bins)
    expected = np.diff(normal.cdf(edges))
    np.testing.assert_allclose(actual.exp().numpy(), expected, atol=1e-5)
    assert float(actual.exp().sum()) == pytest.approx(1.0, abs=1e-5)
    assert int(actual.argmax()) == int(
        encode_actions(torch.tensor([mean]), low, high, num_bins=50, clip=True)
    )


def test_binned_normal_has_finite_gradients_far_from_the_mean():
    low, high = torch.tensor([-1.0]), torch.tensor([1.0])
    tokens = torch.tensor([[0], [1], [500], [998], [999]])
    mean = torch.full((5, 1), 0.9, requires_grad=True)
    log_prob = binned_normal_log_prob(tokens, mean, low, high, num_bins=1000, sigma_bins=2.5)
    log_prob.sum().backward()
    assert bool(log_prob.isfinite().all())
    assert bool(mean.grad.isfinite().all())
    # A Gaussian's slope: (bin - mean) / sigma², where the bin is far from the mean.
    sigma = 2.5 * 0.002
    assert float(mean.grad[2]) == pytest.approx((0.002 * 500.5 - 1.0 - 0.9) / sigma**2, rel=0.01)
    with pytest.raises(ValueError, match="`sigma_bins` > 0, got 0"):
        binned_normal_log_prob(tokens, mean, low, high, num_bins=1000, sigma_bins=0.0)
