"""What one environment of a benchmark looks like to the rest of the package."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray


class EnvChunk(NamedTuple):
    """What happened while one environment executed a chunk of ``k`` primitive actions."""

    observation: dict[str, Any]
    """After the last executed step, unbatched."""
    reward: NDArray[np.float32]
    """``(k,)``, zero where ``valid`` is false."""
    terminated: NDArray[np.bool_]
    """``(k,)``, true at the step that ended the episode by success or failure."""
    truncated: NDArray[np.bool_]
    """``(k,)``, true at the step that met the time limit without terminating."""
    valid: NDArray[np.bool_]
    """``(k,)``, true for a leading run of executed steps, false after the episode's end."""
    success: NDArray[np.bool_]
    """``(k,)``, true at each executed step whose resulting state is a success."""


class Environment(Protocol):
    """One environment with one episode at a time.

    An observation is a dict with ``observation.images.<camera>`` uint8 ``(h, w, 3)`` RGB,
    ``observation.state`` float32 ``(p,)`` and ``task``, the instruction.
    """

    env_id: str
    """``<family>:<name>``."""
    observation_space: spaces.Dict
    """Boxes of the images and the state; ``task`` is free text and has no space."""
    action_space: spaces.Box
    """``(a,)`` float32."""
    max_episode_steps: int
    """Time limit in primitive steps."""
    fps: int
    """Primitive steps per second of simulated time."""
    versions: dict[str, str]
    """Versions of the simulator, for the record.

    An environment may also declare ``action_spec``, a `specs.ActionSpec`.
    """

    def reset(self, seed: int) -> dict[str, Any]:
        """Start the episode that ``seed`` determines and return its first observation.

        What follows may depend on nothing but the seed and the actions, so that an episode is the
        same in whatever process and order it is run.
        """
        ...

    def step_chunk(self, actions: NDArray[np.float32]) -> EnvChunk:
        """Execute ``actions`` ``(k, a)`` one after the other, stopping at the episode's end."""
        ...

    def close(self) -> None:
        """Free the simulator."""
        ...


def check_failure(env_id: str, failure: str | None, known: Sequence[str]) -> None:
    """Raise if a scripted expert cannot fail in this way.

    Args:
        env_id: Named in the message.
        failure: Asked of the expert; None asks for none.
        known: What it can be asked for.

    Raises:
        ValueError: If ``failure`` is neither None nor in ``known``.
    """
    if failure is not None and failure not in known:
        raise ValueError(f"unknown `failure` {failure!r}; {env_id} has {list(known)}")


class Expert(Protocol):
    """A scripted controller that reads the environment's state."""

    @property
    def phases(self) -> Mapping[str, str]:
        """Primitive (see `functional.primitives`) that each phase of the plan belongs to."""
        ...

    def reset(self) -> None:
        """Plan for the episode that has just begun; called after the environment's reset."""
        ...

    def act(self) -> tuple[NDArray[np.float32], str]:
        """Return the next primitive action ``(a,)`` and the phase of the plan it belongs to."""
        ...


class ScriptedEnvironment(Environment, Protocol):
    """An environment that comes with a scripted expert and can be recorded."""

    failure_modes: tuple[str, ...]
    """Ways in which the expert can be told to fail; recordings draw from them."""
    perturbations: tuple[str, ...]
    """Those and further things that can be asked for, such as a fumble with a recovery."""

    def make_expert(self, *, noise: float, failure: str | None, rng: np.random.Generator) -> Expert:
        """Build the expert.

        Args:
            noise: Standard deviation of the noise on the actions, in action units; where these are
                metres (``put_on_plate``) in units of 0.1 m.
            failure: One of ``perturbations``, or None for an attempt that should succeed.
            rng: Source of all randomness of the expert.
        """
        ...
