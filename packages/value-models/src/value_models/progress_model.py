"""Progress of single frames: distributional (Feat2Go), ranked (RFTF), and the clock to beat."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from value_models.base import (
    FRAMES_PER_CALL,
    STATE_KEY,
    FrozenFeatureModel,
    check_sizes,
    inference,
    read_instructions,
)
from value_models.functional.agreement import linear_time_progress
from value_models.functional.bins import expectation
from value_models.networks import InstructionEmbedding, PatchTrunk, ProgressHead
from value_models.types import Observation, ProgressBatch, ProgressOutput


class FrameModel(FrozenFeatureModel):
    """Frame and instruction to progress; the model keeps no history.

    Frozen patch features are read whole in the light of the instruction. One frame in, one value
    out: streaming and batch evaluation are the same computation.

    Args:
        camera: Camera that the model looks through.
        encoder_id: ``encoder_id`` of the encoder that made the features it was trained on.
        num_patches: Patches per frame of one camera.
        feature_dim: Width of a patch feature.
        hidden_dim: Width of the trunk and head.
        num_outputs: Width of the head's result.
        patch_dim: Width that the trunk squeezes each patch to.
        dropout: Dropout of the squeezed patches in training.
        num_buckets: Rows of the instruction hash table.
        more_cameras: Further cameras.
        state_dim: Width of ``observation.state``; 0 leaves it out.
        head_layers: Hidden layers of the head.
    """

    def __init__(  # noqa: PLR0913 - scalars are the config of a saved folder
        self,
        *,
        camera: str,
        encoder_id: str,
        num_patches: int,
        feature_dim: int,
        hidden_dim: int,
        num_outputs: int,
        patch_dim: int,
        dropout: float,
        num_buckets: int,
        more_cameras: Sequence[str],
        state_dim: int,
        head_layers: int = 1,
    ) -> None:
        super().__init__(
            camera=camera,
            more_cameras=more_cameras,
            encoder_id=encoder_id,
            num_patches=num_patches,
            feature_dim=feature_dim,
            state_dim=state_dim,
        )
        check_sizes(hidden_dim=hidden_dim, patch_dim=patch_dim, num_buckets=num_buckets)
        check_sizes(head_layers=head_layers)
        self.instruction = InstructionEmbedding(hidden_dim, num_buckets=num_buckets)
        self.trunk = PatchTrunk(
            num_patches=self.feature_shape[0],
            feature_dim=feature_dim,
            hidden_dim=hidden_dim,
            patch_dim=patch_dim,
            dropout=dropout,
            state_dim=state_dim,
        )
        self.head = ProgressHead(hidden_dim, num_outputs, num_layers=head_layers)

    def read(
        self,
        features: Float[Tensor, "b t p d"],
        task: Sequence[str],
        state: Float[Tensor, "b t s"] | None = None,
    ) -> Float[Tensor, "b t out"]:
        """Return the head's result for patch features, instructions and, if it reads it, state."""
        features = self._checked(features, self.trunk.squeeze.weight)
        if self.state_dim and state is None:
            raise ValueError(f"Expected a state of width {self.state_dim}, got none.")
        outputs: Tensor = self.head(self.trunk(features, self.instruction(task), state))
        return outputs

    def compute_progress(self, batch: ProgressBatch) -> Float[Tensor, "b t"]:
        """Progress in [0, 1] of every frame of a batch of windows.

        Args:
            batch: ``task`` and either ``observation.features.<camera>`` (b, t, p, d) or
                ``observation.images.<camera>`` uint8 (b, t, h, w, 3), the latter only with an
                attached encoder; ``observation.state`` (b, t, s) if the model has a state.

        Raises:
            ValueError: If a shape does not fit, or frames come without an attached encoder.
            TypeError: If frames are not uint8 or ``task`` is not a list.
            KeyError: If the camera is missing.
        """
        return self._over_frames(batch, lambda output: output.progress)

    def _over_frames(self, batch: ProgressBatch, read: Callable[[Any], Tensor]) -> Tensor:
        """Apply the model to every frame, some at a time; ``read`` takes (b, t, …) of it."""
        cameras = self._frames(batch, num_axes=0)
        b, t = cameras[0].values.shape[:2]
        task = read_instructions(batch, b)
        state = self.read_state(batch)
        parts = []
        with inference(self):
            for i in range(0, t, FRAMES_PER_CALL):
                cut = slice(i, i + FRAMES_PER_CALL)
                features = self._encoded([c._replace(values=c.values[:, cut]) for c in cameras])
                now = None if state is None else state[:, cut]
                parts.append(read(self(features, task, now)))
        return torch.cat(parts, dim=1)

    def compute_reward(self, batch: ProgressBatch) -> Float[Tensor, " b"]:
        """Progress of the last frame of each window (LeRobot's reward-model meaning)."""
        return self.compute_progress(batch)[:, -1]

    def reset(self, env_mask: Any = None) -> None:
        """Do nothing: a single-frame model has no history."""

    def progress(self, obs: Observation) -> Float[Tensor, " n"]:
        """Progress in [0, 1] of the newest frame of each environment.

        Args:
            obs: ``observation.images.<camera>`` uint8 (n, h, w, 3), NumPy or torch, and ``task``;
                or ``observation.features.<camera>`` (n, p, d) where the caller has encoded.
        """
        window: dict[str, Any] = {"task": obs["task"]}
        state = self.read_state(obs, num_axes=1)
        if state is not None:
            window[STATE_KEY] = state.unsqueeze(1)
        for camera, frames in zip(self.cameras, self._frames(obs, num_axes=1), strict=True):
            key = "features" if frames.is_encoded else "images"
            window[f"observation.{key}.{camera}"] = frames.values.unsqueeze(1)
        return self.compute_progress(window)[:, 0]


