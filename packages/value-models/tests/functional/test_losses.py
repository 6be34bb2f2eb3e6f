import math

import pytest
import torch

from value_models.functional.bins import hl_gauss, two_hot
from value_models.functional.losses import distributional_cross_entropy, masked_mean


def _reference(logits: torch.Tensor, target: torch.Tensor, sigma_bins: float | None) -> float:
    total, count = 0.0, 0
    for row, x in zip(logits.flatten(0, -2), target.flatten(), strict=True):
        if math.isnan(x):
            continue
        bins = len(row)
        probs = (
            two_hot(x, num_bins=bins)
            if sigma_bins is None
            else hl_gauss(x, num_bins=bins, sigma_bins=sigma_bins)
        ).tolist()
        z = math.log(sum(math.exp(v) for v in row.tolist()))
        total -= sum(p * (v - z) for p, v in zip(probs, row.tolist(), strict=True))
        count += 1
    return total / count


@pytest.mark.parametrize("sigma_bins", [None, 0.75])
def test_matches_a_loop(sigma_bins):
    logits = torch.randn(3, 4, 11, dtype=torch.float64)
    target = torch.rand(3, 4, dtype=torch.float64)
    target[0, 1:3] = torch.nan
    loss = distributional_cross_entropy(logits, target, sigma_bins=sigma_bins)
    assert loss.item() == pytest.approx(_reference(logits, target, sigma_bins))


@pytest.mark.parametrize("sigma_bins", [None, 0.75])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_does_not_smear_the_targets(sigma_bins, dtype):
    logits = torch.randn(50, 201).to(dtype).requires_grad_()
    target = torch.rand(50)
    loss = distributional_cross_entropy(logits, target, sigma_bins=sigma_bins)
    exact = distributional_cross_entropy(logits.float(), target, sigma_bins=sigma_bins)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, exact)
    loss.backward()
    assert logits.grad.dtype == dtype


def test_gradient():
    logits = torch.randn(2, 3, 7, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([[0.1, torch.nan, 1.0], [0.5, 0.0, torch.nan]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: distributional_cross_entropy(x, target), (logits,))


@pytest.mark.parametrize("sigma_bins", [None, 0.75])
def test_unknown_targets_give_no_gradient(sigma_bins):
    logits = torch.randn(2, 5, requires_grad=True)
    target = torch.tensor([0.3, torch.nan])
    distributional_cross_entropy(logits, target, sigma_bins=sigma_bins).backward()
    assert logits.grad[0].abs().sum() > 0
    assert torch.equal(logits.grad[1], torch.zeros(5))


def test_nothing_known_is_a_differentiable_zero():
    logits = torch.randn(2, 5, requires_grad=True)
    loss = distributional_cross_entropy(logits, torch.full((2,), torch.nan))
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(logits.grad, torch.zeros(2, 5))


def test_least_at_the_target_distribution():
    target = torch.rand(6)
    best = hl_gauss(target, num_bins=21).clamp(min=1e-30).log()
    entropy = -(best.exp() * best).sum(-1).mean()
    torch.testing.assert_close(distributional_cross_entropy(best, target), entropy)
    assert distributional_cross_entropy(best + torch.randn(6, 21), target) > entropy


def test_masked_mean_ignores_what_is_masked_out():
    losses = torch.tensor([1.0, torch.nan, 3.0], requires_grad=True)
    mask = torch.tensor([True, False, True])
    mean = masked_mean(losses, mask)
    assert mean.item() == 2.0
    mean.backward()
    assert losses.grad.tolist() == [0.5, 0.0, 0.5]
    assert masked_mean(losses, mask, count=8).item() == 0.5
    assert masked_mean(losses, torch.zeros(3, dtype=torch.bool)).item() == 0.0
