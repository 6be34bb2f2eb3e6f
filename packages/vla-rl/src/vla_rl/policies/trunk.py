"""What the small policies see with: images, state and an instruction to one vector of features."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vla_rl.observations import image_key, require, to_tensor
from vla_rl.policies.instructions import NUM_BUCKETS, hash_words
from vla_rl.policies.vision import ImageEncoder, random_shift

_TEXT_DIM = 32
_STATE_DIM = 64


class ObservationTrunk(nn.Module):
    """One convolutional encoder per camera, one for the state, a bag of words, and their fusion."""

    state_mean: Tensor
    state_std: Tensor

    def __init__(
        self,
        *,
        cameras: Sequence[str],
        state_dim: int,
        image_size: int,
        state_mean: Sequence[float] | None,
        state_std: Sequence[float] | None,
        channels: Sequence[int],
        image_dim: int,
        hidden_dim: int,
        normalize: bool,
    ) -> None:
        """Build the network.

        Args:
            cameras: Names of the cameras it reads, ``observation.images.<name>``; may be empty.
            state_dim: Width of ``observation.state``.
            image_size: Height and width of the images, a multiple of 8.
            state_mean: Subtracted from the state; zeros when None.
            state_std: Divides the state; ones when None. Constant entries may be 0.
            channels: Channels after each of the three halvings of the image.
            image_dim: Features per camera.
            hidden_dim: Width of the fused features.
            normalize: See `ImageEncoder`; the fused features have a norm, too.

        Raises:
            ValueError: If a size is not positive or a list has the wrong length.
        """
        super().__init__()
        _check(image_size, cameras, len(channels))
        self.cameras, self.image_size, self.state_dim = list(cameras), image_size, state_dim
        mean = as_vector(0.0 if state_mean is None else state_mean, state_dim, "state_mean")
        std = as_vector(1.0 if state_std is None else state_std, state_dim, "state_std")
        # Not in the weights: policies keep them in config.json.
        self.register_buffer("state_mean", mean, persistent=False)
        self.register_buffer("state_std", torch.where(std > 1e-6, std, 1.0), persistent=False)
        self.image_encoders = nn.ModuleList(
            ImageEncoder(
                channels=channels,
                image_size=image_size,
                text_dim=_TEXT_DIM,
                out_dim=image_dim,
                normalize=normalize,
            )
            for _ in self.cameras
        )
        # Each input has a norm of its own: under one norm over all of them, thousands of pixels
        # drown the few numbers of the state, which alone may tell where the goal is.
        self.state_encoder = nn.Sequential(
            nn.Linear(state_dim, 256),
            nn.ReLU(),
            nn.Linear(256, _STATE_DIM),
            nn.LayerNorm(_STATE_DIM),
        )
        self.word_embedding = nn.EmbeddingBag(NUM_BUCKETS, _TEXT_DIM, mode="mean", padding_idx=0)
        fused_dim = len(self.cameras) * image_dim + _STATE_DIM + _TEXT_DIM
        self.fusion = nn.Sequential(
            nn.Linear(fused_dim, hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, hidden_dim),
            nn.ReLU(),
            # Else they are so small at first that what is decoded from them hardly depends on them.
            *([nn.LayerNorm(hidden_dim)] if normalize else []),
        )

    def read(self, obs: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return what the network reads of an observation, checked, as tensors on its device.

        Raises:
            ValueError: If an image, the state or the task is missing or has another shape.
        """
        device = self.state_mean.device
        state = to_tensor(require(obs, "observation.state"), device).to(torch.float32)
        tasks = list(require(obs, "task"))
        if state.shape != (len(tasks), self.state_dim):
            raise ValueError(
                f"Expected `observation.state` of shape ({len(tasks)}, {self.state_dim}) for "
                f"{len(tasks)} tasks, got {tuple(state.shape)}."
            )
        size = (len(tasks), self.image_size, self.image_size, 3)
        inputs = {"observation.state": state, "task_tokens": hash_words(tasks).to(device)}
        for camera in self.cameras:
            image = to_tensor(require(obs, image_key(camera)), device)
            if image.shape != size or image.dtype != torch.uint8:
                raise ValueError(
                    f"Expected `{image_key(camera)}` uint8 of shape {size}, "
                    f"got {image.dtype} of shape {tuple(image.shape)}."
                )
            inputs[image_key(camera)] = image
        return inputs

    def shift_images(self, inputs: dict[str, Tensor], *, max_pixels: int) -> dict[str, Tensor]:
        """Return ``inputs`` with images shifted at random, while training; see `random_shift`."""
        if not self.training or not max_pixels:
            return inputs
        keys = [image_key(camera) for camera in self.cameras]
        return inputs | {key: random_shift(inputs[key], max_pixels=max_pixels) for key in keys}

    def forward(self, inputs: Mapping[str, Tensor]) -> Float[Tensor, "n hidden"]:
        """Return the features of what `read` returned."""
        device = self.state_mean.device
        state = (inputs["observation.state"].to(device) - self.state_mean) / self.state_std
        text = self.word_embedding(inputs["task_tokens"].to(device))
        features = [
            encoder(inputs[image_key(camera)].to(device), text)
            for camera, encoder in zip(self.cameras, self.image_encoders, strict=True)
        ]
        features.append(self.state_encoder(state.clamp(-10.0, 10.0)))
        fused: Tensor = self.fusion(torch.cat([*features, text], dim=-1))
        return fused


def as_vector(value: float | Sequence[float], size: int, name: str) -> Float[Tensor, " size"]:
    """Return one number, repeated, or as many as ``size``.

    Raises:
        ValueError: If there are more or fewer, or one is not finite.
    """
    vector = torch.as_tensor(value, dtype=torch.float32)
    if vector.ndim == 0:
        vector = vector.repeat(size)
    if vector.shape != (size,) or not bool(vector.isfinite().all()):
        raise ValueError(f"Expected `{name}` to be one finite number or {size}, got {value!r}.")
    return vector


def _check(image_size: int, cameras: Sequence[str], num_channels: int) -> None:
    if image_size < 8 or image_size % 8:
        raise ValueError(f"Expected `image_size` to be a positive multiple of 8, got {image_size}.")
    if isinstance(cameras, str) or len(set(cameras)) != len(cameras):
        raise ValueError(f"Expected `cameras` to list distinct names, got {cameras!r}.")
    if num_channels != 3:
        raise ValueError(f"Expected three numbers in `channels`, got {num_channels}.")