class DistributionalProgressModel(FrameModel, library_name="value-models"):
    """Frame and instruction to a distribution over 201 progress bins on [0, 1].

    The mean of the predicted distribution is the progress; see `FrameModel`.

    Args:
        camera: Camera that the model looks through.
        encoder_id: ``encoder_id`` of the encoder that made the features it was trained on.
        num_patches: Patches per frame of one camera.
        feature_dim: Width of a patch feature.
        hidden_dim: Width of the trunk and head.
        num_bins: Bins on [0, 1].
        patch_dim: Width that the trunk squeezes each patch to.
        dropout: Dropout of the squeezed patches in training.
        num_buckets: Rows of the instruction hash table.
        more_cameras: Further cameras.
        state_dim: Width of ``observation.state``; 0 leaves it out.

    Source: Feat2Go, arXiv 2605.30795, with a frozen encoder and a small trunk in place of the 4B
    vision-language model.
    """

    model_type: ClassVar[str] = "distributional_progress"

    def __init__(  # noqa: PLR0913 - scalars are the config of a saved folder
        self,
        *,
        camera: str,
        encoder_id: str,
        num_patches: int,
        feature_dim: int,
        hidden_dim: int = 128,
        num_bins: int = 201,
        patch_dim: int = 16,
        dropout: float = 0.3,
        num_buckets: int = 1024,
        more_cameras: Sequence[str] = (),
        state_dim: int = 0,
    ) -> None:
        if num_bins < 2:
            raise ValueError(f"Expected `num_bins` of at least 2, got {num_bins}.")
        super().__init__(
            camera=camera,
            encoder_id=encoder_id,
            num_patches=num_patches,
            feature_dim=feature_dim,
            hidden_dim=hidden_dim,
            num_outputs=num_bins,
            patch_dim=patch_dim,
            dropout=dropout,
            num_buckets=num_buckets,
            more_cameras=more_cameras,
            state_dim=state_dim,
        )

    def forward(
        self,
        features: Float[Tensor, "b t p d"],
        task: Sequence[str],
        state: Float[Tensor, "b t s"] | None = None,
    ) -> ProgressOutput:
        """Predict from patch features, one instruction per window and perhaps the robot state."""
        logits = self.read(features, task, state)
        return ProgressOutput(logits, expectation(logits))

    def compute_logits(self, batch: ProgressBatch) -> Float[Tensor, "b t bins"]:
        """Logits of the bins of every frame of a batch of windows; see `compute_progress`."""
        return self._over_frames(batch, lambda output: output.logits)


class RankedOutput(NamedTuple):
    """Unbounded values, and the same squeezed into [0, 1]."""

    value: Float[Tensor, "b t"]
    progress: Float[Tensor, "b t"]
    """σ(value): orders frames as the value does, but is no share of the task."""


