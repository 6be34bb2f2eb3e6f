"""The CALVIN challenge: 1000 chains, in shards that resume, and their summary."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench_adapters._files import write_json
from bench_adapters.envs.calvin_chains import OFFICIAL, SUBTASK_STEPS, official_chains
from bench_adapters.evaluate import evaluate, read_result
from bench_adapters.functional.calvin_scores import chain_summary, subtask_counts
from bench_adapters.functional.calvin_sequences import NUM_SEQUENCES
from bench_adapters.types import EvaluationResult, Policy, VectorEnv

__all__ = ["SCHEMA_VERSION", "SUITE", "run_challenge", "summarize_challenge"]

SCHEMA_VERSION = 1
"""Of the summary file."""
SUITE = "calvin-challenge"
_REQUIRED = {"chains": OFFICIAL, "subtask_steps": str(SUBTASK_STEPS)}
"""What `CalvinEnvironment.versions` says of the challenge's own environment."""


def run_challenge(
    policy: Policy,
    env: VectorEnv,
    *,
    out: Path | str,
    num_sequences: int = NUM_SEQUENCES,
    shard: tuple[int, int] = (0, 1),
    deterministic: bool = False,
    make_generator: Callable[[int], Any] | None = None,
    progress_bar: bool = True,
) -> EvaluationResult:
    """Run the official chains, or every n-th of them, with `bench_adapters.evaluate.evaluate`.

    A chain's result depends on the policy and the chain, not on the shard or on earlier chains. A
    run that was stopped goes on where it stopped.

    Args:
        policy: Chooses action chunks. The rest of a chunk is dropped when the instruction changes.
        env: Environments of ``calvin:D`` with the challenge's chains and steps per subtask, which
            are the defaults.
        out: File for this shard's result, as JSON.
        num_sequences: The first so many of the 1000 chains; fewer are not the official number.
        shard: ``(i, n)``: the chains i, i + n, i + 2n, …
        deterministic: Handed to the policy.
        make_generator: See `evaluate`.
        progress_bar: Show one.

    Raises:
        ValueError: If an argument is out of range, the environments are others, or ``evaluate``
            refuses.
    """
    index, count = shard
    if not 1 <= num_sequences <= NUM_SEQUENCES:
        raise ValueError(
            f"Expected `num_sequences` from 1 to {NUM_SEQUENCES}, got {num_sequences}."
        )
    if not 0 <= index < count <= num_sequences:
        raise ValueError(f"Expected `shard` (i, n) with 0 ≤ i < n ≤ {num_sequences}, got {shard}.")
    env_id, versions = getattr(env, "env_id", ""), dict(getattr(env, "versions", {}))
    if not _is_official(env_id, versions):
        raise ValueError(
            f"Expected `env` to be calvin:D with {_REQUIRED}, got {env_id!r} with {versions}; "
            "build it without `tasks`, `subtasks`, `chain_length` and `subtask_steps`."
        )
    return evaluate(
        policy,
        env,
        seeds=range(index, num_sequences, count),
        deterministic=deterministic,
        make_generator=make_generator,
        out=out,
        suite=SUITE,
        progress_bar=progress_bar,
    )


def summarize_challenge(
    paths: Sequence[Path | str], *, out: Path | str | None = None
) -> dict[str, Any]:
    """Merge the results of all shards.

    Args:
        paths: Files of `run_challenge`.
        out: File for the summary, as JSON.

    Returns:
        ``summary`` as in `chain_summary`, ``official`` (whether all 1000 chains are there),
        ``subtasks`` (``success`` and ``total`` of each), ``chains`` (``sequence``, ``tasks`` and
        ``solved`` of each), ``policy`` and ``versions``, which name simulator commit and renderer.

    Raises:
        ValueError: If a file is not of the challenge, two disagree on policy or versions, or a
            chain is there twice.
    """
    if not paths:
        raise ValueError("Expected at least one file in `paths`, got none.")
    results = [read_result(path) for path in paths]
    first = results[0]
    solved: dict[int, int] = {}
    for path, result in zip(paths, results, strict=True):
        _require_same(path, result, first)
        for episode in result.episodes:
            if episode.seed in solved:
                raise ValueError(f"{path} holds chain {episode.seed}, which another file holds too")
            solved[episode.seed] = round(episode.episode_return)
    numbers = sorted(solved)
    chains = [official_chains()[number].tasks for number in numbers]
    counts = [solved[number] for number in numbers]
    content = {
        "schema_version": SCHEMA_VERSION,
        "suite": SUITE,
        "env_id": first.env_id,
        "policy": first.policy,
        "deterministic": first.deterministic,
        "official": len(numbers) == NUM_SEQUENCES and _is_official(first.env_id, first.versions),
        "summary": chain_summary(counts),
        "subtasks": subtask_counts(counts, chains),
        "chains": [
            {"sequence": number, "tasks": list(tasks), "solved": count}
            for number, tasks, count in zip(numbers, chains, counts, strict=True)
        ],
        "versions": dict(first.versions),
    }
    if out is not None:
        write_json(Path(out), content)
    return content


def _is_official(env_id: str, versions: Mapping[str, str]) -> bool:
    return env_id == "calvin:D" and all(versions.get(k) == v for k, v in _REQUIRED.items())


def _require_same(path: Path | str, result: EvaluationResult, first: EvaluationResult) -> None:
    if result.suite != SUITE:
        raise ValueError(f"{path} is of suite {result.suite!r}, expected {SUITE!r}")
    for name in ("env_id", "policy", "deterministic", "versions"):
        ours, theirs = getattr(result, name), getattr(first, name)
        if ours != theirs:
            raise ValueError(f"{path} has {name} {ours!r}, other shards have {theirs!r}")
