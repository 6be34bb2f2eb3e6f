import torch

from vla_rl.policies.vision import random_shift


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