class TemporalRankingModel(FrameModel, library_name="value-models"):
    """Frame and instruction to a value that grows along successful episodes.

    Learned from the order of frames alone. For rewards, normalise the values of each episode
    (`functional.normalise_episode`). A trunk trained by another `FrameModel` of the same sizes
    can be taken over: ``model.trunk.load_state_dict(other.trunk.state_dict())``.

    Args:
        camera: Camera that the model looks through.
        encoder_id: ``encoder_id`` of the encoder that made the features it was trained on.
        num_patches: Patches per frame of one camera.
        feature_dim: Width of a patch feature.
        hidden_dim: Width of the trunk and head.
        patch_dim: Width that the trunk squeezes each patch to.
        dropout: Dropout of the squeezed patches in training.
        num_buckets: Rows of the instruction hash table.
        more_cameras: Further cameras.
        state_dim: Width of ``observation.state``; 0 leaves it out.
        head_layers: Hidden layers of the head.

    Source: RFTF, arXiv 2505.19767, section 3.1, with a small trunk in place of the policy's.
    """

    model_type: ClassVar[str] = "temporal_ranking"

    def __init__(  # noqa: PLR0913 - scalars are the config of a saved folder
        self,
        *,
        camera: str,
        encoder_id: str,
        num_patches: int,
        feature_dim: int,
        hidden_dim: int = 128,
        patch_dim: int = 16,
        dropout: float = 0.1,
        num_buckets: int = 1024,
        more_cameras: Sequence[str] = (),
        state_dim: int = 0,
        head_layers: int = 1,
    ) -> None:
        super().__init__(
            camera=camera,
            encoder_id=encoder_id,
            num_patches=num_patches,
            feature_dim=feature_dim,
            hidden_dim=hidden_dim,
            num_outputs=1,
            patch_dim=patch_dim,
            dropout=dropout,
            num_buckets=num_buckets,
            more_cameras=more_cameras,
            state_dim=state_dim,
            head_layers=head_layers,
        )

    def forward(
        self,
        features: Float[Tensor, "b t p d"],
        task: Sequence[str],
        state: Float[Tensor, "b t s"] | None = None,
    ) -> RankedOutput:
        """Predict from patch features, one instruction per window and perhaps the robot state."""
        value = self.read(features, task, state).squeeze(-1)
        return RankedOutput(value, value.float().sigmoid())


class LinearTimeModel(nn.Module):
    """Baseline: progress is the time since the episode began, whatever the camera shows.

    Args:
        mean_length: Mean length of the training episodes in frames, greater than 1.
    """

    def __init__(self, *, mean_length: float) -> None:
        super().__init__()
        linear_time_progress(1, mean_length)
        self.mean_length = mean_length
        self._frames_seen: Tensor | None = None

    def compute_progress(self, batch: ProgressBatch) -> Float[Tensor, "b t"]:
        """Progress from ``frame_index`` (b, t), or from the position in the window without it."""
        if "frame_index" in batch:
            return self._clock(torch.as_tensor(batch["frame_index"]))
        windows = [v for k, v in batch.items() if k.startswith("observation.") and v.ndim >= 3]
        if not windows:
            raise KeyError(f"Expected 'frame_index' or windows, got the keys {sorted(batch)}.")
        b, t = windows[0].shape[:2]
        return self._clock(torch.arange(t)).expand(b, t)

    def compute_reward(self, batch: ProgressBatch) -> Float[Tensor, " b"]:
        """Progress of the last frame of each window."""
        return self.compute_progress(batch)[:, -1]

    def reset(self, env_mask: Any = None) -> None:
        """Start a new episode in the environments of ``env_mask`` ``(n,)``; in all if None."""
        if env_mask is None:
            self._frames_seen = None
        elif self._frames_seen is not None:
            self._frames_seen[torch.as_tensor(env_mask, dtype=torch.bool)] = 0

    def progress(self, obs: Observation) -> Float[Tensor, " n"]:
        """Progress of the newest frame; each call counts one frame."""
        n = len(obs["task"])
        if self._frames_seen is None:
            self._frames_seen = torch.zeros(n, dtype=torch.long)
        if len(self._frames_seen) != n:
            raise ValueError(
                f"Got {n} environments after {len(self._frames_seen)}; call `reset()` first."
            )
        progress = self._clock(self._frames_seen)
        self._frames_seen += 1
        return progress

    def _clock(self, frame: Tensor) -> Tensor:
        return (frame / (self.mean_length - 1)).clamp(0.0, 1.0)
