import math

import pytest
import torch

from vla_rl.functional.policy_losses import (
    adapt_kl_coefficient,
    clip_fractions,
    clipped_surrogate,
    imitation_mean,
    kl_k1,
    kl_k2,
    kl_k3,
    masked_mean,
    reference_kl,
    value_loss,
)


def _batch(seed=0, n=6, k=3, a=2, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    old = -torch.rand(n, k, a, generator=g, dtype=dtype)
    new = old + 0.3 * torch.randn(n, k, a, generator=g, dtype=dtype)
    mask = torch.arange(k) < torch.randint(1, k + 1, (n, 1), generator=g)
    return new, old, torch.randn(n, generator=g, dtype=dtype), mask


def _reference(new, old, advantage, mask, *, low, high, dual, level):
    total, count = 0.0, 0
    for n in range(len(new)):
        gain = float(advantage[n])
        actions = [i for i in range(mask.shape[1]) if mask[n, i]]
        tokens = [[float(x) for x in new[n, i] - old[n, i]] for i in actions]
        units = {
            "token": [x for row in tokens for x in row],
            "action": [sum(row) for row in tokens],
            "chunk": [sum(map(sum, tokens))],
        }[level]
        for log_ratio in units:
            ratio = math.exp(log_ratio)
            objective = min(ratio * gain, min(max(ratio, 1 - low), 1 + high) * gain)
            if dual is not None and gain < 0:
                objective = max(objective, dual * gain)
            total, count = total - objective, count + 1
    return total / count


@pytest.mark.parametrize("level", ["token", "action", "chunk"])
@pytest.mark.parametrize("dual", [None, 1.1])
def test_clipped_surrogate_matches_the_definition(level, dual):
    batch = _batch()
    loss, _ = clipped_surrogate(*batch, clip_low=0.1, clip_high=0.28, dual_clip=dual, level=level)
    expected = _reference(*batch, low=0.1, high=0.28, dual=dual, level=level)
    assert float(loss) == pytest.approx(expected, rel=1e-9)


def test_dual_clip_bounds_the_loss_of_a_bad_action():
    old, new = torch.zeros(1, 1, 1), torch.full((1, 1, 1), 3.0)
    batch = (new, old, torch.tensor([-1.0]), torch.ones(1, 1, dtype=torch.bool))
    assert float(clipped_surrogate(*batch)[0]) == pytest.approx(math.exp(3.0))
    assert float(clipped_surrogate(*batch, dual_clip=3.0)[0]) == pytest.approx(3.0)


@pytest.mark.parametrize("level", ["token", "action", "chunk"])
def test_clipped_surrogate_gradient(level):
    new, old, advantage, mask = _batch()
    new.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: clipped_surrogate(x, old, advantage, mask, level=level)[0], new
    )


def test_unexecuted_tokens_change_nothing_even_when_not_finite():
    new, old, advantage, mask = _batch()
    expected, _ = clipped_surrogate(new, old, advantage, mask)
    spoiled = torch.where(mask[..., None], new, float("inf")).requires_grad_()
    loss, _ = clipped_surrogate(spoiled, old, advantage, mask)
    (gradient,) = torch.autograd.grad(loss, spoiled)
    torch.testing.assert_close(loss, expected)
    assert gradient.isfinite().all()
    assert (gradient[~mask] == 0).all()


def test_micro_batches_with_the_global_denominator_add_up():
    batch = _batch(n=8)
    whole, diagnostics = clipped_surrogate(*batch)
    count = batch[3].sum() * 2  # two tokens per executed action
    parts = [
        clipped_surrogate(*(x[rows] for x in batch), denominator=count)
        for rows in (slice(0, 1), slice(1, 8))
    ]
    torch.testing.assert_close(parts[0][0] + parts[1][0], whole)
    for name, value in diagnostics.items():
        torch.testing.assert_close(parts[0][1][name] + parts[1][1][name], value)


@pytest.mark.parametrize(
    ("level", "fraction"), [("token", 0.0001), ("action", 0.13), ("chunk", 0.59)]
)
def test_clip_fraction_grows_with_the_unit(level, fraction):
    """Log-ratios of sd 0.05 and clip 0.2; seven tokens per action, eight actions per chunk."""
    torch.manual_seed(0)
    log_ratio = 0.05 * torch.randn(4000, 8, 7)
    every = torch.ones(4000, 8, dtype=torch.bool)
    _, diagnostics = clipped_surrogate(
        log_ratio, torch.zeros(4000, 8, 7), torch.randn(4000), every, level=level
    )
    # Share of |N(0, sd)| beyond log 0.8 and log 1.2, given to two digits.
    assert float(diagnostics["clip_fraction"]) == pytest.approx(fraction, abs=0.02)
    everywhere = clip_fractions(log_ratio, every)
    assert everywhere[f"clip_fraction_{level}"] == diagnostics["clip_fraction"]


