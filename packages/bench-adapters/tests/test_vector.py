import functools
import multiprocessing
import re
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from bench_adapters.envs.toy import ReachEnvironment
from bench_adapters.errors import SimulatorUnavailableError, WorkerError
from bench_adapters.testing import FaultyEnvironment, check_vector_env
from bench_adapters.vector import ProcessVectorEnv


@pytest.fixture(scope="module", params=[0, 2])
def env(request):
    vector = ProcessVectorEnv(ReachEnvironment, 3, num_workers=request.param)
    yield vector
    vector.close()


@pytest.fixture
def processes():
    """Give the worker processes that the test itself has started."""
    before = set(multiprocessing.active_children())
    return lambda: set(multiprocessing.active_children()) - before


def rollout(vector, *, chunk=4, chunks=5):
    rng = np.random.default_rng(0)
    vector.reset(seed=7)
    shape = (chunks, vector.num_envs, chunk, 2)
    return [vector.step_chunk(a) for a in rng.uniform(-1, 1, shape).astype(np.float32)]


def test_conforms(env):
    check_vector_env(env)
    assert env.metadata["autoreset_mode"] is gymnasium.vector.AutoresetMode.DISABLED
    assert env.observation_space["observation.state"].shape == (3, 4)


def test_number_of_workers_changes_nothing():
    vectors = [ProcessVectorEnv(ReachEnvironment, 5, num_workers=n) for n in (0, 1, 3)]
    runs = [rollout(vector) for vector in vectors]
    for vector in vectors:
        vector.close()
    for chunks in zip(*runs, strict=True):
        for key in ("observation.images.top", "observation.state"):
            first, *others = [chunk.observation[key] for chunk in chunks]
            assert all(np.array_equal(first, other) for other in others), key
        assert np.array_equal(chunks[0].reward, chunks[1].reward)
        assert np.array_equal(chunks[0].valid, chunks[2].valid)


def test_rows_are_the_single_environments(env):
    single = ReachEnvironment()
    rng = np.random.default_rng(1)
    env.reset(seed=[4, 9, 2])
    actions = rng.uniform(-1, 1, (3, 6, 2)).astype(np.float32)
    chunk = env.step_chunk(actions)
    for row, seed in enumerate((4, 9, 2)):
        single.reset(seed)
        alone = single.step_chunk(actions[row])
        assert np.array_equal(
            chunk.observation["observation.images.top"][row],
            alone.observation["observation.images.top"],
        )
        assert chunk.observation["task"][row] == alone.observation["task"]
        assert np.array_equal(chunk.reward[row], alone.reward)


def test_reward_at_the_end_of_an_episode_survives_the_chunk(env):
    """A success in the middle of a chunk pays once, and nothing after it is executed."""
    env.reset(seed=0)
    single = ReachEnvironment()
    actions = np.zeros((3, 20, 2), np.float32)
    for row in range(3):
        single.reset(row)
        gap = single.squares[0] - single.position
        steps = int(np.ceil(np.abs(gap).max() / 0.1))
        actions[row, :steps] = gap / (0.1 * steps)
    chunk = env.step_chunk(actions)
    assert chunk.reward.sum(axis=1).tolist() == [1.0, 1.0, 1.0]
    ends = chunk.terminated.argmax(axis=1)
    assert (ends < 19).all()
    assert chunk.valid.sum(axis=1).tolist() == (ends + 1).tolist()
    assert chunk.info["_final_obs"].all()
    assert not env.step_chunk(actions).valid.any()


def test_step_is_a_chunk_of_one(env):
    env.reset(seed=1)
    action = np.full((3, 2), 0.3, np.float32)
    by_chunk = env.step_chunk(action[:, None])
    env.reset(seed=1)
    obs, reward, terminated, truncated, info = env.step(action)
    assert np.array_equal(obs["observation.state"], by_chunk.observation["observation.state"])
    assert np.array_equal(reward, by_chunk.reward[:, 0])
    assert terminated.shape == truncated.shape == info["success"].shape == (3,)


def test_observations_are_the_callers_own(env):
    first, _ = env.reset(seed=0)
    kept = first["observation.state"].copy()
    env.step_chunk(np.ones((3, 2, 2), np.float32))
    assert np.array_equal(first["observation.state"], kept)


@pytest.mark.parametrize("workers", [0, 2])
def test_partial_first_reset(workers):
    env = ProcessVectorEnv(ReachEnvironment, 3, num_workers=workers)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step_chunk(np.zeros((3, 1, 2)))
    obs, info = env.reset(seed=5, options={"reset_mask": np.array([True, False, False])})
    assert obs["task"][1:] == ["", ""]
    assert not obs["observation.images.top"][1:].any()
    assert info["_seed"].tolist() == [True, False, False]
    assert info["seed"][0] == 5
    assert env.step_chunk(np.zeros((3, 2, 2))).valid.tolist() == [[True] * 2] + [[False] * 2] * 2
    env.close()


