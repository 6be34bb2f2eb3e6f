"""What value-models consumes (an encoder, labelled episodes) and produces (progress)."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from jaxtyping import Float, UInt8
from torch import Tensor

ProgressEpisode = Mapping[str, Any]
"""One labelled episode under LeRobot's key names.

``observation.images.<camera>``: uint8 ``(t, h, w, 3)`` RGB; ``task``: str; ``episode_index``: int;
``success``: bool; ``progress``: float32 ``(t,)`` in [0, 1], NaN where it is not known.
"""

ProgressBatch = Mapping[str, Any]
"""A batch of windows under LeRobot's key names.

``observation.images.<camera>``: uint8 ``(b, t, h, w, 3)``, or already encoded
``observation.features.<camera>``: float ``(b, t, p, d)``; ``task``: list of ``b`` instructions;
``progress``: float32 ``(b, t)``, NaN where unknown (training only); ``observation.state``: float
``(b, t, s)`` for models that read the robot's state.
"""

Observation = Mapping[str, Any]
"""``observation.images.<camera>``: uint8 ``(n, h, w, 3)``; ``task``: list of ``n`` instructions;
``observation.state``: ``(n, s)`` for models that read it."""


class FrameEncoder(Protocol):
    """A frozen network that turns frames into patch features."""

    @property
    def encoder_id(self) -> str:
        """Name and revision or weight hash: two encoders with one id give equal features."""
        ...

    def encode(self, frames: UInt8[Tensor, "b t h w 3"]) -> Float[Tensor, "b t p d"]:
        """Encode each frame on its own, deterministically, on the encoder's device."""
        ...


class ProgressOutput(NamedTuple):
    """A distribution over progress and its mean."""

    logits: Float[Tensor, "b t bins"]
    progress: Float[Tensor, "b t"]
    """Expectation over the bin centres, in [0, 1]."""


class ProgressModel(Protocol):
    """What every value model of this package offers."""

    def compute_progress(self, batch: ProgressBatch) -> Float[Tensor, "b t"]:
        """Progress in [0, 1] of every frame of a batch of windows."""
        ...

    def compute_reward(self, batch: ProgressBatch) -> Float[Tensor, " b"]:
        """Progress of the last frame of each window (LeRobot's reward-model meaning)."""
        ...

    def reset(self, env_mask: Any = None) -> None:
        """Forget the history of the environments in ``env_mask`` ``(n,)``; all when None."""
        ...

    def progress(self, obs: Observation) -> Float[Tensor, " n"]:
        """Progress in [0, 1] of the newest frame of each environment."""
        ...
