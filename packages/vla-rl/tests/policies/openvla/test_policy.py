import copy

import numpy as np
import pytest
import torch

from vla_rl.policies.discretized_policy import DiscretizedPolicy
from vla_rl.policies.openvla.action_tokens import Bounds, encode_action_tokens
from vla_rl.policies.openvla.regressor import OpenVLARegressor
from vla_rl.testing import check_policy, make_observation

KINDS = [
    {"decoding": "autoregressive"},
    {"decoding": "autoregressive", "chunk": 2, "log_prob_over": "vocabulary"},
    {"decoding": "parallel", "chunk": 3},
    {"decoding": "parallel", "chunk": 2, "stop_token": False, "temperature": 1.6},
]


def _obs(n=2, **settings):
    return make_observation(n, **({"image_size": 28} | settings))


def _all_log_probs(policy, replay, count=256, first=31744):
    """Log-probabilities of each action token at each position of one decision."""
    every = {key: value.repeat_interleave(count, 0) for key, value in replay.items()}
    candidates = torch.arange(first, first + count)[:, None, None]
    every["action_tokens"] = candidates.expand_as(every["action_tokens"])
    return policy.evaluate(every).log_prob.movedim(0, -1)


@pytest.mark.parametrize("settings", KINDS)
def test_contract(make_policy, settings):
    check_policy(make_policy(**settings), _obs(3))


def test_contract_with_two_cameras_a_state_and_a_crop(make_policy, norm_stats):
    proprio = Bounds.from_norm_stats(norm_stats, "toy", of="proprio")
    policy = make_policy(cameras=["front", "wrist"], proprio_bounds=proprio, crop_area=0.9)
    check_policy(policy, _obs(2, cameras=("front", "wrist"), image_size=40, state_dim=8))


def test_replays_of_different_prompts_can_be_joined(make_policy):
    policy = make_policy(decoding="parallel", chunk=2)
    decisions = [policy.act(_obs(1) | {"task": [task]}) for task in ("reach", "reach red square")]
    joined = {k: torch.cat([d.replay[k] for d in decisions]) for k in decisions[0].replay}
    expected = torch.cat([d.log_prob for d in decisions])
    torch.testing.assert_close(
        policy.evaluate(joined).log_prob.detach(), expected, atol=1e-4, rtol=0.0
    )


def test_probabilities_of_action_tokens_sum_to_one_and_samples_follow_them(make_policy):
    policy = make_policy(decoding="parallel", temperature=3.0)
    obs = {
        key: value * 600 if key == "task" else np.repeat(value, 600, 0)
        for key, value in _obs(1).items()
    }
    replay = policy.act(obs, generator=torch.Generator().manual_seed(0)).replay
    one = {key: value[:1] for key, value in replay.items()}
    with torch.no_grad():
        probs = _all_log_probs(policy, one)[0].exp()
    torch.testing.assert_close(probs.sum(-1), torch.ones(7))
    # The lower half of the tokens: of 600 samples, four standard deviations are at most 0.08.
    share = (replay["action_tokens"][:, 0] < 31872).float().mean(0)
    torch.testing.assert_close(share, probs[:, :128].sum(-1), atol=0.08, rtol=0.0)


def test_entropy_is_that_of_the_distribution(make_policy):
    policy = make_policy(decoding="parallel")
    replay = policy.act(_obs(1)).replay
    with torch.no_grad():
        expected = torch.distributions.Categorical(logits=_all_log_probs(policy, replay)).entropy()
        torch.testing.assert_close(policy.evaluate(replay).entropy[0], expected)


@pytest.mark.parametrize("settings", KINDS[:3])
def test_temperature_divides_logits(make_policy, settings):
    cold = make_policy(**settings)
    replay = cold.act(_obs(1)).replay
    warm = make_policy(**settings, temperature=2.0)
    position = (0, 0)  # the first token: no earlier one differs between the calls
    with torch.no_grad():
        a, b = (_all_log_probs(p, replay, count=4)[position] for p in (warm, cold))
    torch.testing.assert_close((a - a[0]) * 2.0, b - b[0])


def test_the_whole_vocabulary_is_less_likely_to_act(make_policy):
    policy = make_policy(decoding="parallel", log_prob_over="vocabulary")
    bins = make_policy(decoding="parallel")
    replay = policy.act(_obs(2), deterministic=True).replay
    difference = bins.evaluate(replay).log_prob - policy.evaluate(replay).log_prob
    assert (difference > 0.0).all()


@pytest.mark.parametrize("decoding", ["autoregressive", "parallel"])
def test_imitation_loss_is_cross_entropy_of_the_demonstrated_tokens(
    make_policy, norm_stats, decoding
):
    policy = make_policy(decoding=decoding, chunk=2, temperature=1.6)
    pad = torch.tensor([[False, False], [False, True]])
    action = torch.rand(2, 2, 7) - 0.5
    batch = _obs(2) | {"action": action, "action_is_pad": pad}
    loss = policy.imitation_loss(batch)
    bounds = Bounds.from_norm_stats(norm_stats, "toy")
    replay = policy.act(batch).replay
    replay["action_tokens"] = encode_action_tokens(bounds.normalize(action), vocab_size=32000)
    policy.temperature = 1.0
    token_loss = -policy.evaluate(replay).log_prob
    expected = torch.stack([token_loss[0].mean(), token_loss[1, 0].mean()])
    torch.testing.assert_close(loss, expected)
    mean = policy.imitation_loss(batch, reduction="mean")
    torch.testing.assert_close(mean, (2 * loss[0] + loss[1]) / 3)


