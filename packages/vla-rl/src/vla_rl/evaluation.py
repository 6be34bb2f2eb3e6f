"""Success of a policy on held-out episodes, with its interval."""

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vla_rl.rollout import Environments, collect_episodes
from vla_rl.types import Policy

SCHEMA_VERSION = 1


def wilson_interval(successes: int, count: int, *, z: float = 1.959964) -> tuple[float, float]:
    """Return Wilson's score interval of a rate; 95 % by default.

    Raises:
        ValueError: If ``count`` is not positive or ``successes`` not within it.

    Source: Wilson (1927).
    """
    if count < 1 or not 0 <= successes <= count:
        raise ValueError(f"Expected 0 ≤ successes ≤ count, got {successes} of {count}.")
    p, z2 = successes / count, z * z
    middle = (p + z2 / (2 * count)) / (1 + z2 / count)
    half = z / (1 + z2 / count) * math.sqrt(p * (1 - p) / count + z2 / (4 * count**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def evaluate_policy(
    policy: Policy,
    env: Environments,
    seeds: Sequence[int],
    *,
    deterministic: bool = True,
    sampling_seed: int = 0,
    progress_bar: bool = False,
) -> dict[str, Any]:
    """Play one episode per seed and return what happened.

    For resumable evaluation, videos and the protocols of benchmarks see bench-adapters.

    Args:
        policy: To be measured.
        env: Environments.
        seeds: Of episodes that it has not been trained on.
        deterministic: Act greedily.
        sampling_seed: Of the policy's samples, where not.
        progress_bar: Show one.

    Returns:
        ``schema_version``, ``deterministic``; for ``success_once`` and ``success_at_end`` the
        count, rate and 95 % Wilson interval; and ``episodes``, a row each.
    """
    parameter = next(policy.parameters(), None) if isinstance(policy, nn.Module) else None
    device = "cpu" if parameter is None else parameter.device
    generator = torch.Generator(device).manual_seed(sampling_seed)
    episodes = collect_episodes(
        policy,
        env,
        seeds,
        generator=generator,
        deterministic=deterministic,
        progress_bar=progress_bar,
    ).episodes
    count = len(episodes.seed)
    result: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "deterministic": deterministic,
        "sampling_seed": None if deterministic else sampling_seed,
        "num_episodes": count,
    }
    for name in ("success_once", "success_at_end"):
        successes = int(getattr(episodes, name).sum())
        low, high = wilson_interval(successes, count)
        result[name] = {
            "count": successes,
            "rate": successes / count,
            "interval_95": [low, high],
        }
    columns = ("seed", "success_once", "success_at_end", "length", "env_return")
    rows = zip(*(getattr(episodes, name).tolist() for name in columns), strict=True)
    result["episodes"] = [dict(zip(columns, row, strict=True)) for row in rows]
    return result


def save_evaluation(result: dict[str, Any], path: Path) -> None:
    """Write a result as JSON, replacing the file in one step."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(result, indent=1) + "\n")
    os.replace(partial, path)