def test_clip_fractions_of_parts_add_up_and_leave_out_what_was_not_executed():
    new, old, _, mask = _batch()[:4]
    log_ratio = torch.where(mask[..., None], new - old, torch.nan)
    counts = {"token": 2.0 * mask.sum(), "action": mask.sum(), "chunk": mask.any(-1).sum()}
    whole = clip_fractions(log_ratio, mask)
    parts = [
        clip_fractions(log_ratio[rows], mask[rows], denominators=counts)
        for rows in (slice(0, 1), slice(1, 8))
    ]
    for name, value in whole.items():
        assert 0.0 < float(value) < 1.0
        torch.testing.assert_close(parts[0][name] + parts[1][name], value)


def test_value_loss_is_huber_of_valid_entries():
    value, target = torch.tensor([0.0, 0.0, 9.0]), torch.tensor([0.5, 4.0, 0.0])
    mask = torch.tensor([True, True, False])
    loss, diagnostics = value_loss(value, target, mask, huber_delta=1.0)
    assert float(loss) == pytest.approx((0.5 * 0.5**2 + (4.0 - 0.5)) / 2)
    assert float(diagnostics["value_clip_fraction"]) == 0.0


def test_value_clip_takes_the_worse_loss_and_counts_moves():
    old = torch.zeros(4)
    value, target = torch.tensor([0.05, 0.5, -0.5, 0.3]), torch.tensor([1.0, 1.0, 1.0, 0.3])
    mask = torch.ones(4, dtype=torch.bool)
    loss, diagnostics = value_loss(value, target, mask, old_value=old, clip=0.2)
    # 0.05 stays; 0.5 is judged at 0.2; -0.5 is worse than -0.2; 0.3 is right but judged at 0.2.
    expected = 0.5 * (0.95**2 + 0.8**2 + 1.5**2 + 0.1**2) / 4
    assert float(loss) == pytest.approx(expected, rel=1e-6)
    assert float(diagnostics["value_clip_fraction"]) == 0.75


def test_value_loss_gradient():
    value = torch.randn(6, dtype=torch.float64, requires_grad=True)
    target, old = (torch.randn(6, dtype=torch.float64) for _ in range(2))
    mask = torch.tensor([True] * 5 + [False])
    assert torch.autograd.gradcheck(
        lambda v: value_loss(v, target, mask, old_value=old, clip=0.3, huber_delta=0.7)[0], value
    )


def _categorical_kl_gradients(estimator):
    """Expected gradient of an estimator as a loss, by summing over all outcomes."""
    torch.manual_seed(0)
    logits = torch.randn(6, dtype=torch.float64, requires_grad=True)
    reference = torch.randn(6, dtype=torch.float64).log_softmax(-1)
    log_probs = logits.log_softmax(-1)
    weight = log_probs.detach().exp()
    value = (weight * estimator(log_probs, reference)).sum()
    (gradient,) = torch.autograd.grad(value, logits, retain_graph=True)
    forward = (log_probs.exp() * (log_probs - reference)).sum()
    backward = (reference.exp() * (reference - log_probs)).sum()
    kls = [torch.autograd.grad(kl, logits, retain_graph=True)[0] for kl in (forward, backward)]
    return value.detach(), forward.detach(), gradient, *kls


@pytest.mark.parametrize("estimator", [kl_k1, kl_k3])
def test_k1_and_k3_are_unbiased_values(estimator):
    value, forward, *_ = _categorical_kl_gradients(estimator)
    torch.testing.assert_close(value, forward)


def test_gradients_of_the_kl_estimators_as_losses():
    _, _, k1_gradient, forward, backward = _categorical_kl_gradients(kl_k1)
    torch.testing.assert_close(k1_gradient, torch.zeros(6, dtype=torch.float64))
    torch.testing.assert_close(_categorical_kl_gradients(kl_k2)[2], forward)
    torch.testing.assert_close(_categorical_kl_gradients(kl_k3)[2], backward)