def test_seeds_drawn_without_a_seed_differ(env):
    _, info = env.reset()
    _, again = env.reset()
    assert len({*info["seed"], *again["seed"]}) == 6


@pytest.mark.parametrize("seed", [[1, 2], -1, [0, 1, -2], 1.5, "x"])
def test_bad_seed(env, seed):
    with pytest.raises(ValueError, match=re.escape(f"{seed!r}")):
        env.reset(seed=seed)


def test_bad_options(env):
    with pytest.raises(ValueError, match=r"unknown `options` \['mask'\]"):
        env.reset(options={"mask": np.ones(3, bool)})
    with pytest.raises(ValueError, match=r"reset_mask.*bool \(3,\), got int64 \(3,\)"):
        env.reset(options={"reset_mask": np.ones(3, np.int64)})


def test_bad_actions_name_environment_and_dimension(env):
    env.reset(seed=0)
    actions = np.zeros((3, 4, 2), np.float32)
    actions[2, 3, 1] = np.inf
    with pytest.raises(ValueError, match=r"inf for environment 2 at step 3 .* dimension 1"):
        env.step_chunk(actions)
    with pytest.raises(ValueError, match=r"\(3, k, 2\), got \(3, 4, 7\)"):
        env.step_chunk(np.zeros((3, 4, 7)))
    with pytest.raises(ValueError, match="got k = 0"):
        env.step_chunk(np.zeros((3, 0, 2)))
    with pytest.raises(ValueError, match=r"shape \(n, a\), got \(3, 4, 2\)"):
        env.step(np.zeros((3, 4, 2)))
    assert env.step_chunk(np.zeros((3, 1, 2))).valid.all()  # nothing was executed before


def test_actions_of_ended_environments_are_not_read(env):
    env.reset(seed=0)
    actions = np.zeros((3, 1, 2))
    while env.step_chunk(actions).valid.any():
        continue
    env.reset(seed=0, options={"reset_mask": np.array([True, True, False])})
    actions[2] = np.nan
    assert env.step_chunk(actions).valid[:, 0].tolist() == [True, True, False]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("raise", "environment 1 failed while it was being stepped: RuntimeError: the gripper"),
        ("shape", r"environment 1 .* 'observation.state' is float32 \(3,\), .* \(4,\)"),
        ("nan", "environment 1 .*reward of step 0 of the chunk is nan"),
    ],
)
def test_a_failing_environment_is_named(workers, fault, message):
    vector = ProcessVectorEnv(
        functools.partial(FaultyEnvironment, fault=fault), 3, num_workers=workers
    )
    vector.reset(seed=0)
    with pytest.raises(WorkerError, match=message) as caught:
        vector.step_chunk(np.zeros((3, 1, 2)))
    assert caught.value.env_index == 1
    assert "Traceback" in caught.value.traceback
    assert [failure.env_index for failure in caught.value.failures] == [1]
    assert caught.value.result.valid.tolist() == [[True], [False], [True]]
    vector.close()


def healthy_chunks(seeds, actions):
    """Step environments that never fail."""
    vector = ProcessVectorEnv(ReachEnvironment, len(seeds))
    vector.reset(seed=seeds)
    return [vector.step_chunk(action) for action in actions]


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("fault", ["raise", "shape", "nan"])
def test_the_others_go_on_and_a_reset_brings_a_new_one(tmp_path, workers, fault):
    """Environment 1 fails in the second chunk; rows 0 and 2 are those of a vector without it."""
    env_fn = functools.partial(FaultyEnvironment, fault=fault, once=tmp_path / "once", seed=5)
    vector = ProcessVectorEnv(env_fn, 3, num_workers=workers)
    actions = np.random.default_rng(0).uniform(-0.2, 0.2, (4, 3, 2, 2)).astype(np.float32)
    expected = healthy_chunks([2, 5, 7], actions)
    vector.reset(seed=[2, 4, 7])
    vector.step_chunk(actions[0])
    mask = np.array([False, True, False])
    vector.reset(seed=[0, 5, 0], options={"reset_mask": mask})
    with pytest.raises(WorkerError, match=r"after 0 steps of the episode of seed 5") as caught:
        vector.step_chunk(actions[1])
    assert vector.step_chunk(actions[2]).valid.all(axis=1).tolist() == [True, False, True]
    _, info = vector.reset(seed=[0, 5, 0], options={"reset_mask": mask})
    assert info["_seed"].tolist() == mask.tolist()
    again = [vector.step_chunk(np.broadcast_to(a[1], a.shape)) for a in actions]
    state = "observation.state"
    others = ~mask
    assert np.array_equal(
        caught.value.result.observation[state][others], expected[1].observation[state][others]
    )
    vector.close()
    for mine, theirs in zip(again, expected, strict=True):
        assert np.array_equal(mine.observation[state][1], theirs.observation[state][1])
        assert np.array_equal(mine.valid[1], theirs.valid[1])


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("exit", "exited with code 3 while environment 2 was being stepped"),
        ("hang", "did not answer for 1 s while environment 2 was being stepped"),
    ],
)
def test_a_lost_worker_is_replaced(processes, tmp_path, fault, message):
    env_fn = functools.partial(FaultyEnvironment, fault=fault, seed=2, once=tmp_path / "once")
    vector = ProcessVectorEnv(env_fn, 4, num_workers=2)
    vector.reset(seed=0)
    before = vector._backend._timeout_s
    vector._backend._timeout_s = 1.0  # only now: starting may take longer on a busy machine
    action = np.full((4, 2, 2), 0.1, np.float32)
    with pytest.raises(WorkerError, match=message) as caught:
        vector.step_chunk(action)
    vector._backend._timeout_s = before
    assert caught.value.env_index == 2
    assert [(f.env_index, f.bystander) for f in caught.value.failures] == [(2, False), (3, True)]
    assert len(processes()) == 1
    assert vector.step_chunk(action).valid.any(axis=1).tolist() == [True, True, False, False]
    vector.reset(seed=[0, 0, 2, 9], options={"reset_mask": np.arange(4) > 1})
    assert len(processes()) == 2
    chunk = vector.step_chunk(action)
    vector.close()
    (expected,) = healthy_chunks([2, 9], [action[:2]])
    for key in ("observation.images.top", "observation.state"):
        assert np.array_equal(chunk.observation[key][2:], expected.observation[key])
    assert chunk.valid.all()


