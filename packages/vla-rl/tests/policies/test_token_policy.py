import json

import numpy as np
import pytest
import torch

from vla_rl.errors import CheckpointError
from vla_rl.functional.action_bins import gaussian_bin_labels
from vla_rl.policies.token_policy import TokenPolicy
from vla_rl.testing import check_policy, make_observation


def _policy(**settings):
    defaults = {"cameras": ["front"], "state_dim": 2, "action_dim": 2, "image_size": 16, "chunk": 3}
    return TokenPolicy(**(defaults | settings))


def _batch(n=4, k=3, a=2):
    pad = torch.zeros(n, k, dtype=torch.bool)
    pad[1, 1:] = True
    return {**make_observation(n), "action": torch.rand(n, k, a) - 0.5, "action_is_pad": pad}


@pytest.mark.parametrize("normalize", [False, True])
def test_contract(normalize):
    check_policy(_policy(normalize=normalize), make_observation(3))


def test_contract_with_two_cameras_and_tensors():
    obs = make_observation(3, cameras=("front", "wrist"), image_size=24, state_dim=5)
    obs = {k: torch.as_tensor(v) if isinstance(v, np.ndarray) else v for k, v in obs.items()}
    check_policy(_policy(cameras=["front", "wrist"], image_size=24, state_dim=5), obs)


def test_samples_follow_the_distribution():
    policy = _policy(chunk=1, num_bins=3, temperature=0.5)
    one = make_observation(1)
    obs = {
        key: value * 4000 if key == "task" else np.repeat(value, 4000, 0)
        for key, value in one.items()
    }
    tokens = policy.act(obs, generator=torch.Generator().manual_seed(0)).replay["action_tokens"]
    shown = policy.act(one).replay
    for token in range(3):
        shown["action_tokens"] = torch.full((1, 1, 2), token)
        probability = policy.evaluate(shown).log_prob.exp()[0]
        frequency = (tokens == token).float().mean(0)
        torch.testing.assert_close(frequency, probability.detach(), atol=0.03, rtol=0.0)  # 4 sd


def test_temperature_divides_logits():
    torch.manual_seed(0)
    warm = _policy(temperature=2.0)
    cold = _policy()
    cold.load_state_dict(warm.state_dict())
    replay = cold.act(make_observation(2)).replay
    every = [
        torch.stack(
            [
                p.evaluate(replay | {"action_tokens": torch.full((2, 3, 2), i)}).log_prob
                for i in range(21)
            ],
            -1,
        )
        for p in (warm, cold)
    ]
    torch.testing.assert_close(every[0], (every[1] / 2.0).log_softmax(-1))


def test_entropy_is_that_of_the_distribution():
    policy = _policy()
    replay = policy.act(make_observation(2)).replay
    log_probs = torch.stack(
        [
            policy.evaluate(replay | {"action_tokens": torch.full((2, 3, 2), i)}).log_prob
            for i in range(21)
        ],
        -1,
    )
    expected = torch.distributions.Categorical(logits=log_probs).entropy()
    torch.testing.assert_close(policy.evaluate(replay).entropy, expected)


def test_imitation_loss_ignores_padding_and_averages_tokens():
    policy = _policy().eval()
    batch = _batch()
    loss = policy.imitation_loss(batch)
    spoiled = batch["action"].clone()
    spoiled[batch["action_is_pad"]] = 0.4
    torch.testing.assert_close(policy.imitation_loss(batch | {"action": spoiled}), loss)
    per_sample = (~batch["action_is_pad"]).sum(-1)
    expected = (loss * per_sample).sum() / per_sample.sum()
    torch.testing.assert_close(policy.imitation_loss(batch, reduction="mean"), expected)


def test_what_stands_in_padding_does_not_reach_the_gradients():
    policy, batch = _policy(), _batch()
    batch["action"][batch["action_is_pad"]] = float("nan")
    policy.imitation_loss(batch, reduction="mean").backward()
    assert all(p.grad.isfinite().all() for p in policy.parameters() if p.grad is not None)
    assert float(policy.token_queries.grad.abs().sum()) > 0.0


def test_imitation_loss_is_cross_entropy_with_soft_labels():
    policy = _policy(chunk=1).eval()
    batch = _batch(k=1)
    replay = policy.act(batch).replay
    log_probs = torch.stack(
        [
            policy.evaluate(replay | {"action_tokens": torch.full((4, 1, 2), i)}).log_prob
            for i in range(21)
        ],
        -1,
    )
    low, high = torch.full((2,), -0.6), torch.full((2,), 0.6)
    labels = gaussian_bin_labels(batch["action"], low, high, num_bins=21, sigma_bins=1.0)
    expected = -(labels * log_probs).sum(-1).mean((1, 2))
    batch["action_is_pad"][:] = False
    torch.testing.assert_close(policy.imitation_loss(batch), expected)