def test_masked_mean_broadcasts_and_survives_an_empty_mask():
    x = torch.arange(12.0).reshape(2, 3, 2)
    mask = torch.tensor([[True, False, False], [True, True, False]])
    assert float(masked_mean(x, mask)) == pytest.approx((0 + 1 + 6 + 7 + 8 + 9) / 6)
    none = torch.zeros(2, 3, dtype=torch.bool)
    assert float(masked_mean(x, none)) == float(masked_mean(x, none, denominator=0.0)) == 0.0


def test_masked_mean_divides_by_a_mean_count_below_one():
    """Of two processes one has a single entry and the other has none."""
    assert float(masked_mean(torch.ones(1), torch.tensor([True]), denominator=0.5)) == 2.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clip_low": 0.0}, r"`clip_low` in \(0, 1\), got 0.0"),
        ({"clip_low": 1.5}, r"`clip_low` in \(0, 1\), got 1.5"),
        ({"clip_high": -1.0}, r"`clip_high` > 0, got -1.0"),
        ({"dual_clip": 0.5}, r"`dual_clip` > 1 or None, got 0.5"),
        ({"level": "word"}, r"`level` in .*, got 'word'"),
    ],
)
def test_bad_settings_of_the_surrogate(settings, message):
    with pytest.raises(ValueError, match=message):
        clipped_surrogate(*_batch(), **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clip": 0.2}, "together"),
        ({"old_value": torch.zeros(2)}, "together"),
        ({"huber_delta": 0.0}, "huber_delta=0.0"),
        ({"clip": -1.0, "old_value": torch.zeros(2)}, "clip=-1.0"),
    ],
)
def test_bad_settings_of_the_value_loss(settings, message):
    with pytest.raises(ValueError, match=message):
        value_loss(torch.zeros(2), torch.zeros(2), torch.ones(2).bool(), **settings)


def test_the_gradient_of_the_reference_penalty_is_that_of_the_kl():
    """Against the exact KL of two categorical distributions, by weighting all outcomes."""
    generator = torch.Generator().manual_seed(0)
    logits, old, ref = torch.randn(3, 5, generator=generator, dtype=torch.float64).unbind()
    logits.requires_grad_()
    log_prob, old_log_prob, ref_log_prob = (x.log_softmax(-1) for x in (logits, old, ref))
    exact = (log_prob.exp() * (log_prob - ref_log_prob)).sum()
    (expected,) = torch.autograd.grad(exact, logits, retain_graph=True)

    # Each outcome as often as the policy that acted samples it.
    count = 20_000
    rows = torch.multinomial(old_log_prob.exp(), count, replacement=True, generator=generator)
    loss, value = reference_kl(
        *(x[rows].view(count, 1, 1) for x in (log_prob, old_log_prob, ref_log_prob)),
        torch.ones(count, 1, dtype=torch.bool),
    )
    (actual,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(actual, expected, atol=0.02, rtol=0.0)
    assert float(value) == pytest.approx(exact.item(), abs=0.03)


def test_tokens_that_were_not_executed_do_not_count_in_the_penalty():
    log_prob = torch.tensor([[[-1.0], [float("inf")]]], requires_grad=True)
    old, ref = torch.tensor([[[-1.0], [0.0]]]), torch.tensor([[[-2.0], [-3.0]]])
    loss, value = reference_kl(log_prob, old, ref, torch.tensor([[True, False]]))
    assert loss.item() == 0.5
    assert float(value) == pytest.approx(math.exp(-1.0))
    loss.backward()
    assert log_prob.grad.tolist() == [[[1.0], [0.0]]]


@pytest.mark.parametrize(("kl", "expected"), [(0.005, 0.05), (0.01, 0.1), (0.04, 0.1), (0.05, 0.2)])
def test_the_weight_of_the_penalty_follows_the_kl(kl, expected):
    assert adapt_kl_coefficient(0.1, kl, target=0.02) == expected


def test_imitation_mean_counts_real_actions_alone():
    generator = torch.Generator().manual_seed(0)
    loss = torch.rand(6, 4, 3, generator=generator, dtype=torch.float64)
    mask = torch.rand(6, 4, generator=generator) < 0.6
    mask[2] = False
    loss[~mask] = float("nan")
    own = [[float(loss[i, j].mean()) for j in range(4) if mask[i, j]] for i in range(6)]
    expected = [sum(row) / len(row) if row else 0.0 for row in own]
    each = imitation_mean(loss, mask, reduction="none")
    assert each.tolist() == pytest.approx(expected)
    every = [value for row in own for value in row]
    mean = imitation_mean(loss, mask, reduction="mean")
    assert float(mean) == pytest.approx(sum(every) / len(every))
