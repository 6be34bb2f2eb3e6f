"""Building blocks of the value models: instruction embedding, patch trunk, progress head."""

import re
import zlib
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor, nn


def hash_words(instruction: str, num_buckets: int) -> list[int]:
    """Return one bucket per word and per pair of neighbouring words of an instruction.

    Lower-cased, punctuation dropped, hashed with CRC-32, so that the result is the same on every
    machine and in every process. The pairs keep word order: "red on blue" is not "blue on red".

    Example:
        >>> hash_words("Pick up!", 1000) == hash_words("pick up", 1000)
        True
    """
    words = re.findall(r"\w+", instruction.lower())
    pairs = [f"{first} {second}" for first, second in pairwise(words)]
    return [zlib.crc32(text.encode()) % num_buckets for text in words + pairs]


class InstructionEmbedding(nn.Module):
    """Instructions to vectors with no vocabulary and no download: a mean over hashed words.

    Args:
        dim: Width of the result.
        num_buckets: Rows of the table; words that share one are not told apart.
    """

    def __init__(self, dim: int, *, num_buckets: int = 1024) -> None:
        super().__init__()
        self.table = nn.EmbeddingBag(num_buckets, dim, mode="mean")
        # Small rows: a word never trained on then hardly moves the mean.
        nn.init.normal_(self.table.weight, std=0.02)

    def forward(self, task: Sequence[str]) -> Float[Tensor, "b dim"]:
        """Embed ``b`` instructions; an instruction without words gives zeros."""
        unique = list(dict.fromkeys(task))
        bags = [hash_words(text, self.table.num_embeddings) for text in unique]
        device = self.table.weight.device
        starts = torch.tensor([0, *map(len, bags)], device=device).cumsum(0)[:-1]
        buckets = torch.tensor([i for bag in bags for i in bag], dtype=torch.long, device=device)
        rows = torch.tensor([unique.index(text) for text in task], device=device)
        embedded: Tensor = self.table(buckets, starts)
        return embedded[rows]


class PatchTrunk(nn.Module):
    """Frozen patch features and an instruction to one vector per frame.

    A few queries, each the sum of a learned one and one read from the instruction, attend over
    the patches. Keys and values are the normalised patches plus a learned position embedding:
    in a wrist camera, where the object is says as much as what it is. There is no key or value
    projection before the pooling; projecting the pooled vectors instead is the same function
    of them at a small part of the cost.

    Args:
        num_patches: P.
        feature_dim: D of the frozen features.
        hidden_dim: Width of the instruction and of the result.
        num_queries: Attention queries.
        dropout: Probability of dropping a pooled feature in training.
    """

    def __init__(
        self,
        *,
        num_patches: int,
        feature_dim: int,
        hidden_dim: int = 128,
        num_queries: int = 4,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        # As loud as the normalised content: at the usual 0.02 a model has to find out first that
        # places differ, and small data sets end before it does.
        self.position = nn.Parameter(0.5 * torch.randn(num_patches, feature_dim))
        self.queries = nn.Parameter(torch.randn(num_queries, feature_dim))
        self.to_queries = nn.Linear(hidden_dim, num_queries * feature_dim, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.project = nn.Linear(num_queries * feature_dim + hidden_dim, hidden_dim)

    def forward(
        self, features: Float[Tensor, "b t p d"], instruction: Float[Tensor, "b hidden"]
    ) -> Float[Tensor, "b t hidden"]:
        """Pool each frame on its own; frames of one window do not see each other."""
        content = F.layer_norm(features, features.shape[-1:])
        spread = self.to_queries(instruction)
        queries = self.queries + rearrange(spread, "b (q d) -> b q d", q=len(self.queries))
        # Scores and mean of content + position, apart: their sum would need a gradient as large
        # as the features, which takes longer than all the rest.
        scores = einsum(queries, content, "b q d, b t p d -> b t q p")
        scores = scores + einsum(queries, self.position, "b q d, p d -> b q p").unsqueeze(1)
        weights = (scores * content.shape[-1] ** -0.5).softmax(-1)
        pooled = einsum(weights, content, "b t q p, b t p d -> b t q d") + weights @ self.position
        pooled = self.dropout(rearrange(pooled, "b t q d -> b t (q d)"))
        words = instruction.unsqueeze(1).expand(-1, features.shape[1], -1)
        projected: Tensor = self.project(torch.cat([pooled, words], dim=-1))
        return projected


class ProgressHead(nn.Sequential):
    """LayerNorm, Linear, GELU, Linear: a vector to the logits of the progress bins.

    Source: Feat2Go (arXiv 2605.30795) for the parts and the 201 bins; their order is ours.
    """

    def __init__(self, hidden_dim: int, num_bins: int) -> None:
        super().__init__(
            nn.LayerNorm(hidden_dim),
            nn.Linear(hidden_dim, hidden_dim),
            nn.GELU(),
            nn.Linear(hidden_dim, num_bins),
        )
