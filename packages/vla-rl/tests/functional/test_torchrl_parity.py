"""The same numbers as TorchRL, an implementation by other people."""

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import ProbabilisticTensorDictModule, ProbabilisticTensorDictSequential
from tensordict.nn import TensorDictModule as Mod
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value.functional import (
    generalized_advantage_estimate,
    vec_generalized_advantage_estimate,
)

from vla_rl.functional.advantages import generalized_advantages
from vla_rl.functional.policy_losses import clipped_surrogate


@pytest.mark.parametrize(
    "estimate", [generalized_advantage_estimate, vec_generalized_advantage_estimate]
)
def test_generalized_advantages(estimate):
    torch.manual_seed(0)
    reward, value, next_value = torch.randn(3, 6, 12)
    terminated, truncated = torch.rand(2, 6, 12) < 0.15
    truncated &= ~terminated
    expected, _ = estimate(
        0.9,
        0.8,
        value[..., None],
        next_value[..., None],
        reward[..., None],
        (terminated | truncated)[..., None],
        terminated[..., None],
    )
    actual = generalized_advantages(
        reward,
        torch.full((6, 12), 0.9),
        value,
        next_value,
        terminated=terminated,
        truncated=truncated,
        valid=torch.ones(6, 12, dtype=torch.bool),
        lambda_=0.8,
    )
    torch.testing.assert_close(actual, expected[..., 0], rtol=1e-5, atol=1e-5)  # order of sums


def test_clipped_surrogate_matches_torchrl():
    """Categorical actions of one token: the same loss, clip fraction and gradient."""
    torch.manual_seed(1)
    logits = torch.randn(32, 5, requires_grad=True)
    action = torch.randint(5, (32,))
    old = (logits.detach() + 0.4 * torch.randn(32, 5)).log_softmax(-1)
    old = old.gather(-1, action[:, None])[:, 0]
    advantage = torch.randn(32)

    head = torch.nn.Identity()
    actor = ProbabilisticTensorDictSequential(
        Mod(head, in_keys=["logits"], out_keys=["scores"]),
        ProbabilisticTensorDictModule(
            in_keys={"logits": "scores"},
            out_keys=["action"],
            distribution_class=torch.distributions.Categorical,
            return_log_prob=True,
            log_prob_key="action_log_prob",
        ),
    )
    loss_module = ClipPPOLoss(
        actor, None, clip_epsilon=0.2, entropy_bonus=False, normalize_advantage=False
    )
    loss_module.set_keys(sample_log_prob="action_log_prob")
    data = TensorDict(
        {
            "logits": logits,
            "action": action,
            "action_log_prob": old,
            "advantage": advantage[:, None],
        },
        [32],
    )
    expected = loss_module(data)
    (expected_gradient,) = torch.autograd.grad(expected["loss_objective"], logits)

    new = logits.log_softmax(-1).gather(-1, action[:, None])
    # TorchRL clips log-ratios to log1p(-eps), log1p(eps): the same interval.
    loss, diagnostics = clipped_surrogate(
        new[:, None], old[:, None, None], advantage, torch.ones(32, 1, dtype=torch.bool)
    )
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(loss, expected["loss_objective"])
    torch.testing.assert_close(gradient, expected_gradient)
    torch.testing.assert_close(diagnostics["clip_fraction"], expected["clip_fraction"])