def test_images_shift_in_training_only():
    policy, batch = _policy(shift_pixels=4), _batch()
    policy.train()
    assert not torch.equal(policy.imitation_loss(batch), policy.imitation_loss(batch))
    policy.eval()
    assert torch.equal(policy.imitation_loss(batch), policy.imitation_loss(batch))


def test_the_critic_sends_no_gradient_into_the_policy():
    policy = _policy()
    policy.evaluate(policy.act(make_observation(2)).replay).value.sum().backward()
    reached = {name for name, p in policy.named_parameters() if p.grad is not None}
    assert reached == {
        name for name, _ in policy.named_parameters() if name.startswith("value_head")
    }


def test_image_state_and_instruction_all_matter():
    policy = _policy()
    obs = make_observation(2)
    reference = policy.act(obs, deterministic=True).log_prob
    other = make_observation(2, seed=1)
    for key in obs:
        changed = obs | {key: obs[key][::-1] if key == "task" else other[key]}
        assert not torch.equal(policy.act(changed, deterministic=True).log_prob, reference), key


def test_save_and_load(tmp_path):
    # Arrays, as statistics come from numpy; they must survive as well as lists do.
    policy = _policy(
        state_mean=np.array([1.0, 2.0], np.float32),
        state_std=np.array([0.5, 0.0]),
        action_low=[-1.0, -0.2],
        action_high=[1.0, 0.2],
    )
    policy.save_pretrained(tmp_path)
    loaded = TokenPolicy.from_pretrained(tmp_path)
    obs = make_observation(2)
    for name in ("actions", "log_prob", "value"):
        expected = getattr(policy.act(obs, deterministic=True), name)
        assert torch.equal(getattr(loaded.act(obs, deterministic=True), name), expected)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    _policy().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "progress_net"}))
    with pytest.raises(CheckpointError, match=r"'vla_rl.token_policy' .* got 'progress_net'"):
        TokenPolicy.from_pretrained(tmp_path)


def test_weights_that_do_not_fit_are_refused(tmp_path):
    _policy().save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"weights at .* do not fit"):
        TokenPolicy.from_pretrained(tmp_path, hidden_dim=64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"observation.state": np.zeros((2, 3), np.float32)}, r"shape \(2, 2\) .* got \(2, 3\)"),
        ({"observation.images.front": np.zeros((2, 8, 8, 3), np.uint8)}, r"\(2, 16, 16, 3\)"),
        ({"observation.images.front": np.zeros((2, 16, 16, 3), np.float32)}, "got torch.float32"),
        ({"task": ["one"]}, r"shape \(1, 2\) for 1 tasks"),
    ],
)
def test_observations_that_do_not_fit(change, message):
    with pytest.raises(ValueError, match=message):
        _policy().act(make_observation(2) | change)


def test_a_missing_camera_is_named():
    obs = make_observation(2)
    del obs["observation.images.front"]
    with pytest.raises(ValueError, match=r"'observation\.images\.front' in the observation"):
        _policy().act(obs)


def test_actions_of_another_chunk_length():
    with pytest.raises(ValueError, match=r"\(n, 3, 2\), got \(4, 5, 2\)"):
        _policy().imitation_loss(_batch(k=5))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": 20}, "multiple of 8, got 20"),
        ({"temperature": 0.0}, "`temperature` > 0, got 0.0"),
        ({"cameras": ["a", "a"]}, r"`cameras` to list distinct names, got \['a', 'a'\]"),
        ({"cameras": "front"}, "got 'front'"),
        ({"channels": [8, 8]}, "three numbers in `channels`, got 2"),
        ({"action_low": [0.0, 0.0, 0.0]}, r"`action_low` to be one finite number or 2"),
        ({"state_mean": [float("nan"), 0.0]}, "`state_mean`"),
        ({"action_low": 0.6}, "`action_low` < `action_high`"),
        ({"num_bins": 1}, "`num_bins` >= 2, got 1"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        _policy(**settings)


def test_a_policy_may_go_without_cameras():
    obs = {"observation.state": np.zeros((2, 2), dtype=np.float32), "task": ["a", "b"]}
    check_policy(_policy(cameras=[]), obs)
