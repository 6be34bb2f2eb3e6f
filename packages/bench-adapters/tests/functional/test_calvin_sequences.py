import hashlib

import numpy as np
import pytest

from bench_adapters.envs.calvin_chains import Chains
from bench_adapters.functional.calvin_sequences import (
    CHAIN_LENGTH,
    SUBTASKS,
    Chain,
    chain_digest,
    chain_for_seed,
    chain_of,
    generate_chains,
    initial_states,
    is_chain,
    successors,
)
from bench_adapters.functional.calvin_states import initial_scene_obs, initial_seed

# The first three chains of the challenge, from the eval_sequences.json that several released
# evaluations carry.
FIRST = [
    ("rotate_blue_block_right", "move_slider_right", "lift_red_block_slider"),
    ("turn_off_led", "push_into_drawer", "lift_blue_block_drawer"),
    ("lift_pink_block_slider", "place_in_slider", "open_drawer"),
]
FIRST_STATE = {
    "led": 1,
    "lightbulb": 1,
    "slider": "left",
    "drawer": "open",
    "red_block": "slider_left",
    "blue_block": "table",
    "pink_block": "slider_right",
    "grasped": 0,
}


def test_there_are_192_states_and_34_subtasks() -> None:
    states = initial_states()
    assert len(states) == len({str(state) for state in states}) == 192
    assert len(SUBTASKS) == len(set(SUBTASKS)) == 34


def test_few_chains_are_drawn_as_the_benchmark_draws_them() -> None:
    """The worker of state 0 draws with seed 0, whatever the number of chains."""
    rng = np.random.RandomState(0)
    state = initial_states()[0]
    tasks: tuple[str, ...] = ()
    while not (tasks and is_chain(state, tasks)):
        tasks = tuple(rng.choice(list(SUBTASKS), size=5, replace=False).tolist())
    assert generate_chains(1) == [Chain(state, tasks)]


def test_the_state_after_a_subtask() -> None:
    (after,) = successors(FIRST_STATE, "move_slider_right")
    assert after == FIRST_STATE | {"slider": "right"}
    assert list(after) == list(FIRST_STATE)
    assert successors(FIRST_STATE, "move_slider_left") == []
    (held,) = successors(after, "lift_red_block_slider")
    assert (held["red_block"], held["grasped"]) == ("grasped", 1)
    assert successors(held, "open_drawer") == []  # hands full


def test_stacking_on_one_of_two_blocks_is_ambiguous() -> None:
    held = FIRST_STATE | {"red_block": "grasped", "pink_block": "table", "grasped": 1}
    assert len(successors(held, "stack_block")) == 2
    assert not is_chain(held, ["stack_block"])


def test_no_two_subtasks_of_one_category() -> None:
    assert not is_chain(FIRST_STATE, ["turn_off_led", "turn_off_lightbulb"])
    assert is_chain(FIRST_STATE, ["turn_off_led", "turn_off_lightbulb"], distinct=False)


def test_a_seed_gives_one_chain_and_fixed_tasks_a_state_for_them() -> None:
    chain = chain_for_seed(1234)
    assert chain == chain_for_seed(1234) != chain_for_seed(1235)
    assert len(chain.tasks) == CHAIN_LENGTH
    assert is_chain(chain.state, chain.tasks)
    fixed = chain_for_seed(0, ["open_drawer"])
    assert fixed.tasks == ("open_drawer",)
    assert fixed.state["drawer"] == "closed"


def test_chains_of_some_subtasks_can_be_done_from_their_state() -> None:
    some = ("open_drawer", "turn_on_led", "move_slider_left", "push_red_block_left")
    chains = [chain_of(seed, some, 2) for seed in range(50)]
    assert chains == [chain_of(seed, some, 2) for seed in range(50)]
    assert {task for chain in chains for task in chain.tasks} == set(some)
    assert all(is_chain(chain.state, chain.tasks) and len(chain.tasks) == 2 for chain in chains)


def test_digest_depends_on_order() -> None:
    chain = Chain({"led": 0, "slider": "left"}, ("open_drawer",))
    text = b'[[{"led":0,"slider":"left"},["open_drawer"]]]'
    assert chain_digest([chain]) == hashlib.sha256(text).hexdigest()


def test_seed_and_poses_of_the_first_state() -> None:
    # The seed is that of a compiled pyhash.
    assert initial_seed(FIRST_STATE) == 2138410836
    scene = initial_scene_obs(FIRST_STATE)
    assert scene[[0, 1, 2, 3, 4, 5]].tolist() == [0.28, 0.22, 0.0, 0.088, 1.0, 1.0]
    np.testing.assert_allclose(scene[6:9], [-0.240851662, 0.0924044687, 0.460990009])
    assert scene[13] < -0.1  # blue: on the table
    yaws = scene[[11, 17, 23]]
    assert (np.abs(yaws - np.pi / 2) <= np.pi / 8).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: generate_chains(0), r"positive `num_sequences`, got 0"),
        (lambda: successors(FIRST_STATE, "dance"), r"unknown CALVIN subtask 'dance'"),
        (lambda: chain_for_seed(0, []), r"got \[\]"),
        (lambda: chain_of(0, ["open_drawer"], 2), r"`chain_length` 2, got \['open_drawer'\]; name"),
        (lambda: chain_of(0, ["unstack_block"], 1), r"got \['unstack_block'\]"),
        (lambda: Chains(["open_drawer"], length=1), r"alone, got `subtasks` None and .* 1 beside"),
        (lambda: chain_for_seed(0, ["open_drawer", "open_drawer"]), r"got \['open_drawer', "),
    ],
)
def test_refusals(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]
