"""Gymnasium's own vectors against their environments played one by one."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from bench_adapters.envs.toy import ReachEnvironment
from bench_adapters.evaluate import evaluate
from bench_adapters.foreign import GymnasiumVectorEnv
from bench_adapters.testing import Actions, RandomPolicy, check_vector_env
from bench_adapters.vector import ProcessVectorEnv

MODES = [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP]


class Reach(gym.Env):
    """``toy:reach`` as somebody else's gymnasium environment; unseeded resets draw a seed."""

    def __init__(self, tells_success=True):
        self._toy = ReachEnvironment()
        self._tells_success = tells_success
        pixels = self._toy.observation_space["observation.images.top"]
        state = self._toy.observation_space["observation.state"]
        self.observation_space = gym.spaces.Dict({"pixels": pixels, "robot": state})
        self.action_space = self._toy.action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        drawn = int(self.np_random.integers(1000)) if seed is None else seed
        return self._observation(self._toy.reset(drawn)), self._info(success=False)

    def step(self, action):
        chunk = self._toy.step_chunk(action[None])
        ends = bool(chunk.terminated[0]), bool(chunk.truncated[0])
        info = self._info(success=bool(chunk.success[0]))
        return self._observation(chunk.observation), float(chunk.reward[0]), *ends, info

    def _observation(self, ours):
        return {"pixels": ours["observation.images.top"], "robot": ours["observation.state"]}

    def _info(self, *, success):
        return {"success": success} if self._tells_success else {}


class Drifting(RandomPolicy):
    """Stays near the middle, where it meets some of the squares."""

    def act(self, obs, **kwargs):
        noise = super().act(obs, **kwargs).actions
        return Actions(noise + 0.8 * np.sign(0.5 - obs["observation.state"][:, None, :2]))


def observe(batch):
    return {
        "observation.images.top": batch["pixels"],
        "observation.state": batch["robot"],
        "task": ["reach"] * len(batch["robot"]),
    }


def adapt(mode, n=3, *, tells_success=True, wrap=lambda env: env):
    env = SyncVectorEnv([lambda: Reach(tells_success=tells_success)] * n, autoreset_mode=mode)
    return GymnasiumVectorEnv(wrap(env), observe=observe, max_episode_steps=20, env_id="reach")


class OldSpelling(gym.vector.VectorWrapper):
    """Names the last observation as gymnasium did before 1.0 and ManiSkill does."""

    def step(self, actions):
        *step, info = self.env.step(actions)
        if "final_obs" in info:
            info["final_observation"] = info.pop("final_obs")
        return *step, info


class OneBatch(OldSpelling):
    """Gives the last observations stacked, as ManiSkill does, and gymnasium for plain arrays."""

    def step(self, actions):
        *step, info = super().step(actions)
        if "final_observation" in info:
            rows = info["final_observation"]
            first = next(row for row in rows if row is not None)
            filled = [first if row is None else row for row in rows]
            batch = {key: np.stack([row[key] for row in filled]) for key in first}
            mask = {f"_{key}": np.array([row is not None for row in rows]) for key in first}
            info["final_observation"] = batch | mask
        return *step, info


@pytest.mark.parametrize("mode", MODES)
def test_conforms(mode):
    check_vector_env(adapt(mode))


@pytest.mark.parametrize("wrap", [lambda env: env, OldSpelling, OneBatch])
@pytest.mark.parametrize("mode", MODES)
def test_chunks_are_those_of_our_own_vector(mode, wrap):
    theirs, ours = adapt(mode, wrap=wrap), ProcessVectorEnv(ReachEnvironment, 3)
    rng = np.random.default_rng(3)
    for vector in (theirs, ours):
        vector.reset(seed=[5, 6, 7])
    for number in range(12):
        actions = rng.uniform(-1, 1, (3, 7, 2)).astype(np.float32)
        a, b = theirs.step_chunk(actions), ours.step_chunk(actions)
        for name in ("reward", "terminated", "truncated", "valid"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name), name)
        np.testing.assert_array_equal(a.info["success"], b.info["success"])
        np.testing.assert_array_equal(a.info["_final_obs"], b.info["_final_obs"])
        for key in ("observation.images.top", "observation.state"):
            np.testing.assert_array_equal(a.observation[key], b.observation[key])
            np.testing.assert_array_equal(a.info["final_obs"][key], b.info["final_obs"][key])
        ended = b.info["_final_obs"]
        if number % 3 == 2 and ended.any():  # sometimes at once, sometimes later
            options = {"reset_mask": ended}
            for vector in (theirs, ours):
                vector.reset(seed=[10 * number + i for i in range(3)], options=dict(options))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("tells_success", [True, False])
def test_an_evaluation_gives_the_same_result(mode, tells_success):
    settings = {
        "seeds": range(30),
        "make_generator": np.random.default_rng,
        "progress_bar": False,
        "env_id": "reach",
    }
    policy = Drifting(2, chunk=4)
    theirs = evaluate(policy, adapt(mode, tells_success=tells_success), **settings)
    ours = evaluate(policy, ProcessVectorEnv(ReachEnvironment, 3), **settings)
    assert theirs.episodes == ours.episodes
    assert 0 < ours.success_once["count"] < 30


@pytest.mark.parametrize("mode", MODES)
def test_fewer_episodes_than_environments(mode):
    settings = {"seeds": [7, 8], "make_generator": np.random.default_rng, "progress_bar": False}
    ours = ProcessVectorEnv(ReachEnvironment, 3)
    assert (
        evaluate(Drifting(2), adapt(mode), env_id="reach", **settings).episodes
        == evaluate(Drifting(2), ours, env_id="reach", **settings).episodes
    )
    assert adapt(mode).reset(seed=np.int64(3))[1]["seed"].tolist() == [3, 4, 5]


def test_what_cannot_be_adapted_is_refused():
    for mode in (AutoresetMode.DISABLED, None):
        env = SyncVectorEnv([Reach], autoreset_mode=AutoresetMode.DISABLED)
        env.metadata["autoreset_mode"] = mode
        with pytest.raises(ValueError, match=r"resets by itself, .* got autoreset_mode"):
            GymnasiumVectorEnv(env, observe=observe, max_episode_steps=20)
    env = SyncVectorEnv([lambda: gym.make("CartPole-v1")])
    with pytest.raises(TypeError, match=r"actions in a Box, got Discrete"):
        GymnasiumVectorEnv(env, observe=observe, max_episode_steps=20)


def test_a_missing_last_observation_is_said():
    class Silent(gym.vector.VectorWrapper):
        def step(self, actions):
            *step, info = self.env.step(actions)
            info.pop("final_obs", None)
            return *step, info

    vector = adapt(AutoresetMode.SAME_STEP, wrap=Silent)
    vector.reset(seed=0)
    with pytest.raises(ValueError, match=r"`final_obs` or `final_observation` .*'final_info'"):
        vector.step_chunk(np.zeros((3, 20, 2)))
