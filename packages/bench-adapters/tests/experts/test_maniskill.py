"""Scripted experts succeed when they should and fail when they are told to."""

import numpy as np
import pytest

from bench_adapters.envs import maniskill
from bench_adapters.experts.maniskill import EXPERTS

pytestmark = pytest.mark.simulator


def attempt(env, seed, *, noise=0.05, failure=None):
    """Return (success, primitives in order of first use) of one attempt."""
    env.reset(seed)
    expert = env.make_expert(noise=noise, failure=failure, rng=np.random.default_rng(seed))
    expert.reset()
    names = []
    while True:
        action, primitive = expert.act()
        names.append(primitive)
        chunk = env.step_chunk(action[None])
        if chunk.terminated[0] or chunk.truncated[0]:
            return bool(chunk.success[0]), list(dict.fromkeys(names))


@pytest.fixture(scope="module", params=sorted(EXPERTS))
def env(request):
    environment = maniskill.make(request.param, image_size=16, max_episode_steps=80)
    yield environment
    environment.close()


def test_expert_succeeds(env):
    outcomes = [attempt(env, seed)[0] for seed in range(20)]
    assert np.mean(outcomes) >= 0.95


def test_missing_the_object_fails(env):
    outcomes = [attempt(env, seed, failure="miss")[0] for seed in range(5)]
    assert not any(outcomes)


def test_primitives_follow_the_plan(env):
    expected = {
        "PickCube-v1": ["reach", "grasp", "move"],
        "PullCube-v1": ["reach", "slide"],
        "PushCube-v1": ["reach", "slide"],
        "StackCube-v1": ["reach", "grasp", "lift", "move", "place", "release", "retreat"],
    }
    _, names = attempt(env, 0)
    assert names == expected[env.name][: len(names)]
    assert len(names) >= 2


def test_unknown_failure_lists_the_known(env):
    with pytest.raises(ValueError, match=r"unknown `failure` 'sneeze'.*miss"):
        env.make_expert(noise=0.0, failure="sneeze", rng=np.random.default_rng(0))
