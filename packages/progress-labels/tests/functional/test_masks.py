import pytest
import torch

from progress_labels import multi_block_mask


def test_visible_and_hidden_partition_the_grid():
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        visible, hidden = multi_block_mask(8, num_blocks=6, scale=0.25, generator=generator)
        assert sorted([*visible.tolist(), *hidden.tolist()]) == list(range(64))
        assert len(visible) >= 4
        assert len(hidden) >= 4


def test_one_block_is_a_rectangle_of_about_the_asked_area():
    generator = torch.Generator().manual_seed(1)
    areas = []
    for _ in range(200):
        _, hidden = multi_block_mask(8, num_blocks=1, scale=0.25, generator=generator)
        rows, columns = hidden // 8, hidden % 8
        height, width = (int(x.max() - x.min()) + 1 for x in (rows, columns))
        assert height * width == len(hidden)
        areas.append(len(hidden) / 64)
    assert sum(areas) / len(areas) == pytest.approx(0.25, abs=0.03)


def test_blocks_that_leave_too_little_are_not_taken():
    generator = torch.Generator().manual_seed(0)
    visible, _ = multi_block_mask(4, num_blocks=50, scale=0.5, generator=generator, min_context=6)
    assert len(visible) >= 6


def test_bad_scale_is_named():
    with pytest.raises(ValueError, match=r"`scale` in \(0, 1\), got 1.0"):
        multi_block_mask(8, num_blocks=1, scale=1.0, generator=torch.Generator())
