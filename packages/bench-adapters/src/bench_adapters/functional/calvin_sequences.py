"""CALVIN's evaluation chains: which five subtasks follow which initial state.

Source: mees/calvin fa03f01, ``calvin_models/calvin_agent/evaluation/multistep_sequences.py``, whose
1000 chains these functions reproduce (`OFFICIAL_DIGEST`), in pure numpy and in one process.
"""

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

__all__ = [
    "CHAIN_LENGTH",
    "NUM_SEQUENCES",
    "OFFICIAL_DIGEST",
    "SUBTASKS",
    "Chain",
    "SymbolicState",
    "chain_digest",
    "chain_for_seed",
    "chain_of",
    "generate_chains",
    "initial_states",
    "is_chain",
    "successors",
]

CHAIN_LENGTH = 5
"""Subtasks per chain."""
NUM_SEQUENCES = 1000
"""Chains of the official evaluation."""
OFFICIAL_DIGEST = "604957a8a2d3102941b278df07df4950bc41f340ed959077b20467d5f692318a"
"""`chain_digest` of the official chains."""
MAX_DRAWS = 10_000
"""After which `chain_of` takes a chain to be impossible."""

SymbolicState = dict[str, int | str]
"""``led``, ``lightbulb``, ``grasped``: 0 or 1; ``slider``: left, right; ``drawer``: open, closed;
``<colour>_block``: its place. The order of the keys matters to `initial_seed`."""


class Chain(NamedTuple):
    """An episode of the protocol."""

    state: SymbolicState
    tasks: tuple[str, ...]


class _Rule(NamedTuple):
    condition: Mapping[str, tuple[int | str, ...]]
    effect: Mapping[str, int | str]


COLORS = ("red", "blue", "pink")
BLOCKS = tuple(f"{color}_block" for color in COLORS)
SHELF = ("slider_right", "slider_left")


Values = Mapping[str, int | str]


def _rule(condition: Mapping[str, Any], effect: Values) -> _Rule:
    options = {k: v if isinstance(v, tuple) else (v,) for k, v in condition.items()}
    return _Rule(options, effect)


def _on_table(color: str) -> list[_Rule]:
    return [_rule({f"{color}_block": "table", "grasped": 0}, {})]


def _lift(color: str, place: str) -> list[_Rule]:
    block = f"{color}_block"
    effect: Values = {block: "grasped", "grasped": 1}
    if place == "table":
        return [_rule({block: "table", "grasped": 0}, effect)]
    if place == "drawer":
        return [_rule({block: "drawer", "drawer": "open", "grasped": 0}, effect)]
    # The door covers the side that it is on.
    return [
        _rule({block: f"slider_{side}", "slider": door, "grasped": 0}, effect)
        for side, door in (("left", "right"), ("right", "left"))
    ]


def _place_in_slider() -> list[_Rule]:
    return [
        _rule(
            {block: "grasped", "slider": door, "grasped": 1},
            {block: f"slider_{door}", "grasped": 0},
        )
        for block in BLOCKS
        for door in ("right", "left")
    ]


def _place_in_drawer() -> list[_Rule]:
    return [
        _rule({block: "grasped", "drawer": "open", "grasped": 1}, {block: "drawer", "grasped": 0})
        for block in BLOCKS
    ]


def _stack() -> list[_Rule]:
    return [
        _rule(
            {top: "grasped", bottom: "table", "grasped": 1},
            {top: "stacked_top", bottom: "stacked_bottom", "grasped": 0},
        )
        for top, bottom in itertools.permutations(BLOCKS, 2)
    ]


def _unstack() -> list[_Rule]:
    return [
        _rule(
            {top: "stacked_top", bottom: "stacked_bottom", "grasped": 0},
            {top: "table", bottom: "table"},
        )
        for top, bottom in itertools.permutations(BLOCKS, 2)
    ]


