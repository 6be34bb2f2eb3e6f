"""Against a clone of mees/calvin, named by CALVIN_ROOT."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench_adapters.envs import calvin_chains
from bench_adapters.envs.calvin import CalvinEnvironment, make
from bench_adapters.envs.calvin_clone import SCENES, find_clone
from bench_adapters.envs.calvin_expert import MOTIONS, CalvinExpert
from bench_adapters.envs.calvin_protocol import run_challenge, summarize_challenge
from bench_adapters.errors import BenchAdaptersError, SimulatorUnavailableError
from bench_adapters.functional.calvin_oracle import TASK_CHECKS, is_solved
from bench_adapters.functional.calvin_sequences import OFFICIAL_DIGEST, Chain, chain_digest
from bench_adapters.functional.calvin_states import (
    HOME_ROBOT_OBS,
    initial_scene_obs,
    initial_seed,
)
from bench_adapters.record import record_dataset
from bench_adapters.testing import Actions, RandomPolicy, check_environment
from bench_adapters.vector import ProcessVectorEnv

CHAIN = Chain(
    {
        "led": 0,
        "lightbulb": 0,
        "slider": "right",
        "drawer": "closed",
        "red_block": "table",
        "blue_block": "slider_right",
        "pink_block": "table",
        "grasped": 0,
    },
    (
        *("turn_on_led", "open_drawer", "push_red_block_right"),
        *("move_slider_left", "lift_red_block_table"),
    ),
)
"""A chain that the scripted expert knows, in place of the official ones, which take long."""

needs_clone = pytest.mark.skipif(
    "CALVIN_ROOT" not in os.environ, reason="CALVIN_ROOT names no clone of mees/calvin"
)


@pytest.fixture
def chains(monkeypatch: pytest.MonkeyPatch) -> list[Chain]:
    """Stand in for the 1000 chains."""
    first, second, *others = CHAIN.tasks
    known = [CHAIN, Chain(CHAIN.state, (second, first, *others))] * 500
    monkeypatch.setitem(calvin_chains._loaded, calvin_chains.cache_path(), known)
    return known


@pytest.fixture
def env(chains: list[Chain]) -> Iterator[CalvinEnvironment]:
    env = make("D", cameras=())
    yield env
    env.close()


def play(env: CalvinEnvironment, seed: int, chunk: int) -> tuple[list[Any], list[Any]]:
    """Run the expert open loop, in chunks of the actions that it chooses one by one."""
    env.reset(seed)
    expert = CalvinExpert(env, noise=0.1, rng=np.random.default_rng(seed))
    chunks, states = [], []
    for _ in range(120 // chunk):
        actions = np.stack([expert.act()[0] for _ in range(chunk)])
        chunks.append(env.step_chunk(actions))
        states.append(env.sim.get_state_obs())
    return chunks, states


@pytest.mark.slow
def test_the_1000_official_chains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    chains = calvin_chains.official_chains()
    assert chain_digest(chains) == OFFICIAL_DIGEST
    assert calvin_chains._read(calvin_chains.cache_path()) == chains
    calvin_chains.cache_path().write_text("[[")
    assert calvin_chains._read(calvin_chains.cache_path()) is None
    # Of the original functions with a compiled pyhash.
    seeds = ",".join(str(initial_seed(chain.state)) for chain in chains)
    assert hashlib.sha256(seeds.encode()).hexdigest().startswith("55a825ae29a2")
    scenes = "\n".join(
        ",".join(f"{value + 0.0:.6f}" for value in initial_scene_obs(chain.state))
        for chain in chains
    )
    expected = "18536682792740955cf30896b6ce3f2674a0239683ce00883e1fce09e2682b2b"
    assert hashlib.sha256(scenes.encode()).hexdigest() == expected


def test_a_missing_clone_is_an_error_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CALVIN_ROOT", raising=False)
    with pytest.raises(SimulatorUnavailableError, match="CALVIN_ROOT is not set; run `git clone"):
        make("D")
    with pytest.raises(SimulatorUnavailableError, match=r"has no calvin_env/"):
        find_clone(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "E"}, r"`name` of \['A', 'B', 'C', 'D'\], got 'E'"),
        ({"name": "D", "actions": "joint"}, "`actions`.*'joint'"),
        ({"name": "D", "renderer": "vulkan"}, "`renderer`.*'vulkan'"),
        ({"name": "D", "cameras": ["top"]}, "`cameras`.*'top'"),
        ({"name": "D", "subtask_steps": 0}, "positive `subtask_steps`, got 0"),
        ({"name": "D", "warm_up": -1}, "`warm_up` ≥ 0 .*got -1"),
        ({"name": "D", "warm_up": 1}, "0 without a `chain_length`, got 1"),
        ({"name": "D", "tasks": ["dance"]}, "unknown CALVIN subtask 'dance'"),
    ],
)
def test_refuses_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**arguments)


@needs_clone
def test_keeps_the_promises_of_an_environment(chains: list[Chain]) -> None:
    env = make("D", renderer="tiny", cameras=("static",), subtask_steps=6)
    try:
        check_environment(env, seed=1000)
        assert env.versions["renderer"] == "tiny"
        assert [d.unit for d in env.action_spec.dimensions] == ["0.02 m"] * 3 + ["0.05 rad"] * 3 + [
            "1"
        ]
        with pytest.raises(BenchAdaptersError, match="already holds a CALVIN simulator"):
            make("D", cameras=())
    finally:
        env.close()
        env.close()


@needs_clone
def test_states_are_those_of_the_official_loop(env: CalvinEnvironment) -> None:
    """The clone's own reset and step, with the clone's own task checks."""
    from omegaconf import OmegaConf

    chunks, states = play(env, 0, chunk=1)
    actions = []
    env.reset(0)
    expert = CalvinExpert(env, noise=0.1, rng=np.random.default_rng(0))
    for _ in range(120):
        actions.append(expert.act()[0])
        env.step_chunk(actions[-1][None])
    from calvin_env.envs.tasks import Tasks  # type: ignore[import-not-found]

    config = find_clone() / "calvin_env/conf/tasks/new_playtable_tasks.yaml"
    oracle = Tasks(OmegaConf.load(config)["tasks"])
    env._load()
    env.sim.reset(HOME_ROBOT_OBS, initial_scene_obs(CHAIN.state))
    start, solved = env.sim.get_info(), 0
    for i, action in enumerate(actions):
        *_, info = env.sim.step(action.astype(np.float64))
        state = env.sim.get_state_obs()
        for key, expected in state.items():
            np.testing.assert_array_equal(states[i][key], expected)
        assert oracle.get_task_info(start, info) == {
            task for task in TASK_CHECKS if is_solved(task, start, info)
        }
        done = oracle.get_task_info_for_set(start, info, {CHAIN.tasks[solved]})
        assert chunks[i].reward[0] == bool(done)
        if done:
            solved, start = solved + 1, env.sim.get_info()
    assert solved


@needs_clone
def test_an_episode_does_not_depend_on_the_one_before(env: CalvinEnvironment) -> None:
    _, first = play(env, 0, chunk=1)
    play(env, 1, chunk=1)
    _, again = play(env, 0, chunk=1)
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a["robot_obs"], b["robot_obs"])
        np.testing.assert_array_equal(a["scene_obs"], b["scene_obs"])


@needs_clone
def test_an_action_is_not_changed_and_a_new_instruction_ends_the_chunk(
    env: CalvinEnvironment,
) -> None:
    first = env.reset(0)
    expert = CalvinExpert(env, noise=0.0, rng=np.random.default_rng(0))
    actions = []
    while env.subtask == "turn_on_led":
        actions.append(expert.act()[0])
        env.step_chunk(actions[-1][None])
    env.reset(0)
    padded = np.stack([*actions, *actions])
    given = padded.copy()
    chunk = env.step_chunk(padded)
    np.testing.assert_array_equal(padded, given)
    assert chunk.valid.sum() == len(actions)
    assert chunk.reward.sum() == chunk.reward[len(actions) - 1] == 1
    assert not (chunk.terminated | chunk.truncated).any()
    assert chunk.observation["task"] != first["task"]


@needs_clone
@pytest.mark.parametrize("tasks", [tuple(MOTIONS)])
def test_scripted_motions_solve_their_tasks(tasks: tuple[str, ...], chains: list[Chain]) -> None:
    failed = []
    env = make("D", cameras=())
    try:
        for task in tasks:
            env._tasks = (task,)
            env.reset(0)
            expert = env.make_expert(noise=0.0, failure=None, rng=np.random.default_rng(0))
            expert.reset()
            ended = False
            while not ended:
                chunk = env.step_chunk(expert.act()[0][None])
                ended = bool(chunk.terminated[0] or chunk.truncated[0])
            failed += [task] * (not chunk.success[0])
    finally:
        env.close()
    assert not failed


@needs_clone
def test_absolute_actions_reach_where_they_say() -> None:
    env = make("D", actions="absolute", cameras=(), tasks=("open_drawer",))
    try:
        goal = env.reset(0)["observation.state"][:7].copy()
        goal[:3] += [0.05, 0.02, -0.03]
        goal[6] = -1.0
        state = env.step_chunk(np.repeat(goal[None], 25, axis=0)).observation["observation.state"]
        np.testing.assert_allclose(state[:3], goal[:3], atol=2e-3)
        assert state[6] < 1e-3
        assert state[14] == -1.0
        assert env.reset(0)["observation.state"][14] == 1.0
    finally:
        env.close()


@needs_clone
@pytest.mark.parametrize("scene", SCENES)
def test_blocks_rest_where_they_start_in_every_scene(scene: str, chains: list[Chain]) -> None:
    env = make(scene, cameras=())
    try:
        env.reset(0)
        blocks = env.sim.scene.movable_objects
        before = {block.name: np.array(block.get_state()) for block in blocks}
        still = np.array([[0, 0, 0, 0, 0, 0, 1.0]] * 30, np.float32)
        env.step_chunk(still)
        for block in blocks:
            np.testing.assert_allclose(block.get_state()[:3], before[block.name][:3], atol=3e-3)
        # The blue one starts on the shelf, in every scene's own order of blocks.
        assert before["block_blue"][1] > 0 > before["block_red"][1]
    finally:
        env.close()


class ExpertPolicy:
    """Answers for the environment that it can see into."""

    def __init__(self, env: CalvinEnvironment) -> None:
        self._expert = CalvinExpert(env, noise=0.0, rng=np.random.default_rng(0))

    def act(self, obs: Any, *, generator: Any = None, deterministic: bool = False) -> Actions:
        return Actions(self._expert.act()[0][None, None])


@needs_clone
def test_the_challenge_in_shards_equals_one_run(env: CalvinEnvironment, tmp_path: Path) -> None:
    class Held:
        """Hands out the one environment that a process can hold."""

        def __call__(self) -> CalvinEnvironment:
            return env

    vector = ProcessVectorEnv(Held(), 1)
    policy = ExpertPolicy(env)
    paths = []
    for index in range(2):
        path = tmp_path / f"shard{index}.json"
        run_challenge(
            policy, vector, out=path, num_sequences=2, shard=(index, 2), progress_bar=False
        )
        paths.append(path)
    merged = summarize_challenge(paths, out=tmp_path / "summary.json")
    assert [chain["solved"] for chain in merged["chains"]] == [5, 5]
    assert merged["summary"]["average_length"]["mean"] == 5
    assert merged["subtasks"]["open_drawer"] == {"success": 2, "total": 2}
    assert merged["official"] is False
    assert merged["versions"]["renderer"] == "none"
    assert len(merged["versions"]["calvin_env"]) in (7, 40)
    assert merged["versions"]["calvin_env_generation"] in ("797142c", "1431a46")
    run_challenge(policy, vector, out=tmp_path / "one.json", num_sequences=2, progress_bar=False)
    whole = summarize_challenge([tmp_path / "one.json"])
    assert whole["chains"] == merged["chains"]
    with pytest.raises(ValueError, match="holds chain 0, which another file holds too"):
        summarize_challenge([*paths, tmp_path / "one.json"])


@needs_clone
def test_the_challenge_is_not_run_on_other_chains(tmp_path: Path) -> None:
    for options in ({"subtask_steps": 20}, {"tasks": ["open_drawer"]}, {"chain_length": 1}):
        env = CalvinEnvironment("D", cameras=(), **options)  # type: ignore[arg-type]
        try:
            with pytest.raises(ValueError, match="Expected `env` to be calvin:D with"):
                run_challenge(
                    RandomPolicy(7), ProcessVectorEnv(lambda e=env: e, 1), out=tmp_path / "x.json"
                )
        finally:
            env.close()


def test_challenge_refuses_impossible_shards(tmp_path: Path) -> None:
    vector: Any = None
    for shard, count in (((2, 2), 10), ((0, 1), 1001), ((0, 11), 10)):
        with pytest.raises(ValueError, match=r"Expected `(shard|num_sequences)`"):
            run_challenge(
                RandomPolicy(7), vector, out=tmp_path / "x.json", num_sequences=count, shard=shard
            )
    with pytest.raises(ValueError, match="at least one file"):
        summarize_challenge([])


@needs_clone
def test_an_episode_of_one_drawn_subtask_ends_when_it_is_solved() -> None:
    env = make("D", cameras=(), subtasks=("turn_on_led", "turn_off_led"), chain_length=1)
    try:
        assert env.max_episode_steps == 360
        tasks = set()
        for seed in range(3):
            chunks, _ = play(env, seed, 1)
            tasks.update(env.chain.tasks)
            assert sum(chunk.reward.sum() for chunk in chunks) == 1
            assert sum(chunk.terminated.sum() for chunk in chunks) == 1
        assert tasks == {"turn_on_led", "turn_off_led"}
    finally:
        env.close()


@needs_clone
def test_episodes_begin_where_scripted_ones_end() -> None:
    subtasks = ("turn_on_led", "turn_off_led", "open_drawer", "close_drawer")
    settings: dict[str, Any] = {"cameras": (), "subtasks": subtasks, "chain_length": 1}
    settings["subtask_steps"] = 152
    plain = make("D", **settings)
    homes = [plain.reset(seed)["observation.state"] for seed in range(8)]
    plain.close()
    env = make("D", **settings, warm_up=1)
    try:
        assert env.max_episode_steps == 152
        moved = []
        for seed, home in enumerate(homes):
            first = env.reset(seed)
            assert first["task"] == env._instructions[env.chain.tasks[-1]]
            moved.append(np.abs(first["observation.state"][:3] - home[:3]).max() > 0.02)
            assert moved[-1] == (len(env.chain.tasks) == 2)
            np.testing.assert_array_equal(
                env.reset(seed)["observation.state"], first["observation.state"]
            )
            chunks, _ = play(env, seed, 1)
            assert sum(chunk.reward.sum() for chunk in chunks) == 1
            assert sum(chunk.terminated.sum() for chunk in chunks) == 1
        assert 0 < sum(moved) < 8
    finally:
        env.close()
    with pytest.raises(ValueError, match="scripted expert knows scene D"):
        make("A", **settings, warm_up=1)


@needs_clone
def test_a_chain_is_not_recorded_under_its_first_instruction(tmp_path: Path) -> None:
    options = {"cameras": [], "subtasks": ["turn_on_led", "open_drawer"], "chain_length": 2}
    with pytest.raises(ValueError, match="changes its instruction within the episode of seed 0"):
        record_dataset("calvin:D", tmp_path, num_episodes=1, seed=0, env_kwargs=options)
    assert not list(tmp_path.rglob("*.parquet"))
