"""Instructions as bags of hashed words: stable between processes, with no vocabulary file."""

import re
import zlib
from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

NUM_BUCKETS = 512
"""Word hashes; 0 is padding."""


def hash_words(instructions: Sequence[str], *, max_words: int = 16) -> Int[Tensor, "n words"]:
    """Return a row of word tokens per instruction, padded with 0.

    Args:
        instructions: Any text; case and punctuation do not matter.
        max_words: Words beyond this many are dropped.

    Example:
        >>> a, b = hash_words(["Pick the cube.", "pick  the CUBE"])
        >>> bool((a == b).all())
        True
    """
    tokens = torch.zeros(len(instructions), max_words, dtype=torch.long)
    for row, text in enumerate(instructions):
        words = re.findall(r"\w+", text.lower())[:max_words]
        # crc32, not hash(): Python salts the latter anew in every process.
        hashes = [1 + zlib.crc32(word.encode()) % (NUM_BUCKETS - 1) for word in words]
        tokens[row, : len(hashes)] = torch.tensor(hashes, dtype=torch.long)
    return tokens
