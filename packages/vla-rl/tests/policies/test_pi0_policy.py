import pytest
import torch
from transformers import PI0Config, PI0ForConditionalGeneration

from vla_rl.functional.flow import flow_sde_step
from vla_rl.policies.pi0_policy import PI0Policy
from vla_rl.testing import check_policy, make_observation

IMAGE_TOKEN = 40


def _model():
    torch.manual_seed(0)
    text = {
        "model_type": "gemma",
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "intermediate_size": 32,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "vocab_size": 48,
    }
    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "patch_size": 8,
        "image_size": 16,
        "vision_use_head": False,
    }
    config = PI0Config(
        vlm_config={
            "model_type": "paligemma",
            "text_config": text,
            "vision_config": vision,
            "projection_dim": 16,
            "image_token_id": IMAGE_TOKEN,
        },
        dit_config={**text, "intermediate_size": 24},
        chunk_size=3,
        max_state_dim=6,
        max_action_dim=5,
    )
    return PI0ForConditionalGeneration(config).eval()


def _tokenize(tasks):
    """Words by their length, padded with a token that is not attended."""
    ids = torch.zeros(len(tasks), 8, dtype=torch.long)
    for row, task in enumerate(tasks):
        words = [len(word) for word in task.split()][:8]
        ids[row, : len(words)] = torch.tensor(words)
    return ids, (ids > 0).long()


def _policy(**settings):
    statistics = {
        "action_mean": [0.1, 0.2],
        "action_std": [0.5, 2.0],
        "state_mean": [0.0, 0.0],
        "state_std": [1.0, 1.0],
    }
    cameras = {"cameras": ["front", "wrist"]}
    return PI0Policy(_model(), _tokenize, **(cameras | statistics | settings)).eval()


def _obs(n=3, **settings):
    return make_observation(n, cameras=("front", "wrist"), **settings)


def test_contract():
    check_policy(_policy(), _obs())


def test_greedy_actions_are_those_of_the_model_itself_from_zero_noise():
    policy = _policy(num_steps=5)
    inputs = policy.read(_obs())
    present = torch.ones(3, 2, dtype=torch.bool)
    expected = policy.model.sample_actions(
        state=inputs["state"],
        input_ids=inputs["input_ids"],
        pixel_values=inputs["pixel_values"],
        noise=torch.zeros(3, 3, 5),
        attention_mask=inputs["attention_mask"],
        pixel_attention_mask=present,
        num_steps=5,
    )
    actual = policy.act(_obs(), deterministic=True).actions
    mean, std = torch.tensor([0.1, 0.2]), torch.tensor([0.5, 2.0])
    torch.testing.assert_close(actual, mean + std * expected[..., :2], atol=1e-5, rtol=1e-5)


def test_the_cached_prefix_gives_what_encoding_it_at_every_step_would():
    policy = _policy()
    decision = policy.act(_obs(), generator=torch.Generator().manual_seed(0))
    inputs, walk = decision.replay, decision.replay["walk"]
    total = torch.zeros(3, 3, 2)
    with torch.no_grad():
        for i, t in enumerate([1.0, 0.75, 0.5, 0.25]):
            velocity = policy.model(
                state=inputs["state"],
                noise=walk[:, i],
                timestep=torch.full((3,), t),
                input_ids=inputs["input_ids"],
                pixel_values=inputs["pixel_values"],
                pixel_attention_mask=torch.ones(3, 2, dtype=torch.bool),
                attention_mask=inputs["attention_mask"],
            ).logits
            mean, std = flow_sde_step(walk[:, i], velocity, t=t, dt=0.25, noise_level=0.5)
            normal = torch.distributions.Normal(mean, std)
            total += normal.log_prob(walk[:, i + 1])[..., :2]
    torch.testing.assert_close(decision.log_prob, total, atol=1e-4, rtol=1e-4)


def test_gradients_reach_the_vision_language_model_but_not_from_the_critic():
    policy = _policy()
    replay = policy.act(_obs(), generator=torch.Generator().manual_seed(0)).replay
    vision = policy.model.model.vlm.get_image_features.__self__
    first = next(vision.parameters())
    output = policy.evaluate(replay)
    (reached,) = torch.autograd.grad(output.log_prob.sum(), first, retain_graph=True)
    assert float(reached.abs().sum()) > 0.0
    (nothing,) = torch.autograd.grad(output.value.sum(), first, allow_unused=True)
    assert nothing is None


