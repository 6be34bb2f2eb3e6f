"""What bench-adapters produces (environments, results) and the one thing it consumes (a policy)."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Observation = dict[str, Any]
"""A batch of ``n`` observations under LeRobot's key names.

``observation.images.<camera>``: uint8 ``(n, h, w, 3)`` RGB; ``observation.state``: float32
``(n, p)``; ``task``: list of ``n`` instructions.
"""

Info = dict[str, Any]
"""Extra facts about a step. Arrays have ``n`` rows; a mask of the same name with a leading
underscore says which rows mean something (gymnasium's convention)."""


class ChunkStep(NamedTuple):
    """What happened while ``n`` environments executed a chunk of ``k`` primitive actions."""

    observation: Observation
    """After the chunk. A frame is rendered once per chunk, not once per primitive step."""
    reward: NDArray[np.float32]
    """``(n, k)``, zero where ``valid`` is false."""
    terminated: NDArray[np.bool_]
    """``(n, k)``, true at the primitive step that ended an episode by success or failure."""
    truncated: NDArray[np.bool_]
    """``(n, k)``, true at the primitive step that met the time limit without terminating."""
    valid: NDArray[np.bool_]
    """``(n, k)``, false for actions after the episode's end: those are not executed."""
    info: Info
    """``success`` ``(n, k)`` bool; ``final_obs`` (an `Observation` of ``n`` rows) and mask
    ``_final_obs`` ``(n,)`` bool for the environments whose episode ended in this chunk."""


class VectorEnv(Protocol):
    """``n`` environments stepped together; gymnasium's vector API plus `step_chunk`.

    ``metadata["autoreset_mode"]`` declares what happens after an episode's end. Ours are
    ``AutoresetMode.DISABLED``: an ended environment executes nothing until it is reset.
    """

    num_envs: int
    metadata: dict[str, Any]
    max_episode_steps: int

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, Info]:
        """Start new episodes.

        Args:
            seed: One seed per environment; an int ``s`` means ``s, s + 1, …``.
            options: ``{"reset_mask": (n,) bool}`` restarts only those; their seeds are read at the
                same positions of ``seed``.
        """
        ...

    def step_chunk(self, actions: NDArray[np.float32]) -> ChunkStep:
        """Execute ``actions`` ``(n, k, a)`` one primitive step after the other."""
        ...

    def close(self) -> None:
        """Free simulators and worker processes."""
        ...


class ActOutput(Protocol):
    """The part of a policy's answer that an environment needs."""

    @property
    def actions(self) -> Any:
        """``(n, k, a)``, in the environment's own units; a tensor or an array."""
        ...


class Policy(Protocol):
    """Anything that turns observations into action chunks."""

    def act(
        self, obs: Observation, *, generator: Any = None, deterministic: bool = False
    ) -> ActOutput:
        """Choose the next ``k`` primitive actions of each environment."""
        ...


class EpisodeResult(NamedTuple):
    """How one evaluation episode went."""

    episode: int
    """Position in the list of episodes that was asked for."""
    seed: int
    success_once: bool
    """True when any step of the episode was a success."""
    success_at_end: bool
    """True when the last executed step was a success. It differs from ``success_once`` only where
    the environment goes on after a success."""
    length: int
    """Primitive steps executed."""
    episode_return: float
    """Sum of the environment's own rewards, undiscounted."""


class EpisodeError(NamedTuple):
    """An evaluation episode whose simulator failed each time it was run."""

    episode: int
    """Position in the list of episodes that was asked for."""
    seed: int
    message: str
    """One line on the last failure."""


class EvaluationResult(NamedTuple):
    """The content of an evaluation file."""

    schema_version: int
    suite: str
    env_id: str
    policy: str
    deterministic: bool
    episodes: list[EpisodeResult]
    """Those that were played to their end."""
    success_once: Mapping[str, float]
    """``count``, ``total``, ``rate``, ``low``, ``high`` (Wilson 95 %)."""
    success_at_end: Mapping[str, float]
    """As ``success_once``, for the last step."""
    versions: Mapping[str, str]
    errors: Sequence[EpisodeError] = ()
    """Episodes that no rate counts, because they say nothing about the policy."""
