"""What π0 reads: images scaled as it was trained, and instructions as tokens."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from vla_rl.observations import to_tensor

Tokenize = Callable[[list[str]], tuple[Tensor, Tensor]]
"""Instructions to token ids and attention mask, ``(n, tokens)`` each, padded on the right."""


def scale_images(
    image: Any, *, size: int, device: torch.device | str = "cpu"
) -> Float[Tensor, "n 3 size size"]:
    """Return images in [-1, 1], their shape kept and the border black.

    Args:
        image: uint8 ``(n, h, w, 3)``.
        size: Height and width of the result.
        device: Where the result lives.

    Raises:
        ValueError: If the images have another type or shape.
    """
    pixels = to_tensor(image, device)
    if pixels.ndim != 4 or pixels.shape[-1] != 3 or pixels.dtype != torch.uint8:
        raise ValueError(
            f"Expected uint8 images (n, h, w, 3), got {pixels.dtype} {tuple(pixels.shape)}."
        )
    scaled = pixels.permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1.0
    height, width = scaled.shape[-2:]
    factor = size / max(height, width)
    target = (max(1, round(height * factor)), max(1, round(width * factor)))
    scaled = F.interpolate(scaled, target, mode="bilinear", antialias=True)
    top, left = size - target[0], size - target[1]
    return F.pad(scaled, (left // 2, left - left // 2, top // 2, top - top // 2), value=-1.0)


def image_prompt(
    tokens: tuple[Int[Tensor, "n tokens"], Int[Tensor, "n tokens"]],
    *,
    num_image_tokens: int,
    image_token_id: int,
) -> tuple[Int[Tensor, "n prompt"], Int[Tensor, "n prompt"]]:
    """Return image placeholders followed by the instruction, and which tokens are real."""
    ids, attention = tokens
    images = ids.new_full((len(ids), num_image_tokens), image_token_id)
    return torch.cat([images, ids], 1), torch.cat([torch.ones_like(images), attention], 1)


def tokenizer_of(name: str | Path, *, max_tokens: int = 48) -> Tokenize:
    """Return a `Tokenize` made of a transformers tokenizer, by name or folder.

    π0 was trained on instructions that end in a line break.
    """
    from transformers import AutoTokenizer  # only here: a user may bring another

    tokenizer = AutoTokenizer.from_pretrained(str(name), padding_side="right")

    def tokenize(tasks: list[str]) -> tuple[Tensor, Tensor]:
        encoded = tokenizer(
            [f"{task.strip()}\n" for task in tasks],
            padding="max_length",
            max_length=max_tokens,
            truncation=True,
            return_tensors="pt",
        )
        return encoded["input_ids"], encoded["attention_mask"]

    return tokenize
