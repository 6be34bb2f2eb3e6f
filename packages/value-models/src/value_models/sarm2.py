"""SARM2: an estimator of action primitives, and a value decoder whose gates it chooses."""

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from value_models.experts import MultiGateExperts
from value_models.primitives import (
    PRIMITIVE_GROUPS,
    PRIMITIVES,
    choose_primitive,
    primitive_group,
)
from value_models.transformer import WindowTransformer
from value_models.types import Observation, ProgressBatch
from value_models.window_model import WindowModel, WindowProgressModel


class PrimitiveOutput(NamedTuple):
    """Logits of the newest frame of a window."""

    primitive_logits: Float[Tensor, "b 22"]
    group_logits: Float[Tensor, "b 8"]


class PrimitiveEstimator(WindowModel, library_name="value-models"):
    """Window to the action primitive of its newest frame; knows neither task nor instruction.

    Args:
        camera: Camera that the model looks through.
        encoder_id: ``encoder_id`` of the encoder that made the features it was trained on.
        num_patches: Patches per frame of one camera.
        feature_dim: Width of a patch feature.
        num_frames: Frames of the window.
        stride: Distance between two of them in frames.
        hidden_dim: Width of a token.
        num_layers: Transformer blocks.
        num_heads: Attention heads.
        dropout: Dropout in training.
        null_threshold: A primitive less likely than this is null; 0 for the plain argmax.
        patch_dim: Width that a patch is squeezed to.
        state_dim: Width of ``observation.state``; 0 leaves it out.
        num_buckets: Unused rows of an instruction table; 1 is enough.
        more_cameras: Further cameras.

    Source: SARM2 (arXiv 2606.10305); its sizes: hidden_dim 512, num_layers 4, num_heads 8, stride
    30.
    """

    model_type: ClassVar[str] = "primitive_estimator"

    def __init__(  # noqa: PLR0913 - scalars are the config of a saved folder
        self,
        *,
        camera: str,
        encoder_id: str,
        num_patches: int,
        feature_dim: int,
        num_frames: int = 6,
        stride: int = 5,
        hidden_dim: int = 128,
        num_layers: int = 2,
        num_heads: int = 4,
        dropout: float = 0.1,
        null_threshold: float = 0.5,
        patch_dim: int = 16,
        state_dim: int = 0,
        num_buckets: int = 1,
        more_cameras: Sequence[str] = (),
    ) -> None:
        super().__init__(
            camera=camera,
            encoder_id=encoder_id,
            num_patches=num_patches,
            feature_dim=feature_dim,
            num_frames=num_frames,
            stride=stride,
            hidden_dim=hidden_dim,
            patch_dim=patch_dim,
            state_dim=state_dim,
            num_buckets=num_buckets,
            more_cameras=more_cameras,
        )
        # It is never trained: nothing but the window decides.
        self.instruction.requires_grad_(requires_grad=False)
        self.null_threshold = null_threshold
        self.body = WindowTransformer(
            rows=self.tokens.rows,
            dim=hidden_dim,
            num_layers=num_layers,
            num_heads=num_heads,
            dropout=dropout,
            position="all",
            max_frames=num_frames,
        )
        self.hidden = nn.Sequential(
            nn.LayerNorm(self.body.out_dim), nn.Linear(self.body.out_dim, hidden_dim), nn.ReLU()
        )
        self.primitive_head = nn.Linear(hidden_dim, len(PRIMITIVES))
        self.group_head = nn.Linear(hidden_dim, len(PRIMITIVE_GROUPS))

    def decode(
        self,
        tokens: Float[Tensor, "b w r dim"],
        instruction: Float[Tensor, "b dim"] | None = None,
    ) -> PrimitiveOutput:
        """Read windows; the first frame of the episode and rewound frames are left out."""
        hidden = self.hidden(self.body(tokens[:, 1 : 1 + self.num_frames])[:, -1])
        return PrimitiveOutput(self.primitive_head(hidden).float(), self.group_head(hidden).float())

    def compute_primitives(self, batch: ProgressBatch) -> Int[Tensor, "b t"]:
        """Index of the primitive of every frame of whole episodes, null where unsure."""
        return self._over_episode(batch, self._choose)

    def primitives(self, obs: Observation) -> Int[Tensor, " n"]:
        """Index of the primitive of the newest frame; call once per frame."""
        return self._online(obs, self._choose)

    def _choose(self, output: PrimitiveOutput) -> Tensor:
        return choose_primitive(output.primitive_logits, null_threshold=self.null_threshold)


class GatedOutput(NamedTuple):
    """Progress of each frame of a window, what chose the gate, and how tokens were routed."""

    progress: Float[Tensor, "b w"]
    """In [0, 1]; SARM2's value −(T − t)/T plus 1."""
    estimate: PrimitiveOutput | None
    probs: Float[Tensor, "b w experts"]
    experts: Int[Tensor, "b w k"]
    """The k experts of each frame."""