def test_demonstrations_beyond_the_quantiles_are_clipped_as_published(make_policy, norm_stats):
    policy = make_policy(decoding="parallel")
    high = Bounds.from_norm_stats(norm_stats, "toy").unnormalize(torch.ones(1, 1, 7))
    pad = torch.zeros(1, 1, dtype=torch.bool)
    losses = [
        policy.imitation_loss(_obs(1) | {"action": action, "action_is_pad": pad})
        for action in (high, 100.0 * high)
    ]
    assert torch.equal(*losses)
    with pytest.raises(ValueError, match=r"finite numbers in `action`, got .* in row 0"):
        policy.imitation_loss(_obs(1) | {"action": high * torch.nan, "action_is_pad": pad})


def test_a_decision_with_tokens_of_no_action_is_named(make_policy):
    policy = make_policy(decoding="parallel")
    replay = policy.act(_obs(1)).replay
    replay["action_tokens"][0, 0, 3] = 5
    with pytest.raises(ValueError, match=r"`action_tokens` from 31744 to 31999, .* got 5\."):
        policy.evaluate(replay)


@pytest.mark.parametrize("decoding", ["autoregressive", "parallel"])
def test_the_critic_sends_no_gradient_into_the_policy(make_policy, decoding):
    policy = make_policy(decoding=decoding)
    policy.evaluate(policy.act(_obs(2)).replay).value.sum().backward()
    reached = {name for name, p in policy.named_parameters() if p.grad is not None}
    assert reached == {n for n, _ in policy.named_parameters() if n.startswith("value_head.")}


@pytest.mark.parametrize("decoding", ["autoregressive", "parallel"])
def test_recomputed_activations_give_the_same_gradients_with_fewer_stored(make_policy, decoding):
    policy = make_policy(decoding=decoding)
    replay = policy.act(_obs(2), generator=torch.Generator().manual_seed(0)).replay
    gradients, stored = [], []
    for _ in range(2):
        kept = []

        def keep(tensor, kept=kept):
            kept.append(tensor.numel())
            return tensor

        policy.zero_grad()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            score = policy.evaluate(replay)
        score.log_prob.sum().backward()
        gradients.append({n: p.grad.clone() for n, p in policy.network.named_parameters()})
        stored.append(len(kept))
        policy.enable_gradient_checkpointing()
    torch.testing.assert_close(gradients[1], gradients[0])
    assert stored[1] < stored[0] / 2
    check_policy(copy.deepcopy(policy), _obs(2))


def test_image_and_instruction_matter(make_policy):
    policy = make_policy(decoding="parallel")
    obs = _obs(2)
    reference = policy.act(obs, deterministic=True).log_prob
    other = _obs(2, seed=1) | {"task": ["reach red", "reach blue"]}
    for key in ("observation.images.front", "task"):
        changed = obs | {key: other[key]}
        assert not torch.equal(policy.act(changed, deterministic=True).log_prob, reference), key


def test_a_regressor_becomes_a_policy_with_probabilities(network, tokenizer, norm_stats):
    regressor = OpenVLARegressor(
        network,
        tokenizer=tokenizer,
        action_bounds=Bounds.from_norm_stats(norm_stats, "toy"),
        chunk=2,
    )
    policy = DiscretizedPolicy(regressor, action_low=-3.0, action_high=3.0, action_dim=7)
    check_policy(policy, _obs(2))
    pad = torch.tensor([[False, False], [False, True]])
    batch = _obs(2) | {"action": torch.rand(2, 2, 7), "action_is_pad": pad}
    normal = regressor.action_bounds.normalize(batch["action"])
    error = (regressor._regress(regressor.read(batch)) - normal).abs()
    torch.testing.assert_close(
        regressor.imitation_loss(batch), torch.stack([error[0].mean(), error[1, 0].mean()])
    )
    torch.testing.assert_close(
        regressor.imitation_loss(batch, reduction="mean"), error[~pad].mean()
    )
    batch["action"][pad] = float("nan")
    regressor.imitation_loss(batch, reduction="mean").backward()
    gradients = [p.grad for p in regressor.parameters() if p.grad is not None]
    assert gradients
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"observation.images.front": np.zeros((2, 8, 8, 4), np.uint8)}, r"\(2, h, w, 3\), got"),
        ({"observation.images.front": np.zeros((2, 8, 8, 3), np.float32)}, "got torch.float32"),
        ({"task": ["one"]}, r"\(1, h, w, 3\)"),
    ],
)
def test_observations_that_do_not_fit(make_policy, change, message):
    with pytest.raises(ValueError, match=message):
        make_policy().act(_obs(2) | change)


def test_a_state_of_another_width(make_policy, norm_stats):
    policy = make_policy(proprio_bounds=Bounds.from_norm_stats(norm_stats, "toy", of="proprio"))
    with pytest.raises(ValueError, match=r"shape \(2, 8\), got \(2, 2\)"):
        policy.act(_obs(2))


def test_actions_of_another_chunk_length(make_policy):
    batch = _obs(2) | {"action": torch.zeros(2, 3, 7), "action_is_pad": torch.zeros(2, 3).bool()}
    with pytest.raises(ValueError, match=r"\(n, 1, 7\), got \(2, 3, 7\)"):
        make_policy().imitation_loss(batch)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"decoding": "diffusion"}, "`decoding` out of .* got 'diffusion'"),
        ({"log_prob_over": "all"}, "`log_prob_over` out of .* got 'all'"),
        ({"temperature": 0.0}, "`temperature` > 0, got 0.0"),
        ({"chunk": 0}, "`chunk` >= 1"),
        ({"cameras": "front"}, "list of `cameras`, got 1 and 'front'"),
    ],
)
def test_bad_settings(make_policy, settings, message):
    with pytest.raises(ValueError, match=message):
        make_policy(**settings)
