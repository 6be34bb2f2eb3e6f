import pytest
import torch

from vla_rl.observations import select_rows
from vla_rl.policies.token_policy import TokenPolicy
from vla_rl.policies.vision import ImageEncoder, random_shift


def test_random_shift_moves_whole_images_and_repeats_borders():
    torch.manual_seed(0)
    row, column = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    image = torch.stack([row, column, torch.zeros_like(row)], -1).to(torch.uint8)
    shifted = random_shift(image.repeat(200, 1, 1, 1), max_pixels=2).long()
    offsets = set()
    for one in shifted:
        dy, dx = int(one[4, 4, 0]) - 4, int(one[4, 4, 1]) - 4
        offsets.add((dy, dx))
        assert torch.equal(one[..., 0], (row + dy).clamp(0, 7))
        assert torch.equal(one[..., 1], (column + dx).clamp(0, 7))
    assert offsets == {(dy, dx) for dy in range(-2, 3) for dx in range(-2, 3)}


@pytest.mark.parametrize("normalize", [False, True])
def test_instructions_change_nothing_at_first_where_normalized(normalize):
    torch.manual_seed(0)
    encoder = ImageEncoder(
        channels=(4, 6, 8), image_size=16, text_dim=5, out_dim=8, normalize=normalize
    )
    image = torch.randint(0, 256, (3, 16, 16, 3), dtype=torch.uint8)
    first, second = (encoder(image, torch.randn(3, 5)) for _ in range(2))
    assert torch.allclose(first, second) is normalize


def _things_on_backgrounds(num):
    """A light spot on one of many backgrounds; the action says in which column it is."""
    coarse = torch.randint(0, 200, (16, 4, 4, 3), dtype=torch.uint8)
    backgrounds = coarse.repeat_interleave(8, 1).repeat_interleave(8, 2)
    image = backgrounds[torch.randint(16, (num,))]
    rows, columns = torch.randint(0, 30, (2, num)).tolist()
    for one, row, column in zip(image, rows, columns, strict=True):
        one[row : row + 2, column : column + 2] = 255
    column = torch.tensor(columns)
    return {
        "observation.images.front": image,
        "observation.state": torch.zeros(num, 2),
        "task": ["where is it"] * num,
        "action": (column / 15 - 1)[:, None, None].expand(num, 1, 2).contiguous(),
        "action_is_pad": torch.zeros(num, 1, dtype=torch.bool),
    }


def test_normalized_policies_soon_find_small_things_on_many_backgrounds():
    """In as many steps without norms no more than the actions' distribution is learned."""
    error = {}
    for normalize in (False, True):
        torch.manual_seed(0)
        samples = _things_on_backgrounds(1280)
        policy = TokenPolicy(
            cameras=["front"], state_dim=2, action_dim=2, chunk=1, image_size=32,
            action_low=-1.0, action_high=1.0, normalize=normalize,
        )  # fmt: skip
        optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-3)
        for _ in range(200):
            rows = torch.randint(1024, (64,))
            optimizer.zero_grad()
            policy.imitation_loss(select_rows(samples, rows), reduction="mean").backward()
            optimizer.step()
        policy.eval()
        unseen = select_rows(samples, torch.arange(1024, 1280))
        actions = policy.act(unseen, deterministic=True).actions
        error[normalize] = float((actions - unseen["action"]).abs().mean())
    assert error[True] < 0.2 < 0.5 < error[False]
