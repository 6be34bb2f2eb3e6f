"""Models that look at a window of past frames, in batches and online."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn

from value_models.base import (
    FRAMES_PER_CALL,
    FrozenFeatureModel,
    check_sizes,
    inference,
    read_instructions,
)
from value_models.functional.windows import window_indices
from value_models.networks import InstructionEmbedding
from value_models.streaming import FrameHistory
from value_models.transformer import FrameTokens, WindowTransformer
from value_models.types import Observation, ProgressBatch


class WindowModel(FrozenFeatureModel):
    """A model of the first frame of an episode and ``num_frames`` more, up to the newest one.

    Two steps: `embed` turns each frame into tokens on its own, `decode` reads the tokens of a
    window. Over a whole episode and online, each frame is encoded and embedded once; only
    `decode` is repeated, on kept tokens. It never looks beyond the newest frame.

    Args:
        camera: Camera that the model looks through.
        encoder_id: ``encoder_id`` of the encoder that made the features it was trained on.
        num_patches: Patches per frame of one camera.
        feature_dim: Width of a patch feature.
        num_frames: Frames of the window, without the first one of the episode.
        stride: Distance between two of them in frames.
        hidden_dim: Width of a token.
        patch_dim: Width that a patch is squeezed to.
        state_dim: Width of ``observation.state``; 0 leaves it out.
        num_buckets: Rows of the instruction hash table.
        more_cameras: Further cameras.
    """

    def __init__(  # noqa: PLR0913 - scalars are the config of a saved folder
        self,
        *,
        camera: str,
        encoder_id: str,
        num_patches: int,
        feature_dim: int,
        num_frames: int,
        stride: int,
        hidden_dim: int,
        patch_dim: int,
        state_dim: int,
        num_buckets: int,
        more_cameras: Sequence[str],
    ) -> None:
        super().__init__(
            camera=camera,
            more_cameras=more_cameras,
            encoder_id=encoder_id,
            num_patches=num_patches,
            feature_dim=feature_dim,
            state_dim=state_dim,
        )
        check_sizes(num_frames=num_frames, stride=stride, hidden_dim=hidden_dim)
        self.num_frames = num_frames
        self.stride = stride
        self.tokens = FrameTokens(
            num_cameras=len(self.cameras),
            num_patches=num_patches,
            feature_dim=feature_dim,
            state_dim=state_dim,
            dim=hidden_dim,
            patch_dim=patch_dim,
        )
        self.instruction = InstructionEmbedding(hidden_dim, num_buckets=num_buckets)
        self._history = FrameHistory(num_frames=num_frames, stride=stride)

    @abstractmethod
    def decode(
        self, tokens: Float[Tensor, "b w r dim"], instruction: Float[Tensor, "b dim"]
    ) -> Any:
        """Read the tokens of windows: the first frame, then the frames of each window."""

    def forward(self, batch: ProgressBatch) -> Any:
        """Embed and decode a batch of training windows, as `WindowDataset` makes them."""
        features = self.read_features(batch)
        tokens = self.embed(features, self.read_state(batch))
        return self.decode(tokens, self.instruction(read_instructions(batch, len(tokens))))

    def embed(
        self, features: Float[Tensor, "b t p d"], state: Float[Tensor, "b t s"] | None = None
    ) -> Float[Tensor, "b t r dim"]:
        """Turn frames into tokens, each frame on its own."""
        like = self.tokens.squeeze.weight
        state = None if state is None else state.to(device=like.device, dtype=like.dtype)
        tokens: Tensor = self.tokens(self._checked(features, like), state)
        return tokens

    def reset(self, env_mask: Any = None) -> None:
        """Forget the frames of the environments in ``env_mask`` ``(n,)``; of all when None."""
        self._history.reset(env_mask)

    def _over_episode(self, batch: ProgressBatch, read: Callable[[Any], Tensor]) -> Tensor:
        """Apply the model to the window of every frame; ``read`` takes (b, …) from an output."""
        cameras = self._frames(batch, num_axes=0)
        b, t = cameras[0].values.shape[:2]
        task = read_instructions(batch, b)
        state = self.read_state(batch)
        with inference(self):
            parts = []
            for i in range(0, t, FRAMES_PER_CALL):
                cut = slice(i, i + FRAMES_PER_CALL)
                features = self._encoded([c._replace(values=c.values[:, cut]) for c in cameras])
                parts.append(self.embed(features, None if state is None else state[:, cut]))
            tokens = torch.cat(parts, dim=1)
            frames = torch.arange(t, device=tokens.device)
            windows = window_indices(frames, num_frames=self.num_frames, stride=self.stride)
            windows = torch.cat([torch.zeros_like(windows[:, :1]), windows], dim=1)
            instruction = self.instruction(task)
            results = []
            for part in torch.split(windows, FRAMES_PER_CALL):
                gathered = rearrange(tokens[:, part], "b t w r d -> (b t) w r d")
                words = repeat(instruction, "b d -> (b t) d", t=len(part))
                found = read(self.decode(gathered, words))
                results.append(found.view(b, len(part), *found.shape[1:]))
        return torch.cat(results, dim=1)

    def _online(self, obs: Observation, read: Callable[[Any], Tensor]) -> Tensor:
        """Apply the model to the newest frame of each environment and those kept of before."""
        cameras = self._frames(obs, num_axes=1)
        task = read_instructions(obs, len(cameras[0].values))
        state = self.read_state(obs, num_axes=1)
        with inference(self):
            features = self._encoded([c._replace(values=c.values.unsqueeze(1)) for c in cameras])
            tokens = self.embed(features, None if state is None else state.unsqueeze(1))
            window = self._history.push(tokens[:, 0])
            return read(self.decode(window, self.instruction(task)))


class WindowProgressModel(WindowModel):
    """A `WindowModel` whose output has a ``progress`` of every frame of the window."""

    def compute_progress(self, batch: ProgressBatch) -> Float[Tensor, "b t"]:
        """Progress in [0, 1] of every frame of whole episodes, from each frame's own past.

        Args:
            batch: As for `FrameModel.compute_progress`, each row from the first frame of an
                episode on; with ``observation.state`` (b, t, s) if the model has a state.
        """
        return self._over_episode(batch, _last_progress)

    def compute_reward(self, batch: ProgressBatch) -> Float[Tensor, " b"]:
        """Progress of the last frame of each row (LeRobot's reward-model meaning)."""
        return self.compute_progress(batch)[:, -1]

    def progress(self, obs: Observation) -> Float[Tensor, " n"]:
        """Progress in [0, 1] of the newest frame; call once per frame, `reset` at starts."""
        return self._online(obs, _last_progress)


def _last_progress(output: Any) -> Tensor:
    progress: Tensor = output.progress[:, -1]
    return progress


class WindowOutput(NamedTuple):
    """One logit per frame of a window, and its sigmoid."""

    logits: Float[Tensor, "b w"]
    progress: Float[Tensor, "b w"]
    """In [0, 1]."""


class RewindRegressor(WindowProgressModel, library_name="value-models"):
    """Window and instruction to progress by one head: the baseline of SARM2.

    Args:
        camera: Camera that the model looks through.
        encoder_id: ``encoder_id`` of the encoder that made the features it was trained on.
        num_patches: Patches per frame of one camera.
        feature_dim: Width of a patch feature.
        num_frames: Frames of the window, without the first one of the episode.
        stride: Distance between two of them in frames.
        hidden_dim: Width of a token.
        num_layers: Transformer blocks.
        num_heads: Attention heads.
        dropout: Dropout in training.
        position: ``first``, ``all`` or ``none``; see `WindowTransformer`.
        max_rewind: Most rewound frames that training windows have; room for ``all`` positions.
        patch_dim: Width that a patch is squeezed to.
        state_dim: Width of ``observation.state``; 0 leaves it out.
        num_buckets: Rows of the instruction hash table.
        more_cameras: Further cameras.

    Source: ReWiND (arXiv 2505.10911).
    """

    model_type: ClassVar[str] = "rewind_regressor"

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
        position: str = "first",
        max_rewind: int = 3,
        patch_dim: int = 16,
        state_dim: int = 0,
        num_buckets: int = 1024,
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
        self.body = WindowTransformer(
            rows=self.tokens.rows + 1,
            dim=hidden_dim,
            num_layers=num_layers,
            num_heads=num_heads,
            dropout=dropout,
            position=position,
            max_frames=1 + num_frames + max_rewind,
        )
        self.head = ScalarHead(self.body.out_dim, hidden_dim, 1)

    def decode(
        self, tokens: Float[Tensor, "b w r dim"], instruction: Float[Tensor, "b dim"]
    ) -> WindowOutput:
        """Read windows; see `WindowModel.decode`."""
        logits = self.head(self.body(tokens, [instruction])).squeeze(-1).float()
        return WindowOutput(logits, logits.sigmoid())


class SuccessClassifier(RewindRegressor, library_name="value-models"):
    """Probability that the task is done in the newest frame, under the interface of progress."""

    model_type: ClassVar[str] = "success_classifier"


class ScalarHead(nn.Sequential):
    """LayerNorm, Linear, GELU, Linear."""

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int) -> None:
        super().__init__(
            nn.LayerNorm(in_dim),
            nn.Linear(in_dim, hidden_dim),
            nn.GELU(),
            nn.Linear(hidden_dim, out_dim),
        )
