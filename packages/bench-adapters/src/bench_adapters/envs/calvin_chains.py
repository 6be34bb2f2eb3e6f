"""Which chain of CALVIN's subtasks an episode is; the official ones, generated once per user."""

import contextlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from bench_adapters._files import replacing
from bench_adapters.functional.calvin_sequences import (
    CHAIN_LENGTH,
    NUM_SEQUENCES,
    OFFICIAL_DIGEST,
    SUBTASKS,
    Chain,
    chain_digest,
    chain_for_seed,
    chain_of,
    generate_chains,
)

__all__ = ["OFFICIAL", "SUBTASK_STEPS", "Chains", "cache_path", "official_chains"]

SUBTASK_STEPS = 360
"""Steps per subtask of the challenge (mees/calvin fa03f01, ``evaluate_policy.py``, ``EP_LEN``)."""
OFFICIAL = "official"
"""What an environment's versions call the challenge's chains."""

_loaded: dict[Path, list[Chain]] = {}


class Chains:
    """Chains by seed: the challenge's, a fixed one, or ones drawn of some subtasks.

    Args:
        tasks: A fixed chain.
        subtasks: Draw chains of these; of all when None and ``length`` is given.
        length: Subtasks per chain.

    Attributes:
        length: Subtasks per chain.

    Raises:
        ValueError: If a fixed chain has other arguments beside it, or there is no such chain.
    """

    def __init__(
        self,
        tasks: Sequence[str] | None = None,
        *,
        subtasks: Sequence[str] | None = None,
        length: int | None = None,
    ) -> None:
        if tasks is not None and not (subtasks is None and length is None):
            raise ValueError(
                f"Expected `tasks`, a fixed chain, alone, got `subtasks` {subtasks!r} and "
                f"`chain_length` {length!r} beside it."
            )
        self._tasks = None if tasks is None else tuple(tasks)
        self._official = tasks is None and subtasks is None and length is None
        self._subtasks = tuple(SUBTASKS if subtasks is None else subtasks)
        self.length = CHAIN_LENGTH if length is None else length
        if not self._official:
            self.length = len(self.for_seed(0).tasks)

    def for_seed(self, seed: int) -> Chain:
        """Return the chain of an episode; the challenge's are seeds 0 to 999."""
        if self._tasks is not None:
            return chain_for_seed(seed, self._tasks)
        if not self._official:
            return chain_of(seed, self._subtasks, self.length)
        return official_chains()[seed] if seed < NUM_SEQUENCES else chain_for_seed(seed)


def cache_path() -> Path:
    """Return where the chains are kept, under ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "bench_adapters" / f"calvin_chains_{OFFICIAL_DIGEST[:12]}.json"


def official_chains() -> list[Chain]:
    """Return the 1000 chains of the CALVIN challenge.

    The first call of a user takes about half a minute and keeps the result at `cache_path`; a file
    that is damaged there is made again.

    Raises:
        RuntimeError: If this numpy draws other chains than the benchmark's.
    """
    path = cache_path()
    if path not in _loaded:
        chains = _read(path)
        if chains is None:
            chains = generate_chains(NUM_SEQUENCES)
            _require_official(chains)
            with contextlib.suppress(OSError):  # no place to keep them: made again next time
                _write(path, chains)
        _loaded[path] = chains
    return _loaded[path]


def _read(path: Path) -> list[Chain] | None:
    try:
        chains = [Chain(state, tuple(tasks)) for state, tasks in json.loads(path.read_text())]
    except (OSError, ValueError, TypeError):
        return None
    return chains if chain_digest(chains) == OFFICIAL_DIGEST else None


def _require_official(chains: list[Chain]) -> None:
    digest = chain_digest(chains)
    if digest != OFFICIAL_DIGEST:
        raise RuntimeError(
            f"the generated CALVIN chains have sha256 {digest}, expected {OFFICIAL_DIGEST}: this "
            f"numpy's legacy RandomState differs; install another numpy"
        )


def _write(path: Path, chains: list[Chain]) -> None:
    content = [[chain.state, list(chain.tasks)] for chain in chains]
    # Two processes may write at once: each under its own name.
    own = path.with_name(f"{path.name}.{os.getpid()}")
    with replacing(own) as temporary:
        temporary.write_text(json.dumps(content))
    own.replace(path)
