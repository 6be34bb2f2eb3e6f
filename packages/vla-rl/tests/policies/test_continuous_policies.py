"""The policies whose actions are numbers: Gaussian, flow matching, discretised regression."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from vla_rl.errors import CheckpointError
from vla_rl.policies.discretized_policy import DiscretizedPolicy
from vla_rl.policies.flow_policy import FlowPolicy
from vla_rl.policies.gaussian_policy import GaussianPolicy
from vla_rl.testing import check_policy, make_observation

SIZES = {"channels": (4, 4, 4), "image_dim": 8, "hidden_dim": 16, "image_size": 16}
WORLD = {"cameras": ["front"], "state_dim": 2, "action_dim": 2, "chunk": 3}
RANGE = {"action_low": -0.5, "action_high": 1.5}


def _gaussian(**settings):
    return GaussianPolicy(**SIZES, **WORLD, **RANGE, **settings)


def _flow(**settings):
    return FlowPolicy(**SIZES, **WORLD, **RANGE, **settings)


def _discretized(**settings):
    return DiscretizedPolicy(_gaussian(), **RANGE, action_dim=2, **settings)


def _batch(n=4):
    pad = torch.zeros(n, 3, dtype=torch.bool)
    pad[1, 1:] = True
    return {**make_observation(n), "action": torch.rand(n, 3, 2), "action_is_pad": pad}


def _repeated(count):
    one = make_observation(1)
    return {k: v * count if k == "task" else np.repeat(v, count, 0) for k, v in one.items()}


@pytest.mark.parametrize("make", [_gaussian, _flow, _discretized])
def test_contract(make):
    check_policy(make(), make_observation(3))


@pytest.mark.parametrize("make", [_gaussian, _flow])
def test_contract_with_norms(make):
    check_policy(make(normalize=True), make_observation(3))


@pytest.mark.parametrize("make", [_gaussian, _flow, _discretized])
def test_imitation_loss_ignores_padding(make):
    policy, batch = make().eval(), _batch()
    spoiled = batch["action"].clone()
    spoiled[batch["action_is_pad"]] = 0.4
    losses = []
    for action in (batch["action"], spoiled):
        torch.manual_seed(0)
        losses.append(policy.imitation_loss(batch | {"action": action}))
    torch.testing.assert_close(*losses)
    torch.manual_seed(0)
    per_sample = (~batch["action_is_pad"]).sum(-1)
    expected = (losses[0] * per_sample).sum() / per_sample.sum()
    torch.testing.assert_close(policy.imitation_loss(batch, reduction="mean"), expected)


@pytest.mark.parametrize("make", [_gaussian, _flow, _discretized])
def test_what_stands_in_padding_does_not_reach_the_gradients(make):
    policy, batch = make().eval(), _batch()
    spoiled = batch["action"].clone()
    spoiled[batch["action_is_pad"]] = float("nan")
    policy.imitation_loss(batch | {"action": spoiled}, reduction="mean").backward()
    gradients = [p.grad for p in policy.parameters() if p.grad is not None]
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)
    assert any(bool((gradient != 0.0).any()) for gradient in gradients)


@pytest.mark.parametrize("make", [_gaussian, _flow, _discretized])
def test_a_demonstrated_action_a_little_outside_the_range_is_cloned_as_its_end(make):
    policy, batch, losses = make().eval(), _batch(), []
    for value in (RANGE["action_high"], RANGE["action_high"] + 0.8):
        batch["action"][0, 0, 1] = value
        torch.manual_seed(0)
        losses.append(policy.imitation_loss(batch))
    assert torch.equal(*losses)


@pytest.mark.parametrize("make", [_gaussian, _flow])
def test_files(make, tmp_path):
    policy = make()
    policy.save_pretrained(tmp_path / "a")
    again = type(policy).from_pretrained(tmp_path / "a")
    obs = make_observation(2)
    for deterministic in (True, False):
        left, right = (
            p.act(obs, generator=torch.Generator().manual_seed(1), deterministic=deterministic)
            for p in (policy, again)
        )
        assert torch.equal(left.actions, right.actions)
    other = FlowPolicy if isinstance(policy, GaussianPolicy) else GaussianPolicy
    with pytest.raises(CheckpointError, match="Expected a checkpoint with model_type"):
        other.from_pretrained(tmp_path / "a")


def test_files_of_a_discretised_policy_are_those_of_what_it_wraps(tmp_path):
    policy = _discretized()
    policy.save_pretrained(tmp_path)
    again = DiscretizedPolicy(GaussianPolicy.from_pretrained(tmp_path), **RANGE, action_dim=2)
    left, right = (
        p.act(make_observation(2), generator=torch.Generator().manual_seed(1))
        for p in (policy, again)
    )
    assert torch.equal(left.actions, right.actions)
    assert torch.equal(left.log_prob, right.log_prob)
    assert not hasattr(DiscretizedPolicy(_Regressor(), **RANGE, action_dim=2), "save_pretrained")


class _Regressor(torch.nn.Module):
    """Cannot be written."""


def test_a_gaussians_samples_have_its_moments_and_density():
    policy = _gaussian(initial_std=0.1)
    obs = _repeated(3000)
    with torch.no_grad():
        decision = policy.act(obs, generator=torch.Generator().manual_seed(0))
        mean = policy.act(obs, deterministic=True).actions
    # Half the range of actions is 1, so normalised units are those of the environment.
    spread = (decision.actions - mean).flatten().numpy()
    assert stats.kstest(spread, stats.norm(0.0, 0.1).cdf).statistic < 0.013
    expected = stats.norm(0.0, 0.1).logpdf((decision.actions - mean).double().numpy())
    np.testing.assert_allclose(decision.log_prob.numpy(), expected, atol=1e-3)


def test_actions_stay_in_range():
    for policy in (_gaussian(initial_std=5.0), _flow(noise_level=5.0)):
        actions = policy.act(_repeated(50)).actions
        assert float(actions.min()) == -0.5
        assert float(actions.max()) == 1.5


def test_a_walks_log_prob_is_the_sum_over_its_steps():
    policy = _flow(num_steps=3, noise_level=0.7)
    decision = policy.act(make_observation(2), generator=torch.Generator().manual_seed(0))
    walk = decision.replay["walk"].double()
    with torch.no_grad():
        features = policy.features(decision.replay)
        expected = torch.zeros(2, 3, 2, dtype=torch.float64)
        for i, t in enumerate([1.0, 2.0 / 3.0, 1.0 / 3.0]):
            x = walk[:, i]
            v = policy._velocity(features, x.float(), t).double()
            early = min(t, 2.0 / 3.0)
            sigma = 0.7 * math.sqrt(early / (1.0 - early))
            mean = x - (v + sigma**2 / (2.0 * t) * (x + (1.0 - t) * v)) / 3.0
            std = sigma / math.sqrt(3.0)
            expected += torch.distributions.Normal(mean, std).log_prob(walk[:, i + 1])
    torch.testing.assert_close(decision.log_prob.double(), expected, atol=1e-4, rtol=1e-4)


def test_flow_matching_learns_two_ways_to_act():
    """One state, two demonstrated actions: the mean of both is none of them."""
    torch.manual_seed(0)
    policy = FlowPolicy(
        cameras=[],
        state_dim=2,
        action_dim=1,
        chunk=1,
        num_steps=10,
        noise_level=0.2,
        action_low=-1.0,
        action_high=1.0,
        hidden_dim=32,
    )
    n = 256
    batch = {
        "observation.state": torch.zeros(n, 2),
        "task": ["go"] * n,
        "action": torch.where(torch.arange(n) % 2 == 0, -0.7, 0.7).view(n, 1, 1),
        "action_is_pad": torch.zeros(n, 1, dtype=torch.bool),
    }
    optimizer = torch.optim.Adam(policy.parameters(), lr=3e-3)
    for _ in range(300):
        optimizer.zero_grad()
        policy.imitation_loss(batch, reduction="mean").backward()
        optimizer.step()
    actions = policy.act(batch, generator=torch.Generator().manual_seed(0)).actions.flatten()
    assert float((actions.abs() - 0.7).abs().median()) < 0.15
    assert 0.3 < float((actions > 0.0).float().mean()) < 0.7


def test_discretisation_leaves_the_greedy_action_unchanged():
    policy = _discretized()
    obs = make_observation(3)
    regressed = policy.regressor.predict(policy.regressor.read(obs))
    decision = policy.act(obs, deterministic=True)
    assert torch.equal(decision.actions, regressed)
    # ... and it lies in the likeliest bin.
    for shift in (-1, 1):
        tokens = decision.replay["action_tokens"] + shift
        other = policy.evaluate(decision.replay | {"action_tokens": tokens}).log_prob
        assert bool((other < decision.log_prob).all())


def test_discretised_samples_are_as_likely_as_they_say():
    policy = _discretized(num_bins=20, sigma_bins=1.0)
    decision = policy.act(_repeated(6000), generator=torch.Generator().manual_seed(0))
    tokens = decision.replay["action_tokens"][:, 0, 0]
    for token in tokens.unique().tolist():
        rows = tokens == token
        probability = float(decision.log_prob[rows][0, 0, 0].exp())
        assert float(rows.float().mean()) == pytest.approx(probability, abs=0.025)


def test_bad_settings():
    with pytest.raises(ValueError, match="`noise_level` > 0, got 0"):
        _flow(noise_level=0.0)
    with pytest.raises(ValueError, match="`initial_std` > 0, got 0"):
        _gaussian(initial_std=0.0)
    with pytest.raises(ValueError, match="`num_bins` >= 2, got 1"):
        _discretized(num_bins=1)
    replay = _gaussian().act(make_observation(1)).replay
    with pytest.raises(ValueError, match="'walk' in the replay of a decision, got"):
        _flow().evaluate(replay)
