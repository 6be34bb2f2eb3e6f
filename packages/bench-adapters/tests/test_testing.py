"""The conformance checks find what they are there to find."""

import functools

import numpy as np
import pytest

from bench_adapters.envs.toy import ReachEnvironment
from bench_adapters.testing import (
    Actions,
    RandomPolicy,
    check_environment,
    check_observation,
    check_policy,
    check_vector_env,
    make_observation,
    random_policy,
)
from bench_adapters.vector import ProcessVectorEnv


class Tampered(ReachEnvironment):
    """Changes each chunk."""

    def __init__(self, change):
        super().__init__()
        self._change = change

    def step_chunk(self, actions):
        return self._change(super().step_chunk(actions))


def late_reward(chunk):
    return chunk._replace(reward=np.ones_like(chunk.reward))


def endless(chunk):
    never = np.zeros_like(chunk.valid)
    return chunk._replace(terminated=never, truncated=never)


def runs_on(chunk):
    return chunk._replace(valid=np.ones_like(chunk.valid))


def wide_reward(chunk):
    return chunk._replace(reward=chunk.reward.astype(np.float64))


def ends_twice(chunk):
    return chunk._replace(terminated=chunk.valid.copy(), truncated=np.zeros_like(chunk.valid))


def unsteady(chunk):
    state = chunk.observation["observation.state"]
    noise = 0.01 * np.random.default_rng().random(4).astype(np.float32)
    return chunk._replace(
        observation=chunk.observation | {"observation.state": state * 0.5 + noise}
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (late_reward, "reward at a step that was not executed"),
        (endless, "a live environment skipped, or an ended one ran"),
        (runs_on, "an action after the episode's end was executed|an ended environment executed"),
        (wide_reward, "reward is float64"),
        (ends_twice, "ended twice"),
        (unsteady, "same seed, same actions, different observation.state"),
    ],
)
def test_check_environment_finds(change, message):
    with pytest.raises(AssertionError, match=message):
        check_environment(Tampered(change), chunk=6)


def test_check_environment_finds_ignored_seeds():
    class Stubborn(ReachEnvironment):
        def reset(self, seed):
            return super().reset(0)

    with pytest.raises(AssertionError, match="two seeds gave the same observation"):
        check_environment(Stubborn())


@pytest.mark.parametrize(
    ("change", "message"),
    [(late_reward, "not executed"), (runs_on, "after the episode's end|executed")],
)
def test_check_vector_env_finds(change, message):
    vector = ProcessVectorEnv(functools.partial(Tampered, change), 2)
    with pytest.raises(AssertionError, match=message):
        check_vector_env(vector, chunk=6)


def test_check_vector_env_finds_ignored_masks():
    class ResetsAll(ProcessVectorEnv):
        def reset(self, *, seed=None, options=None):
            return super().reset(seed=seed)

    with pytest.raises(AssertionError, match="reset_mask did not spare row 0"):
        check_vector_env(ResetsAll(ReachEnvironment, 3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": ["a"]}, "task has 1 entries, expected 2"),
        ({"task": "ab"}, "task is a str"),
        ({"observation.state": np.zeros((2, 4))}, "float64, expected float32"),
        ({"observation.state": np.full((2, 4), np.nan, np.float32)}, "not finite"),
        ({"observation.images.top": np.zeros((2, 3, 8, 8), np.uint8)}, r"\(2, 3, 8, 8\)"),
        ({"observation.depth": np.zeros(2)}, "unknown observation keys"),
    ],
)
def test_check_observation_finds(change, message):
    check_observation(make_observation(2), 2)
    with pytest.raises(AssertionError, match=message):
        check_observation(make_observation(2) | change, 2)


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (np.zeros((2, 2)), r"shape \(2, 2\), expected"),
        (np.zeros((3, 1, 2)), "3 rows for 2"),
        (np.zeros((2, 1, 5)), "size 5, expected 2"),
        (np.full((2, 1, 2), np.nan), "not finite"),
        (np.zeros((2, 0, 2)), "hold no step"),
    ],
)
def test_check_policy_finds(actions, message):
    class Policy:
        def act(self, obs, *, generator=None, deterministic=False):
            return Actions(actions)

    with pytest.raises(AssertionError, match=message):
        check_policy(Policy(), make_observation(2), action_dim=2)


def test_random_policy():
    policy = random_policy(ProcessVectorEnv(ReachEnvironment, 1), chunk=3)
    check_policy(policy, make_observation(5), action_dim=2)
    draws = [
        policy.act(make_observation(5), generator=policy.make_generator(4)).actions
        for _ in range(2)
    ]
    assert np.array_equal(*draws)
    assert (np.abs(draws[0]) <= 1).all()
    assert not np.array_equal(RandomPolicy(2).act(make_observation()).actions, draws[0][:2, :1])


def test_make_observation_follows_its_arguments():
    obs = make_observation(3, cameras={"a": (8, 6), "b": (4, 4)}, state_dim=7)
    assert obs["observation.images.a"].shape == (3, 8, 6, 3)
    assert obs["observation.state"].shape == (3, 7)
    check_observation(obs, 3)
