"""What all models over frozen features share: cameras, the encoder, checked inputs, inference."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from value_models.networks import InstructionEmbedding, StateEmbedding
from value_models.pretrained import PretrainedModule
from value_models.types import FrameEncoder, ProgressBatch

STATE_KEY = "observation.state"
FRAMES_PER_CALL = 128
"""Frames per window that are encoded and evaluated at once, to bound memory."""


class CameraFrames(NamedTuple):
    """Frames of one camera, as pixels or encoded."""

    values: Tensor
    is_encoded: bool


class FrozenFeatureModel(PretrainedModule):
    """A model over the patch features of a frozen encoder.

    The encoder is attached, not owned: `state_dict` and saved folders hold its id only.

    Args:
        camera: Camera that the model looks through.
        more_cameras: Others; their patches follow those of the first.
        encoder_id: ``encoder_id`` of the encoder that made the features it was trained on.
        num_patches: Patches per frame of one camera.
        feature_dim: Width of a patch feature.
        state_dim: Width of ``observation.state``; 0 leaves it out.
    """

    def __init__(
        self,
        *,
        camera: str,
        more_cameras: Sequence[str],
        encoder_id: str,
        num_patches: int,
        feature_dim: int,
        state_dim: int,
    ) -> None:
        super().__init__()
        check_sizes(num_patches=num_patches, feature_dim=feature_dim)
        if state_dim < 0:
            raise ValueError(f"Expected `state_dim` of at least 0, got {state_dim}.")
        self.state_dim = state_dim
        self.camera = camera
        self.cameras = (camera, *more_cameras)
        if len(set(self.cameras)) < len(self.cameras):
            raise ValueError(f"Expected different cameras, got {list(self.cameras)}.")
        self.encoder_id = encoder_id
        self.feature_shape = (num_patches * len(self.cameras), feature_dim)
        self._encoder: FrameEncoder | None = None

    def attach_encoder(self, encoder: FrameEncoder) -> Self:
        """Use ``encoder`` for frames; it stays on its own device and is never saved.

        Raises:
            ValueError: If it is not the encoder that the model was trained with.
        """
        if encoder.encoder_id != self.encoder_id:
            raise ValueError(
                f"The model was trained on features of encoder {self.encoder_id!r}, got encoder "
                f"{encoder.encoder_id!r}; attach the former or train again on the latter."
            )
        # Past nn.Module.__setattr__, which would register the encoder's weights as our own.
        object.__setattr__(self, "_encoder", encoder)
        return self

    def for_streaming(
        self, *, dtype: torch.dtype | None = None, compile_model: bool = False
    ) -> Self:
        """Make a trained model cheaper to run, in eval mode; the encoder stays as it is.

        Args:
            dtype: Of weights and arithmetic, such as ``torch.bfloat16``; progress stays float32.
            compile_model: Run its parts through `torch.compile`; the first calls of each shape
                take seconds, and a CPU needs a C++ compiler.

        Raises:
            ValueError: If ``dtype`` is not a floating point type.
        """
        if dtype is not None and not dtype.is_floating_point:
            raise ValueError(f"Expected a floating point `dtype`, got {dtype}.")
        self.eval().to(dtype)
        self.reset()
        for child in self._parts() if compile_model else ():
            child.compile()
        return self

    def reset(self, env_mask: Any = None) -> None:
        """Forget the history of the environments in ``env_mask`` ``(n,)``; all when None."""

    def _parts(self) -> Iterator[nn.Module]:
        """What is compiled: not the lookup of words, which is no tensor arithmetic."""
        for child in self.children():
            if isinstance(child, FrozenFeatureModel):
                yield from child._parts()
            elif isinstance(child, nn.ModuleDict):
                yield from child.values()
            elif not isinstance(child, (InstructionEmbedding, nn.Embedding)):
                yield child

    def read_features(self, batch: ProgressBatch) -> Float[Tensor, "b t p d"]:
        """Return the features of all cameras of a batch of windows; encode frames if need be."""
        return self._encoded(self._frames(batch, num_axes=0))

    def read_state(self, batch: ProgressBatch, *, num_axes: int = 0) -> Tensor | None:
        """Return ``observation.state`` (b, t, s), or None if the model has none.

        Raises:
            KeyError: If the model reads a state and the batch has none.
            ValueError: If its width is another one.
        """
        if not self.state_dim:
            return None
        if STATE_KEY not in batch:
            raise KeyError(f"Expected {STATE_KEY!r}, got the keys {sorted(batch)}.")
        state = as_tensor(batch[STATE_KEY], STATE_KEY, 3 - num_axes)
        if state.shape[-1] != self.state_dim:
            raise ValueError(
                f"Expected {STATE_KEY!r} of width {self.state_dim}, got {state.shape[-1]}."
            )
        like = next(self.parameters())
        return state.to(device=like.device, dtype=like.dtype)

    def fit_state(self, states: Float[Tensor, "n s"]) -> None:
        """Normalise robot states by those of the training data, unless that has happened before.

        `Trainer.fit` does this by itself.
        """
        for part in self.modules():
            if isinstance(part, StateEmbedding) and not part.is_fitted:
                part.fit(states)

    def _frames(self, batch: ProgressBatch, *, num_axes: int) -> list[CameraFrames]:
        """Read the frames of each camera: features if the batch has them, else pixels."""
        found = [self._camera_frames(batch, camera, num_axes) for camera in self.cameras]
        shapes = {frames.values.shape[: 2 - num_axes] for frames in found}
        if len(shapes) > 1:
            raise ValueError(f"The cameras differ in batch or length: {sorted(shapes)}.")
        return found

    def _camera_frames(self, batch: ProgressBatch, camera: str, num_axes: int) -> CameraFrames:
        features_key = f"observation.features.{camera}"
        images_key = f"observation.images.{camera}"
        if features_key in batch:
            return CameraFrames(
                as_tensor(batch[features_key], features_key, 4 - num_axes), is_encoded=True
            )
        if images_key not in batch:
            raise KeyError(
                f"Expected {images_key!r} or {features_key!r}, got the keys {sorted(batch)}."
            )
        frames = as_tensor(batch[images_key], images_key, 5 - num_axes)
        if frames.dtype != torch.uint8:
            raise TypeError(f"Expected uint8 RGB frames in {images_key!r}, got {frames.dtype}.")
        return CameraFrames(frames, is_encoded=False)

    def _encoded(self, cameras: Sequence[CameraFrames]) -> Float[Tensor, "b t p d"]:
        parts = [c.values if c.is_encoded else self._encode(c.values) for c in cameras]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)

    def _encode(self, frames: Tensor) -> Tensor:
        if self._encoder is None:
            raise ValueError(
                f"No encoder is attached, so frames cannot be encoded: call "
                f"`attach_encoder` with encoder {self.encoder_id!r}, or pass "
                f"'observation.features.{self.camera}'."
            )
        return self._encoder.encode(frames)

    def _checked(self, features: Tensor, like: Tensor) -> Tensor:
        """Refuse features of another shape; move the others to the weights."""
        if tuple(features.shape[-2:]) != self.feature_shape:
            raise ValueError(
                f"Expected features of (patches, dim) {self.feature_shape}, got "
                f"{tuple(features.shape[-2:])}: they come from another encoder or image size."
            )
        return features.to(device=like.device, dtype=like.dtype)


@contextmanager
def inference(module: nn.Module) -> Iterator[None]:
    """Evaluate without gradients, and go back to the mode that the module was in."""
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        module.train(was_training)


def check_sizes(**sizes: int) -> None:
    """Raise a ValueError that names the first of ``sizes`` that is less than 1."""
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"Expected `{name}` of at least 1, got {value}.")


def as_tensor(value: Any, key: str, ndim: int) -> Tensor:
    """Return an array as a tensor of ``ndim`` axes, or raise a ValueError that names ``key``."""
    # A read-only array (a decoded frame, say) shared with torch would be undefined if written.
    if isinstance(value, np.ndarray) and not value.flags.writeable:
        value = value.copy()
    tensor = torch.as_tensor(value)
    if tensor.ndim != ndim:
        raise ValueError(f"Expected {ndim} axes in {key!r}, got shape {tuple(tensor.shape)}.")
    return tensor


def read_instructions(batch: ProgressBatch, num: int) -> list[str]:
    """Return the ``num`` instructions of a batch, or raise an error that says what is wrong."""
    task = batch["task"]
    if isinstance(task, str):
        raise TypeError(f"Expected a list of {num} instructions in 'task', got {task!r}.")
    if len(task) != num:
        raise ValueError(f"Expected {num} instructions in 'task', got {len(task)}.")
    return [str(text) for text in task]
