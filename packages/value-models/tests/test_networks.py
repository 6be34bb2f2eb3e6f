import numpy as np
import torch
import torch.nn.functional as F

from value_models.networks import (
    InstructionEmbedding,
    PatchTrunk,
    ProgressHead,
    StateEmbedding,
    hash_words,
)


def _reference_trunk(
    trunk: PatchTrunk, features: torch.Tensor, instruction: torch.Tensor
) -> torch.Tensor:
    """One frame and one patch at a time."""
    out = []
    for frames, words in zip(features, instruction, strict=True):
        gain, offset = trunk.film(words).chunk(2)
        for patches in frames:
            squeezed = [
                trunk.squeeze(F.layer_norm(patch, patch.shape)) * (1.0 + gain) + offset
                for patch in patches
            ]
            out.append(trunk.project(torch.cat([*squeezed, words])))
    return torch.stack(out).reshape(*features.shape[:2], -1)


def test_trunk_matches_a_loop():
    trunk = PatchTrunk(num_patches=6, feature_dim=10, hidden_dim=8, patch_dim=3).eval()
    features, instruction = torch.randn(2, 4, 6, 10), torch.randn(2, 8)
    actual = trunk(features, instruction)
    torch.testing.assert_close(
        actual, _reference_trunk(trunk, features, instruction), rtol=1e-4, atol=1e-5
    )


def test_trunk_sees_where_and_what_it_is_told():
    trunk = PatchTrunk(num_patches=6, feature_dim=10, hidden_dim=8).eval()
    features, instruction = torch.randn(1, 1, 6, 10), torch.randn(1, 8)
    base = trunk(features, instruction)
    assert not torch.allclose(base, trunk(features.flip(2), instruction), atol=1e-3)
    assert not torch.allclose(base, trunk(features, -instruction), atol=1e-3)


def test_states_are_normalised_by_what_was_fitted():
    states = np.random.default_rng(0).normal([3.0, -1.0, 0.2], [0.1, 2.0, 0.0], (50, 3))
    embed = StateEmbedding(3, 8)
    assert not embed.is_fitted
    embed.fit(torch.from_numpy(states))
    scale = np.where(states.std(0) > 1e-6, states.std(0), 1.0)
    normal = torch.from_numpy((states - states.mean(0)) / scale).float()
    torch.testing.assert_close(embed(torch.from_numpy(states).float()), embed.layers(normal))
    # A wild number is worth no more than one at the limit.
    wild = torch.tensor([[1e6, -1.0, 0.2]])
    edge = torch.tensor([[states.mean(0)[0] + 5 * states.std(0)[0], -1.0, 0.2]]).float()
    torch.testing.assert_close(embed(wild), embed(edge), atol=1e-4, rtol=1e-4)
    again = StateEmbedding(3, 8)
    again.load_state_dict(embed.state_dict())
    assert again.is_fitted
    torch.testing.assert_close(again(wild), embed(wild))


def test_hash_is_crc32_of_words_and_pairs():
    assert hash_words("123456789", 2**32) == [0xCBF43926]  # the check value of CRC-32
    pick, up, pick_up = hash_words("Pick UP!", 2**32)
    assert [pick, up] == [*hash_words("pick", 2**32), *hash_words("up", 2**32)]
    assert pick_up not in (pick, up)


def test_embedding_is_the_mean_of_word_rows():
    embed = InstructionEmbedding(5, num_buckets=50)
    rows = [embed.table.weight[hash_words(text, 50)].mean(0) for text in ("stack it", "push it")]
    actual = embed(["push it", "stack it", "push it", "?!"])
    expected = torch.stack([rows[1], rows[0], rows[1], torch.zeros(5)])
    torch.testing.assert_close(actual, expected)


def test_word_order_matters():
    embed = InstructionEmbedding(5)
    red, blue = embed(["put red on blue", "put blue on red"])
    assert not torch.allclose(red, blue)


def test_head_is_norm_linear_gelu_linear():
    head, x = ProgressHead(8, 201), torch.randn(3, 8)
    hidden = F.gelu(F.layer_norm(x, (8,)) @ head[1].weight.T + head[1].bias)
    torch.testing.assert_close(head(x), hidden @ head[3].weight.T + head[3].bias)


def test_head_of_two_hidden_layers():
    head, x = ProgressHead(8, 5, num_layers=2), torch.randn(3, 8)
    hidden = F.layer_norm(x, (8,))
    for layer in (head[1], head[3]):
        hidden = F.gelu(hidden @ layer.weight.T + layer.bias)
    torch.testing.assert_close(head(x), hidden @ head[5].weight.T + head[5].bias)
