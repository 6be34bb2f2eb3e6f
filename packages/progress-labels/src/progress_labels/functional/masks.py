"""Which patches the context encoder sees and which it must predict (V-JEPA multi-block masks)."""

import torch
from jaxtyping import Int
from torch import Tensor


def multi_block_mask(
    grid: int,
    *,
    num_blocks: int,
    scale: float,
    generator: torch.Generator,
    aspect: tuple[float, float] = (0.75, 1.5),
    min_context: int = 4,
) -> tuple[Int[Tensor, " visible"], Int[Tensor, " hidden"]]:
    """Draw the union of random rectangles as the hidden part of a square grid of patches.

    Args:
        grid: Patches along each side.
        num_blocks: Rectangles in the union.
        scale: Area of one rectangle as a share of the grid, in (0, 1).
        generator: Source of randomness.
        aspect: Range of height / width.
        min_context: Least number of visible patches; blocks that would leave fewer are not taken.

    Returns:
        Sorted row-major indices of visible and of hidden patches; together they are the grid.

    Raises:
        ValueError: If ``scale`` is outside (0, 1).

    Source: V-JEPA, arXiv 2404.08471, section 3.2; here one mask serves a whole batch.
    """
    if not 0.0 < scale < 1.0:
        raise ValueError(f"Expected `scale` in (0, 1), got {scale}.")
    hidden = torch.zeros(grid, grid, dtype=torch.bool)
    for _ in range(num_blocks):
        draw = torch.rand(3, generator=generator).tolist()
        ratio = aspect[0] * (aspect[1] / aspect[0]) ** draw[0]
        height = min(grid, max(1, round(grid * (scale * ratio) ** 0.5)))
        width = min(grid, max(1, round(grid * (scale / ratio) ** 0.5)))
        top = int(draw[1] * (grid - height + 1))
        left = int(draw[2] * (grid - width + 1))
        union = hidden.clone()
        union[top : top + height, left : left + width] = True
        if grid * grid - int(union.sum()) >= min_context:
            hidden = union
    flat = hidden.flatten()
    return torch.nonzero(~flat).flatten(), torch.nonzero(flat).flatten()
