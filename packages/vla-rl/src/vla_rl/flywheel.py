"""Episodes that a policy plays become a data set to learn from: the flywheel."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from vla_rl.decisions import Rollout
from vla_rl.observations import concat_rows, replace_rows, select_rows, to_tensor
from vla_rl.rollout import collect_episodes
from vla_rl.types import ActOutput, ChunkStep, EpisodeSink, Observation, Policy, VecEnv
from vla_rl.wave import final_observation

_IMAGES = "observation.images."


def record_episodes(
    policy: Policy,
    env: VecEnv,
    seeds: Sequence[int],
    sink: EpisodeSink,
    *,
    generator: torch.Generator | None = None,
    deterministic: bool = False,
    only_successes: bool = False,
    progress_bar: bool = False,
) -> Rollout:
    """Play one episode per seed and hand each to ``sink``, in the order of the seeds.

    Actions are executed one by one, so that every state is seen; the episodes are those that
    `collect_episodes` would play.

    Args:
        policy: Acts.
        env: Environments; see `collect_episodes`.
        seeds: Episode seeds.
        sink: Receives episodes, such as ``bench_adapters.recorder.DatasetRecorder``.
        generator: Source of the policy's samples.
        deterministic: Act greedily.
        only_successes: Hand over no episode whose last step was not a success.
        progress_bar: Show one, counted in episodes.

    Returns:
        All episodes that were played.
    """
    recording = _Recording(sink, only_successes=only_successes)
    return collect_episodes(
        policy,
        StepwiseEnv(env, recording),
        seeds,
        generator=generator,
        deterministic=deterministic,
        on_step=recording.on_step,
        progress_bar=progress_bar,
    )


class StepwiseStep(NamedTuple):
    """A `vla_rl.types.ChunkStep` that also holds the observations between its actions."""

    observation: Observation
    reward: NDArray[np.float32]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    valid: NDArray[np.bool_]
    info: dict[str, Any]
    before: list[Observation]
    """What was observed before each of the ``k`` actions."""


class StepwiseEnv:
    """Steps another environment one action at a time; chunks come out the same."""

    def __init__(self, env: VecEnv, recording: "_Recording | None" = None) -> None:
        """Wrap ``env``; ``recording`` is told the seeds of resets."""
        self.env, self.num_envs = env, env.num_envs
        self._recording = recording
        self._observation: Observation = {}

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, Any]:
        """Start an episode in every environment."""
        self._observation, info = self.env.reset(seed=seed, options=options)
        if self._recording is not None and isinstance(seed, Sequence):
            self._recording.start(seed)
        return self._observation, info

    def step_chunk(self, actions: Any) -> StepwiseStep:
        """Execute ``actions`` ``(n, k, a)``, one after the other."""
        steps: list[ChunkStep] = []
        before: list[Observation] = []
        ended, final = np.zeros(self.num_envs, dtype=np.bool_), dict[str, Any]()
        for i in range(actions.shape[1]):
            before.append(self._observation)
            step = self.env.step_chunk(actions[:, i : i + 1])
            steps.append(step)
            self._observation = step.observation
            now = _column(step.terminated) | _column(step.truncated)
            rows = torch.from_numpy(np.flatnonzero(now & ~ended))
            if len(rows):
                final = replace_rows(
                    final or step.observation, rows, final_observation(step.info, rows)
                )
            ended |= now
        joined = {
            name: np.stack([_column(getattr(step, name)) for step in steps], 1)
            for name in ("reward", "terminated", "truncated", "valid")
        }
        info: dict[str, Any] = {"_final_obs": ended, "final_obs": final or self._observation}
        info["success"] = np.stack([_column(step.info["success"]) for step in steps], 1)
        return StepwiseStep(observation=self._observation, info=info, before=before, **joined)


class _Recording:
    """Steps of episodes that are being played, one list per environment."""

    def __init__(self, sink: EpisodeSink, *, only_successes: bool) -> None:
        self._sink, self._only_successes = sink, only_successes
        self._seeds: list[int] = []

    def start(self, seeds: Sequence[int]) -> None:
        """Begin a wave of episodes."""
        self._seeds = list(seeds)
        self._steps: list[list[dict[str, Any]]] = [[] for _ in seeds]
        self._over = [False] * len(seeds)
        self._next = 0

    def on_step(
        self, obs: Observation, decision: ActOutput, step: ChunkStep, live: torch.Tensor
    ) -> None:
        """Keep what running episodes saw and did; see `vla_rl.wave.OnStep`."""
        assert isinstance(step, StepwiseStep)
        actions = decision.actions.cpu().numpy()
        over = step.terminated | step.truncated
        for env in live.nonzero()[:, 0].tolist():
            for i in range(actions.shape[1]):
                if self._over[env] or not step.valid[env, i]:
                    break
                self._steps[env].append(
                    {
                        **select_rows(step.before[i], [env]),
                        "action": actions[env, i][None],
                        "reward": step.reward[env, i : i + 1],
                        "success": step.info["success"][env, i : i + 1],
                        "done": over[env, i : i + 1],
                    }
                )
                self._over[env] = bool(over[env, i])
        while self._next < len(self._over) and self._over[self._next]:
            self._hand_over(self._next)
            self._next += 1

    def _hand_over(self, env: int) -> None:
        columns, self._steps[env] = concat_rows(self._steps[env]), []
        columns = {k: v if k == "task" else to_tensor(v).cpu().numpy() for k, v in columns.items()}
        if self._only_successes and not columns["success"][-1]:
            return
        self._sink.add_episode(
            {k.removeprefix(_IMAGES): v for k, v in columns.items() if k.startswith(_IMAGES)},
            state=columns["observation.state"].astype(np.float32),
            action=columns["action"].astype(np.float32),
            reward=columns["reward"].astype(np.float32),
            success=columns["success"].astype(np.bool_),
            done=columns["done"].astype(np.bool_),
            task=columns["task"][0],
            seed=self._seeds[env],
        )


def _column(value: Any) -> NDArray[Any]:
    """Return the one step of a chunk, ``(n,)``."""
    column: NDArray[Any] = to_tensor(value).cpu().numpy()[:, 0]
    return column