def _push_into_drawer() -> list[_Rule]:
    # Only where a single block is on the table, or which one is meant would be open.
    others = {block: [other for other in BLOCKS if other != block] for block in BLOCKS}
    return [
        _rule(
            {block: "table", first: SHELF, second: SHELF, "drawer": "open", "grasped": 0},
            {block: "drawer", "grasped": 0},
        )
        for block, (first, second) in others.items()
    ]


def _switch(name: str, before: int | str, after: int | str) -> list[_Rule]:
    return [_rule({name: before, "grasped": 0}, {name: after})]


def _table_of_rules() -> dict[str, tuple[int, list[_Rule]]]:
    """Return category and rules of each subtask; `generate_chains` draws indices in here."""
    rules: dict[str, tuple[int, list[_Rule]]] = {}
    for verb, color, side in itertools.product(("rotate", "push"), COLORS, ("right", "left")):
        rules[f"{verb}_{color}_block_{side}"] = (1, _on_table(color))
    rules["move_slider_left"] = (2, _switch("slider", "right", "left"))
    rules["move_slider_right"] = (2, _switch("slider", "left", "right"))
    rules["open_drawer"] = (3, _switch("drawer", "closed", "open"))
    rules["close_drawer"] = (3, _switch("drawer", "open", "closed"))
    for color, (category, place) in itertools.product(
        COLORS, enumerate(("table", "slider", "drawer"), 4)
    ):
        rules[f"lift_{color}_block_{place}"] = (category, _lift(color, place))
    rules["place_in_slider"] = (7, _place_in_slider())
    rules["place_in_drawer"] = (7, _place_in_drawer())
    rules["stack_block"] = (10, _stack())
    rules["unstack_block"] = (11, _unstack())
    for light in ("lightbulb", "led"):
        rules[f"turn_on_{light}"] = (8, _switch(light, 0, 1))
        rules[f"turn_off_{light}"] = (8, _switch(light, 1, 0))
    rules["push_into_drawer"] = (9, _push_into_drawer())
    return rules


_RULES = _table_of_rules()
SUBTASKS = tuple(_RULES)
"""The 34 subtasks."""
_CATEGORIES = [category for category, _ in _RULES.values()]


def initial_states() -> list[SymbolicState]:
    """Return the 192 states in which a chain can begin, in the official order."""
    places = ("table", *SHELF)
    options: dict[str, tuple[int | str, ...]] = {
        "led": (0, 1),
        "lightbulb": (0, 1),
        "slider": ("right", "left"),
        "drawer": ("closed", "open"),
        **dict.fromkeys(BLOCKS, places),
        "grasped": (0,),
    }
    states = [
        dict(zip(options, values, strict=True)) for values in itertools.product(*options.values())
    ]
    return [state for state in states if _placeable([str(state[f"{c}_block"]) for c in COLORS])]


def _placeable(places: Sequence[int | str]) -> bool:
    return 1 <= places.count("table") <= 2 and all(places.count(side) < 2 for side in SHELF)


def successors(state: Mapping[str, int | str], task: str) -> list[SymbolicState]:
    """Return the states that ``task`` can lead to; several where the instruction is ambiguous.

    Raises:
        ValueError: If ``task`` is not one of `SUBTASKS`.
    """
    if task not in _RULES:
        raise ValueError(f"unknown CALVIN subtask {task!r}; known subtasks: {list(SUBTASKS)}")
    return [
        {**state, **rule.effect}
        for rule in _RULES[task][1]
        if all(state[name] in options for name, options in rule.condition.items())
    ]


def is_chain(state: SymbolicState, tasks: Sequence[str], *, distinct: bool = True) -> bool:
    """Say whether each of ``tasks`` is possible, and unambiguous, after the ones before it.

    Args:
        state: Where the chain begins.
        tasks: Subtasks in order.
        distinct: Also demand, as the official chains do, that no two are of one category.
    """
    categories = [_RULES[task][0] for task in tasks] if distinct else []
    if len(set(categories)) < len(categories):
        return False
    for task in tasks:
        following = successors(state, task)
        if len(following) != 1:
            return False
        state = following[0]
    return True


