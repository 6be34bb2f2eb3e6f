"""What progress-labels consumes (an encoder, episodes) and produces (labels per frame)."""

from typing import NamedTuple, Protocol, TypedDict

import numpy as np
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

SCHEMA_VERSION = 1
"""Version of the label sidecar; a reader refuses any other."""


class FrameEncoder(Protocol):
    """A frozen network that turns frames into patch features."""

    @property
    def encoder_id(self) -> str:
        """Name and revision or weight hash: two encoders with one id give equal features."""
        ...

    def encode(self, frames: UInt8[Tensor, "b t h w 3"]) -> Float[Tensor, "b t p d"]:
        """Encode each frame on its own, deterministically, on the encoder's device."""
        ...


class Episode(TypedDict):
    """One recorded episode, one camera."""

    episode_index: int
    index: NDArray[np.int64]
    """``(t,)``: row of each frame in the whole dataset."""
    frames: UInt8[Tensor, "t h w 3"]
    """RGB."""
    state: Float[Tensor, "t p"]
    action: Float[Tensor, "t a"]
    task: str
    success: bool


class EpisodeLabels(NamedTuple):
    """Progress of every frame of one episode; NaN where it is not known."""

    progress: NDArray[np.float32]
    """``(t,)`` in [0, 1] (Feat2Go, Eq. 3)."""
    stage: NDArray[np.int32]
    """``(t,)``, 0 … num_stages − 1, contiguous; −1 where not known."""
    num_stages: int
    similarity: NDArray[np.float32]
    """``(t,)`` similarity to the terminal frame (Feat2Go, Eq. 1)."""
