from dataclasses import replace

import numpy as np
import pytest

from vla_rl.policies.token_policy import TokenPolicy
from vla_rl.testing import (
    ToyProgressModel,
    ToyReachEnv,
    check_policy,
    check_vec_env,
    make_episodes,
    make_observation,
)


@pytest.mark.parametrize("autoreset", ["disabled", "same_step"])
def test_the_toy_world_keeps_the_contract(autoreset):
    check_vec_env(ToyReachEnv(num_envs=3, autoreset=autoreset), action_dim=2)


def test_the_expert_reaches_the_dot_the_instruction_names():
    for episode in make_episodes(6, noise=0.0):
        image, task = episode["observation.images.front"], episode["task"]
        obs = {"observation.images.front": image, "task": [task] * len(image)}
        progress = ToyProgressModel().progress(obs).numpy()
        assert progress[-1] > 0.85
        assert (np.diff(progress) > -0.05).all()
        assert len(image) < 24


def test_an_ended_toy_world_waits():
    env = ToyReachEnv(num_envs=2, max_episode_steps=3)
    env.reset(seed=0)
    first = env.step_chunk(np.zeros((2, 5, 2)))
    assert first.valid.tolist() == [[True] * 3 + [False] * 2] * 2
    assert first.truncated[:, 2].all()
    assert not env.step_chunk(np.ones((2, 1, 2))).valid.any()
    env.reset(seed=[7, 8], options={"reset_mask": np.array([True, False])})
    assert env.step_chunk(np.ones((2, 1, 2))).valid.tolist() == [[True], [False]]


def test_toy_world_bad_input():
    with pytest.raises(ValueError, match=r"`tasks` out of .*, got \['fly'\]"):
        ToyReachEnv(tasks=["fly"])
    env = ToyReachEnv(num_envs=2)
    with pytest.raises(ValueError, match="Expected 2 seeds, got 3"):
        env.reset(seed=[1, 2, 3])
    with pytest.raises(ValueError, match=r"\(2, k, 2\), got \(2, 3\)"):
        env.step_chunk(np.zeros((2, 3)))


class _LateReward(ToyReachEnv):
    def step_chunk(self, actions):
        step = super().step_chunk(actions)
        return step._replace(reward=step.reward + 1.0)


class _NoSuccess(ToyReachEnv):
    def step_chunk(self, actions):
        return super().step_chunk(actions)._replace(info={})


class _Endless(ToyReachEnv):
    def step_chunk(self, actions):
        self._elapsed[:] = 0
        return super().step_chunk(actions)


@pytest.mark.parametrize(
    ("env", "clause"),
    [
        (_LateReward(num_envs=2), "zero where valid is false"),
        (_NoSuccess(num_envs=2), "info must hold 'success'"),
        (_Endless(num_envs=2), "must end within 50 chunks"),
    ],
)
def test_broken_environments_are_found(env, clause):
    with pytest.raises(AssertionError, match=clause):
        check_vec_env(env, action_dim=2, chunk=5, max_chunks=50)


class _Shifted(TokenPolicy):
    def evaluate(self, replay):
        output = super().evaluate(replay)
        return replace(output, log_prob=output.log_prob - 0.125)


class _Restless(TokenPolicy):
    def act(self, obs, *, generator=None, deterministic=False):
        return super().act(obs)


class _Forgetful(TokenPolicy):
    def act(self, obs, *, generator=None, deterministic=False):
        output = super().act(obs, generator=generator, deterministic=deterministic)
        return replace(output, replay={key: x[:1] for key, x in output.replay.items()})


@pytest.mark.parametrize(
    ("kind", "clause"),
    [
        (_Shifted, "must give act's log_prob, differs by 0.12"),
        (_Restless, "must repeat with the same generator"),
        (_Forgetful, "must have 3 rows, got 1"),
    ],
)
def test_broken_policies_are_found(kind, clause):
    policy = kind(cameras=["front"], state_dim=2, action_dim=2, image_size=16)
    with pytest.raises(AssertionError, match=clause):
        check_policy(policy, make_observation(3))


def test_progress_falls_from_a_near_miss_to_nothing_within_reach():
    # The goal's edge lies 0.15 from its middle.
    distance = np.array([0.1, 0.15 + 1e-4, 0.15 + 1.0, 0.15 + 2.0, 2.5], dtype=np.float32)
    state = np.stack([0 * distance, 0 * distance, distance, 0 * distance], -1)
    progress = ToyProgressModel(reach=2.0, near_miss=0.7).progress({"observation.state": state})
    np.testing.assert_allclose(progress, [1.0, 0.7, 0.35, 0.0, 0.0], atol=1e-4)
    plain = ToyProgressModel().progress({"observation.state": state})
    np.testing.assert_allclose(plain, [1.0, 1.0, 0.0, 0.0, 0.0], atol=1e-3)


def test_episodes_start_no_closer_than_asked():
    env = ToyReachEnv(num_envs=50, observe="state", min_distance=1.2)
    state = env.reset(seed=0)[0]["observation.state"]
    assert np.linalg.norm(state[:, 2:] - state[:, :2], axis=-1).min() >= 1.2
    with pytest.raises(ValueError, match=r"`min_distance` of at most 1\.2, got 3"):
        ToyReachEnv(min_distance=3)