def generate_chains(num_sequences: int = NUM_SEQUENCES) -> list[Chain]:
    """Draw evaluation chains as the benchmark does.

    The chains of another ``num_sequences`` are not a prefix of the official 1000. Takes about a
    minute; `bench_adapters.envs.calvin_chains.official_chains` keeps them.

    Args:
        num_sequences: How many, spread over the initial states.

    Raises:
        ValueError: If ``num_sequences`` is not positive.
    """
    if num_sequences < 1:
        raise ValueError(f"Expected positive `num_sequences`, got {num_sequences}.")
    states = initial_states()
    chains: list[Chain] = []
    shares = np.array_split(np.arange(num_sequences), len(states))
    for seed, (state, share) in enumerate(zip(states, shares, strict=True)):
        rng = np.random.RandomState(seed)  # the benchmark's own stream
        chains += [_draw_chain(state, rng) for _ in share]
    np.random.RandomState(0).shuffle(chains)  # type: ignore[arg-type]
    return chains


def _draw_chain(state: SymbolicState, rng: "np.random.RandomState | np.random.Generator") -> Chain:
    # One draw in thousands is a chain: most are dropped on their categories and their first task.
    first = [len(successors(state, task)) == 1 for task in SUBTASKS]
    while True:
        drawn = rng.permutation(len(SUBTASKS))[:CHAIN_LENGTH].tolist()
        if not first[drawn[0]] or len({_CATEGORIES[i] for i in drawn}) < CHAIN_LENGTH:
            continue
        tasks = tuple(SUBTASKS[i] for i in drawn)
        if is_chain(state, tasks):
            return Chain(state, tasks)


def chain_for_seed(seed: int, tasks: Sequence[str] | None = None) -> Chain:
    """Return a chain outside the official ones, for training.

    Args:
        seed: Chooses the initial state and, without ``tasks``, the subtasks.
        tasks: A fixed chain; the initial state is one of those in which it is possible.

    Raises:
        ValueError: If ``tasks`` names something unknown or is possible in no initial state.
    """
    rng = np.random.default_rng(seed)
    states = initial_states()
    if tasks is None:
        return _draw_chain(states[rng.integers(len(states))], rng)
    possible = [state for state in states if is_chain(state, tasks, distinct=False)]
    if not possible or not tasks:
        raise ValueError(
            f"Expected `tasks` that follow on each other from an initial state, got {list(tasks)}."
        )
    return Chain(possible[rng.integers(len(possible))], tuple(tasks))


def chain_of(seed: int, subtasks: Sequence[str], length: int) -> Chain:
    """Return a chain of some subtasks only, such as single ones for reinforcement learning.

    Args:
        seed: Chooses subtasks and initial state.
        subtasks: Those that may be drawn, all as likely as the rules allow.
        length: Of the chain.

    Raises:
        ValueError: If ``subtasks`` names something unknown, or no such chain was found.
    """
    rng = np.random.default_rng(seed)
    states = initial_states()
    if 1 <= length <= len(subtasks):
        for _ in range(MAX_DRAWS):
            tasks = tuple(str(task) for task in rng.permutation(list(subtasks))[:length])
            state = states[rng.integers(len(states))]
            if is_chain(state, tasks):
                return Chain(state, tasks)
    raise ValueError(
        f"Expected `subtasks` that allow chains of `chain_length` {length}, got {list(subtasks)}; "
        "name more of them or ask for shorter chains."
    )


def chain_digest(chains: Sequence[Chain]) -> str:
    """Return the sha256 of ``[[state, tasks], …]`` as JSON without spaces, keys in their order."""
    content = [[chain.state, list(chain.tasks)] for chain in chains]
    return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()
