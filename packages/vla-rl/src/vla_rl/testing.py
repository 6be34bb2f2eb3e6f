"""Sample makers and conformance checks; no test framework needed."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Generator

from vla_rl.policies.token_policy import TokenPolicy
from vla_rl.toy import CAMERA, TASKS, ToyProgressModel, ToyReachEnv
from vla_rl.types import ActOutput, Observation, Policy, VecEnv

__all__ = [
    "ToyProgressModel",
    "ToyReachEnv",
    "check_policy",
    "check_vec_env",
    "make_episodes",
    "make_observation",
    "make_policy",
]


def make_observation(
    n: int = 2,
    *,
    cameras: tuple[str, ...] = (CAMERA,),
    image_size: int = 16,
    state_dim: int = 2,
    seed: int = 0,
) -> dict[str, Any]:
    """Make a batch of ``n`` observations of noise."""
    rng = np.random.default_rng(seed)
    return {
        **{
            f"observation.images.{camera}": rng.integers(
                0, 256, (n, image_size, image_size, 3), dtype=np.uint8
            )
            for camera in cameras
        },
        "observation.state": rng.normal(size=(n, state_dim)).astype(np.float32),
        "task": [TASKS[i % 2] for i in range(n)],
    }


def make_episodes(
    num_episodes: int,
    *,
    seed: int = 1_000_000,
    noise: float = 0.3,
    image_size: int = 16,
    tasks: Sequence[str] = TASKS,
    observe: Literal["image", "state"] = "image",
) -> list[dict[str, Any]]:
    """Make demonstrations in the toy world under LeRobot's key names.

    Args:
        num_episodes: How many.
        seed: Episode ``i`` has the seed ``seed + i``.
        noise: Standard deviation of the noise on the expert's actions, in units of action.
        image_size: Height and width of the images.
        tasks: Instructions that episodes may have.
        observe: See `ToyReachEnv`.

    Returns:
        Episodes with ``observation.images.front`` uint8 ``(t, h, w, 3)``, unless the state is all
        there is, ``observation.state`` ``(t, 2 or 4)``, ``action`` ``(t, 2)`` and ``task``.
    """
    env = ToyReachEnv(num_envs=1, image_size=image_size, tasks=tasks, observe=observe)
    episodes = []
    for i in range(num_episodes):
        rng = np.random.default_rng([seed, i])
        obs, _ = env.reset(seed=seed + i)
        frames: list[dict[str, Any]] = []
        over = False
        while not over:
            wanted = env.expert_actions()
            action = (wanted + rng.normal(0.0, noise, wanted.shape)).clip(-1.0, 1.0)
            step = env.step_chunk(action[:, None])
            # The label is what the expert wanted; the noise only spreads the states.
            frames.append({**obs, "action": wanted.astype(np.float32)})
            over = bool(step.terminated.any() or step.truncated.any())
            obs = step.observation
        task = frames[0]["task"][0]
        columns = frames[0].keys() - {"task"}
        episode = {key: np.concatenate([frame[key] for frame in frames]) for key in columns}
        episodes.append({**episode, "task": task})
    return episodes


def make_policy(kind: type[TokenPolicy] = TokenPolicy, **settings: Any) -> TokenPolicy:
    """Return a very small policy for `ToyReachEnv`, with weights of seed 0.

    Args:
        kind: Class to build.
        settings: Other arguments of `TokenPolicy`.
    """
    sizes = {"channels": (4, 8, 8), "image_dim": 16, "hidden_dim": 32, "num_bins": 9}
    world = {"cameras": [CAMERA], "state_dim": 2, "action_dim": 2, "image_size": 16}
    if settings.get("cameras") == []:
        world["state_dim"] = 4  # see `ToyReachEnv`
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind(**{"action_low": -1.0, "action_high": 1.0, **sizes, **world, **settings})


def check_policy(policy: Policy, obs: Observation) -> None:
    """Check that a policy keeps the contract of `vla_rl.types.Policy` on ``obs``.

    Raises:
        AssertionError: Naming the first broken clause.
    """
    n = len(obs["task"])
    decision = policy.act(obs, generator=Generator().manual_seed(0))
    shape = decision.actions.shape
    assert len(shape) == 3, f"actions must be (n, k, a), got {tuple(shape)}"
    assert shape[0] == n, f"actions must have a row per observation ({n}), got {shape[0]}"
    assert bool(decision.actions.isfinite().all()), "actions must be finite"
    _check_log_prob(decision)
    again = policy.act(obs, generator=Generator().manual_seed(0))
    assert torch.equal(decision.actions, again.actions), "act must repeat with the same generator"
    greedy = [policy.act(obs, deterministic=True).actions for _ in range(2)]
    assert torch.equal(*greedy), "act must repeat when deterministic"
    for key, value in decision.replay.items():
        assert len(value) == n, f"replay[{key!r}] must have {n} rows, got {len(value)}"
    score = policy.evaluate(decision.replay)
    difference = float((score.log_prob.detach() - decision.log_prob).abs().max())
    assert difference <= 1e-4, f"evaluate must give act's log_prob, differs by {difference}"
    assert score.entropy.shape == shape, "entropy must be (n, k, a)"
    assert score.log_prob.requires_grad, "evaluate's log_prob must carry gradients"
    assert (score.value is None) == (decision.value is None), "act and evaluate disagree on value"
    batch = {**obs, "action": decision.actions, "action_is_pad": torch.zeros(shape[:2]).bool()}
    loss = policy.imitation_loss(batch)
    assert loss.shape == (n,), f"imitation_loss must be ({n},), got {tuple(loss.shape)}"
    mean = policy.imitation_loss(batch, reduction="mean")
    assert mean.shape == (), f"the mean imitation_loss must be a scalar, got {tuple(mean.shape)}"


def check_vec_env(env: VecEnv, *, action_dim: int, chunk: int = 3, max_chunks: int = 1000) -> None:
    """Check that an environment keeps the contract of `vla_rl.types.VecEnv` with zero actions.

    Args:
        env: Is reset and played until each environment has ended an episode.
        action_dim: Width of its actions.
        chunk: Length of the chunks it is asked to execute.
        max_chunks: Give up after this many.

    Raises:
        AssertionError: Naming the first broken clause.
    """
    n = env.num_envs
    first, _ = env.reset(seed=list(range(n)))
    again, _ = env.reset(seed=list(range(n)))
    for key in first:
        assert len(first[key]) == n, f"observation {key!r} must have {n} rows"
        same = np.array_equal(np.asarray(first[key]), np.asarray(again[key]))
        assert same, f"reset with the same seeds must give the same {key!r}"
    ended = np.zeros(n, dtype=np.bool_)
    for _ in range(max_chunks):
        step = env.step_chunk(np.zeros((n, chunk, action_dim), dtype=np.float32))
        _check_chunk(step, (n, chunk), running=~ended)
        ended |= np.asarray(step.terminated | step.truncated).any(-1)
        if ended.all():
            return
    raise AssertionError(f"every episode must end within {max_chunks} chunks")


def _check_log_prob(decision: ActOutput) -> None:
    log_prob, value = decision.log_prob, decision.value
    shape = tuple(decision.actions.shape)
    assert tuple(log_prob.shape) == shape, f"log_prob must be {shape}, got {tuple(log_prob.shape)}"
    assert log_prob.dtype == torch.float32, f"log_prob must be float32, got {log_prob.dtype}"
    assert not log_prob.requires_grad, "act must not build a graph"
    assert value is None or tuple(value.shape) == shape[:1], "value must be (n,)"


def _check_chunk(step: Any, shape: tuple[int, int], *, running: Any) -> None:
    fields = {
        name: np.asarray(getattr(step, name))
        for name in ("reward", "terminated", "truncated", "valid")
    }
    assert "success" in step.info, "info must hold 'success'"
    fields["success"] = np.asarray(step.info["success"])
    for name, value in fields.items():
        assert value.shape == shape, f"{name} must be {shape}, got {value.shape}"
    valid, over = fields["valid"], fields["terminated"] | fields["truncated"]
    assert np.isfinite(fields["reward"]).all(), "reward must be finite"
    assert (fields["reward"][~valid] == 0).all(), "reward must be zero where valid is false"
    assert not (over & ~valid).any(), "an episode cannot end at a step that was not executed"
    both = fields["terminated"] & fields["truncated"]
    assert not both.any(), "a step is terminated or truncated, not both"
    assert valid[running, 0].all(), "a running episode must execute its first action"
    if over.any():
        assert "final_obs" in step.info, "info must hold 'final_obs' when an episode ends"
        mask = np.asarray(step.info["_final_obs"])
        assert (mask == over.any(-1)).all(), "_final_obs must mark the episodes that ended"
