"""Tokens of frames, and a transformer that never looks into the future."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from value_models.functional.windows import block_causal_mask
from value_models.networks import StateEmbedding

POSITIONS = ("first", "all", "none")


class FrameTokens(nn.Module):
    """Patch features and robot state of each frame to one token per camera and one of the state.

    Every patch is squeezed to a few numbers and all of them are read at once (see `PatchTrunk`);
    a pooled feature is one patch. Frames do not see each other: tokens can be kept.

    Args:
        num_cameras: C; their patches follow each other.
        num_patches: Patches per camera.
        feature_dim: Width of a patch feature.
        state_dim: Width of the state; 0 for none.
        dim: Width of a token.
        patch_dim: Width that a patch is squeezed to.
    """

    def __init__(
        self,
        *,
        num_cameras: int,
        num_patches: int,
        feature_dim: int,
        state_dim: int,
        dim: int,
        patch_dim: int,
    ) -> None:
        super().__init__()
        self.num_cameras = num_cameras
        self.squeeze = nn.Linear(feature_dim, patch_dim)
        self.project = nn.ModuleList(
            nn.Linear(num_patches * patch_dim, dim) for _ in range(num_cameras)
        )
        self.state = StateEmbedding(state_dim, dim) if state_dim else None
        self.rows = num_cameras + bool(state_dim)

    def forward(
        self, features: Float[Tensor, "b t p d"], state: Float[Tensor, "b t s"] | None = None
    ) -> Float[Tensor, "b t rows dim"]:
        """Return the tokens: cameras in their order, then the state."""
        patches = self.squeeze(F.layer_norm(features, features.shape[-1:]))
        cameras = rearrange(patches, "b t (c p) d -> c b t (p d)", c=self.num_cameras)
        tokens = [project(camera) for project, camera in zip(self.project, cameras, strict=True)]
        if self.state is not None and state is not None:
            tokens.append(self.state(state))
        return torch.stack(tokens, dim=2)


class Block(nn.Module):
    """Pre-norm attention and feed-forward."""

    def __init__(self, dim: int, *, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.attention_norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(dim),
            nn.Linear(dim, 4 * dim),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(4 * dim, dim),
            nn.Dropout(dropout),
        )

    def forward(
        self, x: Float[Tensor, "b n dim"], mask: Bool[Tensor, "n n"]
    ) -> Float[Tensor, "b n dim"]:
        """Attend where ``mask`` is true."""
        qkv = rearrange(
            self.qkv(self.attention_norm(x)), "b n (three h d) -> three b h n d",
            three=3, h=self.num_heads,
        )  # fmt: skip
        dropout = self.dropout if self.training else 0.0
        query, key, value = qkv
        attended = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, dropout_p=dropout
        )
        x = x + self.out(rearrange(attended, "b h n d -> b n (h d)"))
        out: Tensor = x + self.feed_forward(x)
        return out


class WindowTransformer(nn.Module):
    """Tokens of a window, frame after frame, to one vector per frame that knows its past.

    Frames see themselves and earlier frames only, so places that are padded on the right change
    nothing before them.

    Args:
        rows: Tokens per frame.
        dim: Width of a token.
        num_layers: Blocks.
        num_heads: Attention heads; must divide ``dim``.
        dropout: Dropout in training.
        position: What is told of the place in the window: ``first`` marks the first frame, so
            that time cannot be counted; ``all`` learns an embedding of each place; ``none``.
        max_frames: Longest window; for ``all``.

    Source: SARM and SARM2 (arXiv 2509.25358, 2606.10305), with an attention mask by frame.
    """

    def __init__(
        self,
        *,
        rows: int,
        dim: int,
        num_layers: int,
        num_heads: int,
        dropout: float,
        position: str = "first",
        max_frames: int = 1,
    ) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(
                f"Expected `num_heads` that divides `hidden_dim` {dim}, got {num_heads}."
            )
        if position not in POSITIONS:
            raise ValueError(f"Expected `position` to be one of {POSITIONS}, got {position!r}.")
        self.rows = rows
        self.out_dim = rows * dim
        places = {"first": 1, "all": max_frames, "none": 0}[position]
        self.position = nn.Parameter(0.02 * torch.randn(places, 1, dim))
        self.blocks = nn.ModuleList(
            Block(dim, num_heads=num_heads, dropout=dropout) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(dim)

    def forward(
        self, tokens: Float[Tensor, "b w r dim"], context: Sequence[Tensor] = ()
    ) -> Float[Tensor, "b w out"]:
        """Read a window; each of ``context`` adds a token.

        Args:
            tokens: Of the frames, oldest first.
            context: (b, dim), such as an instruction, for all frames; or (b, w, dim).


        Raises:
            ValueError: If the window is longer than its learned places.
        """
        w = tokens.shape[1]
        places = len(self.position)
        if places > 1 and w > places:
            raise ValueError(f"Expected windows of at most {places} frames, got {w}.")
        marks = self.position[:w]
        x = tokens + F.pad(marks, (0, 0, 0, 0, 0, w - len(marks)))
        extra = [c if c.ndim == 3 else c.unsqueeze(1).expand(-1, w, -1) for c in context]
        x = torch.cat([x, *(c.unsqueeze(2) for c in extra)], dim=2)
        x = rearrange(x, "b w r d -> b (w r) d")
        mask = block_causal_mask(w, self.rows, device=x.device)
        for block in self.blocks:
            x = block(x, mask)
        vectors: Tensor = rearrange(self.norm(x), "b (w r) d -> b w (r d)", w=w)
        return vectors
