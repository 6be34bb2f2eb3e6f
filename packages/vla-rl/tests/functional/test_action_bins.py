import numpy as np
import pytest
import torch

from vla_rl.functional.action_bins import decode_actions, encode_actions, gaussian_bin_labels

LOW, HIGH = torch.tensor([-0.6, -1.0]), torch.tensor([0.6, 1.0])


@pytest.mark.parametrize("num_bins", [2, 21, 256])
def test_encode_undoes_decode(num_bins):
    token = torch.arange(num_bins)[:, None].repeat(1, 2)
    action = decode_actions(token, LOW, HIGH, num_bins=num_bins)
    assert torch.equal(encode_actions(action, LOW, HIGH, num_bins=num_bins), token)


def test_encode_matches_numpy_digitize():
    action = torch.rand(200, 2) * 2.4 - 1.2
    actual = encode_actions(action, LOW, HIGH, num_bins=21)
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
