"""Masked latent prediction: the network of the self-supervised ``pretrain`` command."""

from collections.abc import Sequence
from copy import deepcopy

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import VJEPA2Config, VJEPA2Model

from progress_labels.functional import variance_covariance

Mask = tuple[Int[Tensor, " visible"], Int[Tensor, " hidden"]]
"""Patch indices that the context encoder sees, and those that it must predict."""


def tiny_config(**overrides: int) -> VJEPA2Config:
    """Return the configuration of the shipped encoder: 64 px, 64 patches of 128 features."""
    values = {
        "crop_size": 64,
        "patch_size": 8,
        "tubelet_size": 2,
        "frames_per_clip": 2,
        "hidden_size": 128,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "pred_hidden_size": 64,
        "pred_num_hidden_layers": 2,
        "pred_num_attention_heads": 2,
        "pred_num_mask_tokens": 1,
    }
    return VJEPA2Config(**(values | overrides))


class JEPA(nn.Module):
    """A context encoder, its slow copy (the target) and a predictor between them.

    The context encoder sees the visible patches only. At the hidden ones the predictor guesses the
    target encoder's layer-normed features (L1) and, through a linear head, their pixels (squared
    error); a variance and a covariance term act on the context features. The last three keep a run
    of a few thousand steps on static cameras from ending in features of the camera alone.

    Args:
        config: Shape of encoder and predictor.
        pixels: Weight of the pixel term.
        variance: Weight of the variance term.
        covariance: Weight of the covariance term.
        target_std: Spread over frames that the variance term asks for. Features are layer-normed:
            1 would leave nothing for what stays the same from frame to frame.

    Source: V-JEPA, arXiv 2404.08471, Eq. 1; pixels: MAE, arXiv 2111.06377; variance and
        covariance: C-JEPA, arXiv 2410.19560.
    """

    def __init__(
        self,
        config: VJEPA2Config,
        *,
        pixels: float = 1.0,
        variance: float = 1.0,
        covariance: float = 0.01,
        target_std: float = 0.3,
    ) -> None:
        super().__init__()
        self.pixels = pixels
        self.variance = variance
        self.covariance = covariance
        self.target_std = target_std
        model = VJEPA2Model(config)
        self.config = config
        self.context = model.encoder
        self.predictor = model.predictor
        self.pixel_head = nn.Linear(
            config.pred_hidden_size, config.tubelet_size * 3 * config.patch_size**2
        )
        self.target = deepcopy(model.encoder).requires_grad_(requires_grad=False)

    def forward(
        self, clips: Float[Tensor, "b f 3 size size"], masks: Sequence[Mask]
    ) -> Float[Tensor, ""]:
        """Return the loss, averaged over masks.

        Args:
            clips: Normalised pixels of clips of one tubelet.
            masks: Each is applied to the whole batch.
        """
        with torch.no_grad():
            tokens = self.target(clips).last_hidden_state
            goal = F.layer_norm(tokens, tokens.shape[-1:])
        p = self.config.patch_size
        pixels = rearrange(clips, "b f c (h p) (w q) -> b (h w) (f c p q)", p=p, q=p)
        embedded = self.context.embeddings(clips)
        losses = []
        for mask in masks:
            visible, hidden = (part.to(clips.device) for part in mask)
            seen = self._encode(embedded, visible)
            spread, correlation = variance_covariance(seen.float(), target_std=self.target_std)
            state = self._predict(seen, visible, hidden)
            losses.append(
                F.l1_loss(self.predictor.proj(state), goal[:, hidden])
                + self.pixels * F.mse_loss(self.pixel_head(state), pixels[:, hidden])
                + self.variance * spread
                + self.covariance * correlation
            )
        return torch.stack(losses).mean()

    @torch.no_grad()
    def update_target(self, momentum: float) -> None:
        """Move the target towards the context encoder: θ' ← m θ' + (1 − m) θ."""
        slow, fast = list(self.target.parameters()), list(self.context.parameters())
        torch._foreach_lerp_(slow, fast, 1.0 - momentum)

    def _encode(self, embedded: Tensor, visible: Tensor) -> Tensor:
        # The layers take positions, so that rotary angles stay those of the whole grid.
        state = embedded[:, visible]
        for layer in self.context.layer:
            state = layer(state, visible[None])[0]
        output: Tensor = self.context.layernorm(state)
        return output

    def _predict(self, seen: Tensor, visible: Tensor, hidden: Tensor) -> Tensor:
        state = self.predictor.embeddings.predictor_embeddings(seen)
        guess = self.predictor.embeddings.mask_tokens[0].expand(len(state), len(hidden), -1)
        state = torch.cat([state, guess], dim=1)
        positions = torch.cat([visible, hidden])[None]
        for layer in self.predictor.layer:
            state = layer(state, positions)[0]
        output: Tensor = self.predictor.layernorm(state)[:, len(visible) :]
        return output


def export_encoder(jepa: JEPA) -> VJEPA2Model:
    """Return the target encoder as a model whose predictor is an empty stub, in float16."""
    stub = {"pred_num_hidden_layers": 0, "pred_hidden_size": 1, "pred_num_attention_heads": 1}
    model = VJEPA2Model(VJEPA2Config(**(jepa.config.to_dict() | stub)))
    model.encoder.load_state_dict(jepa.target.state_dict())
    return model.half()