class GatedValueModel(WindowProgressModel, library_name="value-models"):
    """Window, instruction and estimated primitive to progress, by gated experts.

    The group of the estimated primitive chooses one of 8 gates, which weigh experts that all
    gates share. The decoder also reads the mixture of the primitives' embeddings, in training and
    in use: its error can reach the estimator, and it meets no input that it was not trained on
    (SARM2's released code trains on the mixture and serves the likeliest one's).

    Args:
        camera: Camera that the model looks through.
        encoder_id: ``encoder_id`` of the encoder that made the features it was trained on.
        num_patches: Patches per frame of one camera.
        feature_dim: Width of a patch feature.
        num_frames: Frames of the window, without the first one of the episode.
        stride: Distance between two of them in frames.
        hidden_dim: Width of a token.
        num_layers: Blocks of the decoder.
        estimator_layers: Blocks of the estimator.
        num_heads: Attention heads.
        dropout: Dropout in training.
        num_experts: Experts.
        top_k: Experts per frame.
        expert_dim: Width of gates and experts.
        use_estimator: False leaves primitives out (and so uses one gate).
        multi_gate: False uses one gate for all groups.
        null_threshold: A primitive less likely than this is null.
        dispatch: Apply only the chosen experts.
        patch_dim: Width that a patch is squeezed to.
        state_dim: Width of ``observation.state``; 0 leaves it out.
        num_buckets: Rows of the instruction hash table.
        more_cameras: Further cameras.

    Source: SARM2 (arXiv 2606.10305); its sizes: hidden_dim 512, num_layers 6, num_heads 8, stride
    30. Primitives are embedded by a learned table in place of a text encoder.
    """

    model_type: ClassVar[str] = "gated_value"

    def __init__(  # noqa: PLR0913 - scalars are the config of a saved folder
        self,
        *,
        camera: str,
        encoder_id: str,
        num_patches: int,
        feature_dim: int,
        num_frames: int = 6,
        stride: int = 5,
        hidden_dim: int = 128,
        num_layers: int = 2,
        estimator_layers: int = 2,
        num_heads: int = 4,
        dropout: float = 0.1,
        num_experts: int = 10,
        top_k: int = 2,
        expert_dim: int = 64,
        use_estimator: bool = True,
        multi_gate: bool = True,
        null_threshold: float = 0.5,
        dispatch: bool = True,
        patch_dim: int = 16,
        state_dim: int = 0,
        num_buckets: int = 1024,
        more_cameras: Sequence[str] = (),
    ) -> None:
        inputs: dict[str, Any] = {
            "camera": camera,
            "encoder_id": encoder_id,
            "num_patches": num_patches,
            "feature_dim": feature_dim,
            "num_frames": num_frames,
            "stride": stride,
            "hidden_dim": hidden_dim,
            "patch_dim": patch_dim,
            "state_dim": state_dim,
            "more_cameras": more_cameras,
        }
        super().__init__(**inputs, num_buckets=num_buckets)
        sizes: dict[str, Any] = {"num_heads": num_heads, "dropout": dropout}
        self.null_threshold = null_threshold
        self.multi_gate = multi_gate and use_estimator
        self.estimator: PrimitiveEstimator | None = None
        self.primitive_embedding: nn.Embedding | None = None
        if use_estimator:
            self.estimator = PrimitiveEstimator(
                **inputs, **sizes, num_layers=estimator_layers, null_threshold=null_threshold
            )
            self.primitive_embedding = nn.Embedding(len(PRIMITIVES), hidden_dim)
        self.body = WindowTransformer(
            rows=self.tokens.rows + 1 + use_estimator,
            dim=hidden_dim,
            num_layers=num_layers,
            **sizes,
        )
        self.experts = MultiGateExperts(
            self.body.out_dim,
            num_gates=len(PRIMITIVE_GROUPS) if self.multi_gate else 1,
            num_experts=num_experts,
            k=top_k,
            hidden_dim=expert_dim,
            dropout=dropout,
            dispatch=dispatch,
        )

    def load_estimator(self, estimator: PrimitiveEstimator) -> None:
        """Take over the weights of an estimator that was trained on its own.

        Raises:
            ValueError: If the model has no estimator, or one of other sizes.
        """
        if self.estimator is None:
            raise ValueError("The model was built with `use_estimator` false: it has none.")
        try:
            self.estimator.load_state_dict(estimator.state_dict())
        except RuntimeError as error:
            raise ValueError(f"The estimator does not fit the model: {error}") from error

    def compute_experts(self, batch: ProgressBatch) -> Int[Tensor, "b t k"]:
        """Experts that every frame of whole episodes is given to."""
        return self._over_episode(batch, lambda output: output.experts[:, -1])

    def embed(
        self, features: Float[Tensor, "b t p d"], state: Float[Tensor, "b t s"] | None = None
    ) -> Float[Tensor, "b t r dim"]:
        """Tokens of the decoder, then those of the estimator."""
        tokens = super().embed(features, state)
        if self.estimator is None:
            return tokens
        return torch.cat([tokens, self.estimator.embed(features, state)], dim=2)

    def decode(
        self, tokens: Float[Tensor, "b w r dim"], instruction: Float[Tensor, "b dim"]
    ) -> GatedOutput:
        """Read windows; see `WindowModel.decode`."""
        own, others = tokens[:, :, : self.tokens.rows], tokens[:, :, self.tokens.rows :]
        context, estimate = [instruction], None
        gate = torch.zeros(len(tokens), dtype=torch.long, device=tokens.device)
        if self.estimator is not None and self.primitive_embedding is not None:
            estimate = self.estimator.decode(others)
            primitive = choose_primitive(
                estimate.primitive_logits, null_threshold=self.null_threshold
            )
            table = self.primitive_embedding
            probs = estimate.primitive_logits.softmax(-1).to(table.weight.dtype)
            context.append(probs @ table.weight)
            gate = primitive_group(primitive) if self.multi_gate else gate
        hidden = self.body(own, context)
        b, w = hidden.shape[:2]
        routed = self.experts(hidden.flatten(0, 1), gate.repeat_interleave(w))
        return GatedOutput(
            routed.value.float().sigmoid().view(b, w),
            estimate,
            routed.probs.view(b, w, -1),
            routed.chosen.view(b, w, -1),
        )