def test_a_worker_killed_between_two_calls(processes):
    vector = ProcessVectorEnv(ReachEnvironment, 2, num_workers=2)
    vector.reset(seed=0)
    vector._backend._workers[1].process.kill()
    vector._backend._workers[1].process.join()
    with pytest.raises(WorkerError, match="was killed by SIGKILL"):
        vector.step_chunk(np.zeros((2, 1, 2)))
    vector.reset(seed=0)
    assert vector.step_chunk(np.zeros((2, 1, 2))).valid.all()
    vector.close()
    assert not processes()


def test_a_worker_that_cannot_be_replaced_is_reported(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)
    from limited_builds import LimitedBuilds

    env_fn = functools.partial(LimitedBuilds, tmp_path, 1, ValueError("no licence for another"))
    vector = ProcessVectorEnv(env_fn, 1, num_workers=1)
    vector.reset(seed=1)
    with pytest.raises(WorkerError, match="exited with code 3"):
        vector.step_chunk(np.zeros((1, 1, 2)))
    for _ in range(2):
        with pytest.raises(WorkerError, match="0 could not be built again: no licence"):
            vector.reset(seed=0)
    vector.close()


@pytest.mark.parametrize("workers", [0, 1])
def test_errors_while_building(processes, workers):
    faulty = functools.partial(FaultyEnvironment, fault="raise", at_build=True)
    with pytest.raises(WorkerError, match="environment 0 failed while it was being built"):
        ProcessVectorEnv(faulty, 2, num_workers=workers)
    with pytest.raises(ValueError, match=r"image_size.*got 3"):
        ProcessVectorEnv(functools.partial(ReachEnvironment, image_size=3), 1, num_workers=workers)
    with pytest.raises(SimulatorUnavailableError, match="there is no simulator"):
        ProcessVectorEnv(
            functools.partial(FaultyEnvironment, fault="unavailable", at_build=True),
            1,
            num_workers=workers,
        )
    assert not processes()


def test_close_ends_workers_and_frees_memory(processes):
    vector = ProcessVectorEnv(ReachEnvironment, 2, num_workers=2)
    names = [block.name for block in vector._backend._blocks]
    assert len(processes()) == 2
    vector.close()
    vector.close()
    assert not processes()
    for name in names:
        with pytest.raises(FileNotFoundError):
            SharedMemory(name)


def test_a_forgotten_vector_is_cleaned_up(processes):
    vector = ProcessVectorEnv(ReachEnvironment, 1, num_workers=1)
    del vector
    assert not processes()


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"num_envs.*got 0"):
        ProcessVectorEnv(ReachEnvironment, 0)
    with pytest.raises(ValueError, match=r"num_workers.*\(2\), got 3"):
        ProcessVectorEnv(ReachEnvironment, 2, num_workers=3)
    with pytest.raises(ValueError, match=r"timeout_s.*got 0"):
        ProcessVectorEnv(ReachEnvironment, 2, timeout_s=0)
    with pytest.raises(ValueError, match="can be pickled"):
        ProcessVectorEnv(lambda: ReachEnvironment(), 1, num_workers=1)
    sizes = iter([32, 64])
    with pytest.raises(ValueError, match="environment 1 differs from environment 0"):
        ProcessVectorEnv(lambda: ReachEnvironment(image_size=next(sizes)), 2)