def test_what_stands_in_padding_reaches_neither_loss_nor_gradients():
    policy = _policy()
    dims, pad = policy.action_dim, torch.tensor([[False, True, True], [False, False, True]])
    action, losses = torch.rand(2, 3, dims), []
    for padding in (0.4, float("nan")):
        spoiled = action.masked_fill(pad[..., None], padding)
        torch.manual_seed(0)
        losses.append(policy.imitation_loss(_obs(2) | {"action": spoiled, "action_is_pad": pad}))
    assert torch.equal(*losses)
    losses[-1].mean().backward()
    gradients = [p.grad for p in policy.parameters() if p.grad is not None]
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)
    assert any(bool((gradient != 0.0).any()) for gradient in gradients)


def test_imitation_loss_is_the_models_own():
    """For one sample, with the noise and the time that both draw from the same stream."""
    policy = _policy(action_mean=[0.0] * 5, action_std=[1.0] * 5)
    obs, action = _obs(1), torch.rand(1, 3, 5)
    batch = {**obs, "action": action, "action_is_pad": torch.zeros(1, 3, dtype=torch.bool)}
    torch.manual_seed(3)
    actual = policy.imitation_loss(batch, reduction="mean")
    torch.manual_seed(3)
    noise = torch.randn(1, 3, 5)
    t = torch.distributions.Beta(1.5, 1.0).sample((1,)) * 0.999 + 0.001
    inputs = policy.read(obs)
    expected = policy.model(
        **inputs,
        pixel_attention_mask=torch.ones(1, 2, dtype=torch.bool),
        actions=action,
        noise=noise,
        timestep=t,
    ).loss
    torch.testing.assert_close(actual, expected)


def test_the_padding_of_an_instruction_does_not_matter():
    policy = _policy()

    def longer(tasks):
        ids, attention = _tokenize(tasks)
        more = torch.full((len(tasks), 3), 7)
        return torch.cat([ids, more], 1), torch.cat([attention, torch.zeros_like(more)], 1)

    expected = policy.act(_obs(), deterministic=True).actions
    policy.tokenize = longer
    actual = policy.act(_obs(), deterministic=True).actions
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def test_images_of_another_shape_are_scaled_and_padded():
    policy = _policy()
    obs = _obs(image_size=16)
    wide = obs["observation.images.front"][:, 4:12]
    seen = policy.read(obs | {"observation.images.front": wide})["pixel_values"][:, 0]
    torch.testing.assert_close(
        seen[:, :, 4:12], torch.as_tensor(wide).permute(0, 3, 1, 2) / 127.5 - 1.0
    )
    assert bool((seen[:, :, :4] == -1.0).all())
    assert bool((seen[:, :, 12:] == -1.0).all())


def test_files(tmp_path):
    policy = _policy(num_steps=5)
    policy.save_pretrained(tmp_path)
    again = PI0Policy.from_pretrained(tmp_path, _tokenize).eval()
    found, expected = again.identity(), policy.identity()
    assert {**found, "model": None} == {**expected, "model": None}
    left, right = (p.act(_obs(), deterministic=True).actions for p in (policy, again))
    assert torch.equal(left, right)
    assert PI0Policy.from_pretrained(tmp_path, _tokenize, num_steps=3).walk.num_steps == 3


@pytest.mark.parametrize("name", ["action_mean", "action_std", "state_mean", "state_std"])
def test_other_statistics_make_another_policy(name):
    identity = _policy(**{name: [0.3, 0.7]}).identity()
    differing = {key for key, value in _policy().identity().items() if identity[key] != value}
    assert differing == {name}


def test_bad_settings():
    with pytest.raises(ValueError, match="at most 5 actions and 6 states, got 7 and 2"):
        _policy(action_mean=[0.0] * 7, action_std=[1.0] * 7)
    with pytest.raises(ValueError, match=r"`noise_level` > 0, got 0"):
        _policy(noise_level=0.0)
    with pytest.raises(ValueError, match=r"`observation.state` of shape \(3, 2\)"):
        _policy().act(_obs(state_dim=3))
