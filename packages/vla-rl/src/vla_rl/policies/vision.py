"""Image layers: normalisation, a small convolutional encoder, random shifts."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn


class ImageEncoder(nn.Module):
    """From uint8 images and an instruction to one feature vector per image.

    Three halvings keep an 8 x 8 map of a 64-pixel image, which the last layer reads whole: where a
    thing is matters as much as what it is. The instruction scales and shifts the channels of that
    map, so that it can choose between the things in view.

    With ``normalize``, groups of channels have a norm after each convolution (Wu and He, 2018), and
    the instruction changes nothing at first: every instruction would blur the map in its own way.

    Source: Perez et al. (2018), "FiLM: visual reasoning with a general conditioning layer".
    """

    def __init__(
        self,
        *,
        channels: Sequence[int],
        image_size: int,
        text_dim: int,
        out_dim: int,
        normalize: bool,
    ) -> None:
        super().__init__()
        first, second, third = channels
        self.convolutions = nn.Sequential(
            nn.Conv2d(3, first, 4, stride=2, padding=1),
            *_norm(first, normalize),
            nn.ReLU(),
            nn.Conv2d(first, second, 3, stride=2, padding=1),
            *_norm(second, normalize),
            nn.ReLU(),
            nn.Conv2d(second, third, 3, stride=2, padding=1),
            *_norm(third, normalize),
        )
        self.film = nn.Linear(text_dim, 2 * third)
        if normalize:
            nn.init.zeros_(self.film.weight)
            nn.init.zeros_(self.film.bias)
        self.readout = nn.Sequential(
            nn.Linear(third * (image_size // 8) ** 2, out_dim), nn.LayerNorm(out_dim)
        )
        # The images are channels-last already; kernels that match are twice as fast on a CPU.
        self.convolutions.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(
        self, image: UInt8[Tensor, "n h w 3"], text: Float[Tensor, "n words"]
    ) -> Float[Tensor, "n out"]:
        """Encode each image in the light of its instruction."""
        pixels = image.permute(0, 3, 1, 2).to(torch.float32).div_(127.5).sub_(1.0)
        gain, offset = self.film(text)[:, :, None, None].chunk(2, dim=1)
        features = (self.convolutions(pixels) * (1.0 + gain) + offset).relu()
        projected: Tensor = self.readout(features.flatten(1))
        return projected


def _norm(channels: int, wanted: bool) -> list[nn.Module]:
    return [nn.GroupNorm(math.gcd(8, channels), channels)] if wanted else []


def random_shift(image: UInt8[Tensor, "n h w 3"], *, max_pixels: int) -> UInt8[Tensor, "n h w 3"]:
    """Shift each image by up to ``max_pixels`` along both axes, repeating its border.

    Draws from torch's global generator.

    Source: Yarats et al. (2021), "Image augmentation is all you need".
    """
    n, height, width, _ = image.shape
    shift = torch.randint(-max_pixels, max_pixels + 1, (2, n, 1), device=image.device)
    rows = (torch.arange(height, device=image.device) + shift[0]).clamp(0, height - 1)
    columns = (torch.arange(width, device=image.device) + shift[1]).clamp(0, width - 1)
    batch = torch.arange(n, device=image.device)[:, None, None]
    return image[batch, rows[:, :, None], columns[:, None, :]]
