"""Evaluations that a stage may have to repeat."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from bench_adapters import VectorEnv
from bench_adapters.evaluate import evaluate
from bench_adapters.types import EvaluationResult


def play(
    policy: Any,
    env: VectorEnv,
    *,
    seeds: Sequence[int],
    out: Path,
    suite: str,
    env_id: str,
    deterministic: bool = False,
    policy_name: str = "policy",
) -> EvaluationResult:
    """Evaluate a policy, one episode per seed; what is at ``out`` is replaced.

    A stage that was stopped left the results of evaluations that it had finished; one that was
    stopped itself goes on.
    """
    out.unlink(missing_ok=True)
    return evaluate(
        policy,
        env,
        seeds=seeds,
        deterministic=deterministic,
        make_generator=lambda seed: torch.Generator().manual_seed(seed),
        out=out,
        suite=suite,
        env_id=env_id,
        policy_name=policy_name,
    )
