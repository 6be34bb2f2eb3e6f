"""Whole episodes of a policy in vector environments, as one flat batch of decisions."""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import torch
from torch import Generator
from tqdm import tqdm

from vla_rl.decisions import Rollout
from vla_rl.types import Policy, ProgressModel, VecEnv
from vla_rl.wave import OnStep, Play, Wave, join_waves

ProgressAt = Literal["failures", "decisions"]
"""Which states a progress model is asked about: how failed episodes ended, or every state."""

Environments = VecEnv | Sequence[VecEnv]
"""One vector of environments, or several that are stepped while the policy acts for another."""

ProgressModels = ProgressModel | Sequence[ProgressModel]
"""One progress model, or as many as there are vectors of environments."""


@torch.no_grad()
def collect_episodes(  # noqa: PLR0913  # options of a rollout, by name
    policy: Policy,
    env: Environments,
    seeds: Sequence[int],
    *,
    generator: Generator | None = None,
    deterministic: bool = False,
    gamma: float = 0.99,
    progress_model: ProgressModels | None = None,
    progress_at: ProgressAt = "failures",
    bootstrap: bool = True,
    on_step: OnStep | None = None,
    progress_bar: bool = False,
) -> Rollout:
    """Play one whole episode per seed, ``env.num_envs`` at a time.

    Every wave resets all environments with explicit seeds and ends when each has finished its
    first episode; what an environment does after that is ignored, so it does not matter whether it
    resets itself. The last wave is filled up with repeated seeds whose episodes are dropped.

    Of several vectors of environments each steps in a thread of its own while the policy acts for
    the others; that pays where they wait for simulators in other processes or on another device.
    The policy acts for them in turns, so how fast they answer makes no difference to the episodes.

    Args:
        policy: Acts on all environments; only decisions of running episodes are kept.
        env: Must report ``info["success"]`` ``(n, k)``, and the final observation of episodes that
            ended as ``info["final_obs"]`` with the mask ``info["_final_obs"]``
            (``final_observation`` is accepted too).
        seeds: Episode seeds.
        generator: Source of the policy's samples.
        deterministic: Act greedily.
        gamma: Discount per primitive step, in [0, 1].
        progress_model: If given, predicts progress.
        progress_at: Of the final observation of ``failures``, one batch per wave and without
            history; or of the states of all ``decisions`` and final observations, one batch of all
            environments per chunk, with the history that the model keeps. The latter needs a model
            for each vector of environments.
        bootstrap: Ask the critic, if there is one, for the value of the final observations of
            truncated episodes; without, their ``next_value`` is 0.
        on_step: Observer of every chunk.
        progress_bar: Show one, counted in episodes.

    Raises:
        ValueError: If there are no seeds, environments or models, the environment's answer does not
            fit the policy's chunk, a reward or progress is not finite, or a final observation is
            missing.
    """
    if not len(seeds):
        raise ValueError("Expected at least one seed, got none.")
    envs = list(env) if isinstance(env, Sequence) else [env]
    models = _one_each(progress_model, len(envs), progress_at)
    remaining: deque[int] = deque(seeds)
    waves: list[Wave] = []  # waves in the order of their seeds

    def play(env: VecEnv, model: ProgressModel | None, bar: "tqdm[Any]") -> Play:
        while remaining:
            chosen = [remaining.popleft() for _ in range(min(env.num_envs, len(remaining)))]
            wave = Wave(policy, env, chosen, gamma, model if progress_at == "decisions" else None)
            waves.append(wave)
            yield from wave.play(
                generator,
                deterministic=deterministic,
                on_step=on_step,
                bar=bar,
                model_of_ends=model if progress_at == "failures" else None,
                bootstrap=bootstrap,
            )

    with tqdm(total=len(seeds), desc="episodes", disable=not progress_bar, leave=False) as bar:
        _take_turns([play(*pair, bar) for pair in zip(envs, models, strict=True)])
    return join_waves(waves)


def _take_turns(plays: Sequence[Play]) -> None:
    """Let each environment answer in a thread of its own while the policy acts for the others.

    Always in the same order, whichever answers first: the policy's samples depend on it. One
    environment alone answers in the calling thread.
    """
    with ThreadPoolExecutor(len(plays)) as threads:
        turns: deque[tuple[Play, Callable[[], Any]]] = deque((p, _nothing) for p in plays)
        while turns:
            play, answer = turns.popleft()
            try:
                call = play.send(answer())
            except StopIteration:
                continue
            turns.append((play, call if len(plays) == 1 else threads.submit(call).result))


def _nothing() -> None:
    """Start a generator."""


def _one_each(
    models: ProgressModels | None, count: int, progress_at: ProgressAt
) -> list[ProgressModel | None]:
    """Return a progress model for each environment; one that keeps no history serves them all."""
    if count == 0:
        raise ValueError("Expected at least one vector of environments, got none.")
    if not isinstance(models, Sequence):
        if models is not None and progress_at == "decisions" and count > 1:
            raise ValueError(
                f"Expected a list of {count} progress models, as many as there are vectors of "
                "environments whose history they keep, got one."
            )
        return [models] * count
    if len(models) != count:
        raise ValueError(
            f"Expected {count} progress models, as many as there are vectors of environments, got "
            f"{len(models)}."
        )
    return list(models)
