import numpy as np
import pytest

from bench_adapters.envs import toy
from bench_adapters.testing import check_environment


@pytest.fixture
def env():
    return toy.make("reach")


def play(env, seed, *, failure=None, noise=0.0):
    rng = np.random.default_rng(seed)
    env.reset(seed)
    expert = env.make_expert(noise=noise, failure=failure, rng=rng)
    expert.reset()
    primitives, success, length, ended = [], False, 0, False
    while not ended:
        action, primitive = expert.act()
        chunk = env.step_chunk(action[None])
        primitives.append(primitive)
        success |= bool(chunk.success[0])
        ended = bool(chunk.terminated[0] or chunk.truncated[0])
        length += 1
    return success, length, primitives


def test_conforms(env):
    check_environment(env)


def test_expert_succeeds_with_and_without_noise(env):
    assert all(play(env, seed)[0] for seed in range(30))
    assert np.mean([play(env, seed, noise=0.2)[0] for seed in range(30)]) > 0.9


@pytest.mark.parametrize("failure", toy.ReachEnvironment.failure_modes)
def test_failing_expert_fails_and_runs_to_the_limit(env, failure):
    outcomes = [play(env, seed, failure=failure) for seed in range(30)]
    assert not any(success for success, _, _ in outcomes)
    assert {length for _, length, _ in outcomes} == {env.max_episode_steps}


def test_primitives_come_in_order(env):
    _, _, primitives = play(env, 4)
    assert primitives == sorted(primitives)  # approach before settle
    assert set(primitives) == {"approach", "settle"}


def test_state_is_position_and_last_move(env):
    start = env.reset(0)["observation.state"]
    chunk = env.step_chunk(np.array([[1.0, -0.5], [5.0, 0.0]], np.float32))
    state = chunk.observation["observation.state"]
    np.testing.assert_allclose(state[2:], [0.1, 0.0], atol=1e-6)  # clipped to 1, times the step
    np.testing.assert_allclose(state[:2], start[:2] + np.array([0.2, -0.05]), atol=1e-6)


def test_picture_shows_the_point_and_the_named_square(env):
    observation = env.reset(3)
    frame = observation["observation.images.top"]
    size = len(frame)

    def pixel(position):
        x, y = position
        return tuple(frame[int((1 - y) * size), int(x * size)])

    assert pixel(env.position) == (255, 255, 255)
    assert pixel(env.squares[0]) == toy.COLORS[env.colors[0]]
    assert env.colors[0] in observation["task"]


def test_bad_arguments(env):
    with pytest.raises(ValueError, match="unknown toy task 'push'; known tasks"):
        toy.make("push")
    with pytest.raises(ValueError, match=r"image_size.*got 31"):
        toy.make("reach", image_size=31)
    with pytest.raises(ValueError, match=r"max_episode_steps.*got 0"):
        toy.make("reach", max_episode_steps=0)
    with pytest.raises(ValueError, match="unknown `failure` 'sneeze'"):
        env.make_expert(noise=0.0, failure="sneeze", rng=np.random.default_rng(0))
