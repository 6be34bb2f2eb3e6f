"""From recorded frames to a vision model's pixel values; the only place that resizes."""

from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F


class Preprocess(NamedTuple):
    """How frames become pixel values; read from a checkpoint's preprocessor file."""

    image_size: int
    """Side of the square that a whole frame is resized to. Frames are not cropped: on a robot,
    what matters may be at the border."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """Per RGB channel, of values in [0, 1]."""
    mode: str = "bilinear"

    def __call__(self, frames: UInt8[Tensor, "n h w 3"]) -> Float[Tensor, "n 3 size size"]:
        """Resize, scale to [0, 1] and normalise."""
        pixels = rearrange(
            resize_frames(frames, self.image_size, mode=self.mode), "n h w c -> n c h w"
        )
        mean = torch.tensor(self.mean, device=pixels.device)[:, None, None]
        std = torch.tensor(self.std, device=pixels.device)[:, None, None]
        return (pixels.float() / 255.0 - mean) / std


def resize_frames(
    frames: UInt8[Tensor, "n h w 3"], size: int, *, mode: str = "bilinear"
) -> UInt8[Tensor, "n {size} {size} 3"]:
    """Resize whole frames to a square, antialiased, as image libraries resize uint8 images.

    Args:
        frames: RGB.
        size: Side of the square.
        mode: ``"bilinear"``, ``"bicubic"`` or ``"nearest-exact"``.
    """
    if frames.shape[1:3] == (size, size):
        return frames
    pixels = rearrange(frames, "n h w c -> n c h w").float()
    pixels = F.interpolate(pixels, size=(size, size), mode=mode, antialias=mode != "nearest-exact")
    return rearrange(pixels.round().clamp(0.0, 255.0).to(torch.uint8), "n c h w -> n h w c")
