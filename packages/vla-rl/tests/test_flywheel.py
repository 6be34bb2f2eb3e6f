import numpy as np
import pytest
import torch

from vla_rl.data import make_chunks
from vla_rl.flywheel import StepwiseEnv, record_episodes
from vla_rl.rollout import collect_episodes
from vla_rl.testing import ToyReachEnv, check_vec_env, make_policy
from vla_rl.toy import CAMERA
from vla_rl.types import EpisodeSink


class _List(EpisodeSink):
    def __init__(self):
        self.episodes = []

    def add_episode(self, frames, **columns):
        self.episodes.append({"frames": frames, **columns})


def _env(num_envs=4, **settings):
    return ToyReachEnv(num_envs=num_envs, max_episode_steps=10, **settings)


def _generator():
    return torch.Generator().manual_seed(0)


def _policy():
    return make_policy(action_low=-4.0, action_high=4.0)


@pytest.mark.parametrize("autoreset", ["disabled", "same_step"])
def test_recording_plays_the_episodes_of_a_rollout(autoreset):
    """Also where an environment starts anew in the middle of a chunk."""
    policy, sink, greedy = _policy(), _List(), autoreset == "same_step"
    how = [{"generator": _generator(), "deterministic": greedy} for _ in range(2)]
    recorded = record_episodes(policy, _env(autoreset=autoreset), range(30), sink, **how[0])
    # What waits and what has begun anew look different; greedy play alone does not notice.
    expected = collect_episodes(policy, _env(), range(30), **how[1])
    for name in ("seed", "success_at_end", "length", "env_return"):
        assert torch.equal(getattr(recorded.episodes, name), getattr(expected.episodes, name))
    torch.testing.assert_close(recorded.next_value, expected.next_value)
    assert [episode["seed"] for episode in sink.episodes] == list(range(30))
    lengths = [len(episode["action"]) for episode in sink.episodes]
    assert lengths == expected.episodes.length.tolist()
    assert recorded.episodes.success_once.any() or greedy


def test_every_row_is_what_was_seen_before_an_action_and_what_it_led_to():
    sink = _List()
    record_episodes(_policy(), _env(3), range(7), sink, generator=_generator())
    for episode in sink.episodes:
        env = _env(1)
        obs, _ = env.reset(seed=[episode["seed"]])
        for i, action in enumerate(episode["action"]):
            frame = obs[f"observation.images.{CAMERA}"][0]
            np.testing.assert_array_equal(episode["frames"][CAMERA][i], frame)
            np.testing.assert_array_equal(episode["state"][i], obs["observation.state"][0])
            step = env.step_chunk(action[None, None])
            assert episode["reward"][i] == step.reward[0, 0]
            assert episode["success"][i] == step.info["success"][0, 0]
            assert episode["done"][i] == (step.terminated | step.truncated)[0, 0]
            assert episode["task"] == obs["task"][0]
            obs = step.observation
        assert episode["done"].tolist() == [False] * (len(episode["action"]) - 1) + [True]


def test_only_successes_may_be_kept_and_learned_from():
    sink = _List()
    rollout = record_episodes(
        _policy(), _env(), range(30), sink, generator=_generator(), only_successes=True
    )
    successful = rollout.episodes.seed[rollout.episodes.success_at_end].tolist()
    assert [episode["seed"] for episode in sink.episodes] == successful
    samples = make_chunks(
        [
            {
                f"observation.images.{CAMERA}": episode["frames"][CAMERA],
                "observation.state": episode["state"],
                "action": episode["action"],
                "task": episode["task"],
            }
            for episode in sink.episodes
        ],
        chunk=4,
    )
    assert len(samples["task"]) == int(
        rollout.episodes.length[rollout.episodes.success_at_end].sum()
    )


def test_an_environment_stepped_one_by_one_keeps_the_contract():
    check_vec_env(StepwiseEnv(_env()), action_dim=2)
