import pytest
import torch
from torch import nn

from value_models.functional import order_accuracy, pairwise_ranking_loss
from value_models.networks import InstructionEmbedding
from value_models.policy_ranking import PolicyRankingModel
from value_models.testing import check_progress_model, make_episodes, make_observation


class TinyPolicy(nn.Module):
    """Image patches, the instruction and action tokens through a transformer to actions."""

    token_dim = 16

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 8, stride=8)
        self.place = nn.Parameter(0.3 * torch.randn(16, 16))
        self.words = InstructionEmbedding(16, num_buckets=64)
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.action_tokens = nn.Parameter(torch.zeros(4, 16))
        self.action_head = nn.Linear(16, 7)

    def observation_tokens(self, obs):
        frames = torch.as_tensor(obs["observation.images.hand"]).movedim(-1, 1) / 255.0
        seen = self.patches(frames).flatten(2).mT + self.place
        return torch.cat([self.words(obs["task"]).unsqueeze(1), seen], dim=1)

    def hidden_states(self, tokens):
        return self.body(tokens)

    def forward(self, obs):
        tokens = self.observation_tokens(obs)
        asked = self.action_tokens.expand(len(tokens), -1, -1)
        return self.action_head(self.hidden_states(torch.cat([tokens, asked], 1))[:, -4:])


def _policy():
    torch.manual_seed(0)
    return TinyPolicy()


def _windows(episodes):
    rows = [torch.linspace(0, len(e["progress"]) - 1, 8).long() for e in episodes]
    frames = [
        torch.from_numpy(e["observation.images.hand"])[r]
        for e, r in zip(episodes, rows, strict=True)
    ]
    return {
        "observation.images.hand": torch.stack(frames),
        "task": [e["task"] for e in episodes],
        "frame_index": torch.stack(rows),
    }


def test_keeps_the_contract():
    check_progress_model(PolicyRankingModel(_policy()), make_observation(3))


def test_learns_the_order_and_leaves_the_policy_alone():
    policy = _policy()
    before = [p.clone() for p in policy.parameters()]
    model = PolicyRankingModel(policy, num_value_tokens=2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    batch = _windows(make_episodes(8))
    for _ in range(60):
        optimizer.zero_grad()
        model.loss(batch).backward()
        optimizer.step()
    scores = [order_accuracy(curve) for curve in model.compute_progress(batch)]
    assert torch.stack(scores).mean() > 0.95
    for ours, theirs in zip(before, policy.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_starts_from_the_weights_of_the_policy():
    policy = _policy()
    obs = make_observation(2)
    model = PolicyRankingModel(policy)
    tokens = policy.observation_tokens(obs)
    asked = model.value_tokens.expand(2, -1, -1)
    hidden = policy.hidden_states(torch.cat([tokens, asked], 1))[:, -1]
    torch.testing.assert_close(model(obs).value[:, 0], model.head(hidden)[:, 0])


def test_loss_is_the_ranking_loss_and_a_small_penalty():
    model, batch = PolicyRankingModel(_policy()), _windows(make_episodes(3))
    values = model.values(batch)
    mask = torch.ones_like(batch["frame_index"], dtype=torch.bool)
    ranking = pairwise_ranking_loss(values, batch["frame_index"], mask).mean()
    torch.testing.assert_close(model.loss(batch, centring=0.0), ranking)
    torch.testing.assert_close(
        model.loss(batch, centring=0.5), ranking + 0.5 * values.square().mean()
    )


def test_a_frozen_trunk_is_not_trained():
    model = PolicyRankingModel(_policy(), freeze=True)
    model.loss(_windows(make_episodes(2))).backward()
    assert all(p.grad is None for p in model.trunk.parameters())
    assert model.value_tokens.grad.abs().sum() > 0


def test_what_is_no_trunk_is_refused():
    with pytest.raises(TypeError, match="hidden_states, got Linear"):
        PolicyRankingModel(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="`num_value_tokens` of at least 1, got 0"):
        PolicyRankingModel(_policy(), num_value_tokens=0)
    model = PolicyRankingModel(_policy())
    with pytest.raises(ValueError, match=r"equal size, got \[\(1, 2\), \(1, 3\)\]"):
        model.compute_progress(
            {
                "observation.images.hand": torch.zeros(1, 2, 32, 32, 3, dtype=torch.uint8),
                "observation.state": torch.zeros(1, 3, 4),
                "task": ["a"],
            }
        )
