"""What vla-rl consumes (environments, progress models) and produces (policies)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Generator, Tensor

Observation = Mapping[str, Any]
"""``observation.images.<camera>``: uint8 ``(n, h, w, 3)`` RGB; ``observation.state``: float32
``(n, p)``; ``task``: list of ``n`` instructions. Arrays or tensors."""

ImitationBatch = Mapping[str, Any]
"""An `Observation` plus ``action`` float32 ``(n, k, a)`` and ``action_is_pad`` bool ``(n, k)``."""


@dataclass(frozen=True, kw_only=True)
class ActOutput:
    """A policy's decision for ``n`` environments."""

    actions: Float[Tensor, "n k a"]
    """Action chunk in the environment's units."""
    log_prob: Float[Tensor, "n k a"]
    """Log-probability of each action token under the sampling distribution, float32."""
    value: Float[Tensor, " n"] | None
    """Critic's estimate of the return, where the policy has a critic."""
    replay: dict[str, Tensor]
    """All that `Policy.evaluate` needs to score the same decision again; ``n`` rows each."""


@dataclass(frozen=True, kw_only=True)
class EvaluateOutput:
    """A past decision under the present parameters."""

    log_prob: Float[Tensor, "n k a"]
    entropy: Float[Tensor, "n k a"]
    value: Float[Tensor, " n"] | None


class Policy(Protocol):
    """What the algorithms need of a policy."""

    def act(
        self,
        obs: Observation,
        *,
        generator: Generator | None = None,
        deterministic: bool = False,
    ) -> ActOutput:
        """Choose a chunk of actions; greedy when ``deterministic``."""
        ...

    def evaluate(self, replay: Mapping[str, Tensor]) -> EvaluateOutput:
        """Score decisions made earlier."""
        ...

    def imitation_loss(
        self, batch: ImitationBatch, *, reduction: Literal["none", "mean"] = "none"
    ) -> Tensor:
        """Behaviour-cloning loss per sample ``(n,)``, or its mean."""
        ...


class Regressor(Protocol):
    """A policy that only regresses actions; see `vla_rl.policies.discretized_policy`."""

    def read(self, obs: Observation) -> Mapping[str, Tensor]:
        """Return an observation as tensors of ``n`` rows each."""
        ...

    def predict(self, inputs: Mapping[str, Tensor]) -> Float[Tensor, "n k a"]:
        """Return action chunks in the environment's units, with gradients; reads no other keys."""
        ...


class LatentPolicy(Protocol):
    """A policy whose actions are a function of noise; see `vla_rl.algorithms.spiral`."""

    chunk: int
    action_dim: int

    def read(self, obs: Observation) -> Mapping[str, Tensor]:
        """Return an observation as tensors of ``n`` rows each."""
        ...

    def features(self, inputs: Mapping[str, Tensor]) -> Float[Tensor, "n f"]:
        """Return what a critic or a residual may read of it."""
        ...

    def decode(
        self, features: Float[Tensor, "n f"], latent: Float[Tensor, "n k a"]
    ) -> Float[Tensor, "n k a"]:
        """Return the chunk that standard normal noise stands for, in [-1, 1]."""
        ...


class ChunkStep(Protocol):
    """What a vector environment reports about a chunk of ``k`` primitive steps."""

    @property
    def observation(self) -> Any:
        """`Observation` after the chunk."""
        ...

    @property
    def reward(self) -> Any:
        """``(n, k)`` float."""
        ...

    @property
    def terminated(self) -> Any:
        """``(n, k)`` bool, at the step that ended an episode."""
        ...

    @property
    def truncated(self) -> Any:
        """``(n, k)`` bool, at the step that met the time limit."""
        ...

    @property
    def valid(self) -> Any:
        """``(n, k)`` bool, false where the action was not executed."""
        ...

    @property
    def info(self) -> Any:
        """``success`` ``(n, k)``, ``final_obs`` (`Observation`), ``_final_obs`` ``(n,)`` bool."""
        ...


class VecEnv(Protocol):
    """What rollouts need of a vector environment."""

    num_envs: int

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, Any]:
        """Start an episode in every environment; returns ``(observation, info)``."""
        ...

    def step_chunk(self, actions: Any) -> ChunkStep:
        """Execute ``actions`` ``(n, k, a)``."""
        ...


class ProgressModel(Protocol):
    """What reward shaping needs of a value model."""

    def reset(self, env_mask: Any = None) -> None:
        """Forget the history of the environments in ``env_mask``; all when None."""
        ...

    def progress(self, obs: Observation) -> Float[Tensor, " n"]:
        """Progress in [0, 1] of the newest frame of each environment.

        Rollouts ask once per decision, so the frames of a history are a chunk of ``k`` primitive
        steps apart. Train a model of windows with the stride counted in decisions: on frames of the
        recording that are ``k`` steps apart. With ``progress_at="failures"`` it sees the last frame
        alone, after a `reset`.
        """
        ...


class EpisodeSink(Protocol):
    """Where played episodes go, such as a writer of LeRobot data sets."""

    def add_episode(
        self,
        frames: Mapping[str, NDArray[np.uint8]],
        *,
        state: NDArray[np.float32],
        action: NDArray[np.float32],
        reward: NDArray[np.float32],
        success: NDArray[np.bool_],
        done: NDArray[np.bool_],
        task: str,
        seed: int,
    ) -> None:
        """Take an episode of ``t`` steps; row i is what was seen before action i and its outcome.

        Args:
            frames: ``(t, h, w, 3)`` RGB by camera name.
            state: ``(t, p)``.
            action: ``(t, a)``, in the environment's units.
            reward: ``(t,)``, after the action.
            success: ``(t,)``, whether the state after the action is a success.
            done: ``(t,)``, true where the action ended the episode.
            task: Instruction.
            seed: Of the episode.
        """
        ...
