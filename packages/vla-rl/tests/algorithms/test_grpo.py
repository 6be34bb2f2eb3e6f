import numpy as np
import pytest
import torch

from vla_rl.algorithms.grpo import GRPO
from vla_rl.algorithms.ppo import PPO
from vla_rl.algorithms.settings import GRPOConfig, PPOConfig
from vla_rl.decisions import Episodes, Rollout, join_rollouts, select_episodes
from vla_rl.errors import CheckpointError
from vla_rl.testing import ToyProgressModel, ToyReachEnv, make_policy

SMALL = {"episodes_per_update": 8, "group_size": 4, "minibatch_size": 16, "num_epochs": 2}


def _grpo(out_dir, policy=None, *, env=None, **settings):
    return GRPO(
        policy or make_policy(),
        env or ToyReachEnv(num_envs=4, max_episode_steps=12),
        GRPOConfig(**(SMALL | settings)),
        out_dir=out_dir,
        progress_model=ToyProgressModel(),
        progress_bar=False,
    )


def _rollout(lengths, success, progress):
    """Episodes of chunks of two, of which the last may be cut short."""
    masks, episode, last = [], [], []
    for number, length in enumerate(lengths):
        full, rest = divmod(length, 2)
        mask = [[True, True]] * full + ([[True, False]] if rest else [])
        masks += mask
        episode += [number] * len(mask)
        last += [False] * (len(mask) - 1) + [True]
    d = len(masks)
    return Rollout(
        replay={},
        log_prob=torch.zeros(d, 2, 1),
        value=None,
        next_value=None,
        progress=None,
        next_progress=None,
        reward=torch.zeros(d),
        discount=torch.ones(d),
        mask=torch.tensor(masks),
        terminated=torch.tensor(last),
        truncated=torch.zeros(d, dtype=torch.bool),
        episode=torch.tensor(episode),
        episodes=Episodes(
            seed=torch.zeros(len(lengths), dtype=torch.long),
            success_once=torch.tensor(success),
            success_at_end=torch.tensor(success),
            length=torch.tensor(lengths),
            env_return=torch.zeros(len(lengths)),
            progress=torch.tensor(progress),
        ),
    )


def test_a_run_stopped_and_resumed_is_the_run_never_stopped(tmp_path):
    straight, resumed = make_policy(), make_policy()
    _grpo(tmp_path / "a", straight).fit(4)
    _grpo(tmp_path / "b").fit(2)
    torch.manual_seed(99)  # the state of the global generator must not matter
    _grpo(tmp_path / "b", resumed).fit(4)
    for name, weights in straight.state_dict().items():
        assert torch.equal(weights, resumed.state_dict()[name]), name


def test_groups_share_a_seed_and_no_two_groups_do(tmp_path):
    seen = []

    class Watched(ToyReachEnv):
        def reset(self, *, seed=None, options=None):
            seen.extend(seed)
            return super().reset(seed=seed, options=options)

    _grpo(tmp_path, env=Watched(num_envs=4, max_episode_steps=4), seed_start=100).fit(2)
    assert seen == [100] * 4 + [101] * 4 + [102] * 4 + [103] * 4


def test_credit_is_the_discounted_comparison_within_the_group(tmp_path):
    grpo = _grpo(tmp_path, group_size=2, episodes_per_update=4, gamma=0.9)
    rollout = _rollout([4, 3, 2, 5], [True, False, False, False], [0.0, 0.5, 0.2, 0.2])
    metrics = {}
    credit = grpo._credit(grpo._choose(rollout, metrics), metrics)
    # The standard deviation of two numbers is their difference by the root of 2.
    expected = torch.tensor([0.9**2, 1.0, -(0.9**1), -1.0, 0.0, 0.0, 0.0, 0.0]) * 0.5**0.5
    torch.testing.assert_close(credit["advantage"], expected, atol=1e-5, rtol=0)
    assert credit["mask"].any(-1).tolist() == [True] * 4 + [False] * 4
    assert metrics["kept_groups_share"] == 0.5


@pytest.mark.parametrize(
    ("keep_groups", "kept"),
    [
        ("all", [True] * 3),
        ("mixed_reward", [True, True, False]),
        ("mixed_outcome", [True] + [False] * 2),
    ],
)
def test_which_groups_count(tmp_path, keep_groups, kept):
    grpo = _grpo(tmp_path, group_size=2, episodes_per_update=6, keep_groups=keep_groups)
    progress = [0.0, 0.3, 0.3, 0.4, 0.0, 0.0]
    rollout = _rollout([2] * 6, [True, False, False, False, True, True], progress)
    credit = grpo._credit(rollout, {})
    assert credit["mask"].any(-1).tolist() == [k for k in kept for _ in range(2)]


def test_only_feat2go_learns_from_groups_that_all_fail(tmp_path):
    """One chunk of four steps is never enough, so every outcome is the same."""
    start = make_policy().state_dict()
    for reward in ("sparse", "feat2go"):
        policy = make_policy()
        env = ToyReachEnv(num_envs=4, max_episode_steps=4)
        row = _grpo(tmp_path / reward, policy, env=env, reward=reward).fit(1)[0]
        assert row["success_once"] == 0.0
        assert (row["kept_groups_share"] > 0.0) == (reward == "feat2go")
        moved = any(not torch.equal(w, start[name]) for name, w in policy.state_dict().items())
        assert moved == (reward == "feat2go")


def test_the_critic_is_left_alone(tmp_path):
    policy, start = make_policy(), make_policy().state_dict()
    _grpo(tmp_path, policy).fit(2)
    state = policy.state_dict()
    moved = {name for name in state if not torch.equal(state[name], start[name])}
    assert "token_queries" in moved
    assert not any(name.startswith("value_head.") for name in moved)


def test_bad_settings_and_foreign_checkpoints(tmp_path):
    with pytest.raises(ValueError, match="`group_size` of at least 2 episodes to compare, got 1"):
        GRPOConfig(group_size=1)
    with pytest.raises(ValueError, match="multiple of `group_size` 5, got 96"):
        GRPOConfig(group_size=5)
    with pytest.raises(ValueError, match=r"`reward` in \('feat2go', 'sparse'\), got 'naive'"):
        GRPOConfig(reward="naive")
    with pytest.raises(ValueError, match="leaves none out, got 2 and 'all'"):
        GRPOConfig(max_sampling_rounds=2, keep_groups="all")
    with pytest.raises(ValueError, match=r"`max_sampling_rounds` of at least 1, .* got 0"):
        GRPOConfig(max_sampling_rounds=0)
    with pytest.raises(ValueError, match=r"`keep_groups` in .*, got 'some'"):
        GRPOConfig(keep_groups="some")
    _grpo(tmp_path).fit(1)
    env, model = ToyReachEnv(num_envs=4), ToyProgressModel()
    with pytest.raises(CheckpointError, match=r"`algorithm` is 'grpo' there and 'ppo' here"):
        PPO(make_policy(), env, PPOConfig(), out_dir=tmp_path, progress_model=model)


class _Scripted(ToyReachEnv):
    """Episodes of one chunk; in the groups of seeds 0, 3 and 5 every other one is a success."""

    seeds = ()
    played = 0

    def reset(self, *, seed=None, options=None):
        self.seeds = list(seed)
        self.played += len(self.seeds)
        return super().reset(seed=seed, options=options)

    def step_chunk(self, actions):
        step = super().step_chunk(actions)
        mixed = np.array([seed in (0, 3, 5) for seed in self.seeds])
        success = np.zeros(step.valid.shape, dtype=bool)
        success[:, -1] = mixed & (np.arange(len(mixed)) % 2 == 0)
        end = np.zeros_like(success)
        end[:, -1] = ~success[:, -1]
        every = np.ones_like(success)
        info = {
            "success": success,
            "final_obs": step.observation,
            "_final_obs": np.ones(len(mixed), dtype=bool),
        }
        return step._replace(terminated=success, truncated=end, valid=every, info=info)


@pytest.mark.parametrize(
    ("episodes", "most", "rounds", "counted"),
    [(8, 1, 1, [0]), (8, 2, 2, [0, 3]), (8, 9, 2, [0, 3]), (12, 9, 2, [0, 3, 5])],
)
def test_dynamic_sampling_plays_until_enough_groups_are_mixed(
    tmp_path, episodes, most, rounds, counted
):
    env = _Scripted(num_envs=4, max_episode_steps=100)
    settings = {"keep_groups": "mixed_outcome", "max_sampling_rounds": most}
    settings |= {"episodes_per_update": episodes, "seed_start": 0}
    grpo = _grpo(tmp_path, env=env, **settings)
    rollout, _ = grpo._collect(0, torch.Generator().manual_seed(0))
    metrics = {}
    chosen = grpo._choose(rollout, metrics)
    assert env.played == len(rollout.episodes.seed) == rounds * episodes
    assert metrics["sampling_rounds"] == rounds
    assert len(chosen.episodes.seed) == episodes
    mask = grpo._credit(chosen, {})["mask"].any(-1)
    assert chosen.episodes.seed[chosen.episode[mask]].unique().tolist() == counted


def test_chosen_episodes_keep_their_decisions():
    rollout = _rollout([4, 3, 2, 5], [True, False, False, True], [0.0] * 4)
    rollout.episodes.seed.copy_(torch.arange(4))
    chosen = select_episodes(rollout, torch.tensor([3, 1]))
    assert chosen.episodes.seed.tolist() == [3, 1]
    assert chosen.episode.tolist() == [0, 0, 0, 1, 1]
    torch.testing.assert_close(chosen.mask, torch.cat([rollout.mask[5:], rollout.mask[2:4]]))
    both = join_rollouts([chosen, rollout])
    assert both.episode.tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 5, 5, 5]
    assert both.episodes.seed.tolist() == [3, 1, 0, 1, 2, 3]


def test_a_run_that_samples_dynamically_resumes_as_if_never_stopped(tmp_path):
    settings = {"keep_groups": "mixed_outcome", "max_sampling_rounds": 3}
    straight, resumed = make_policy(), make_policy()
    expected = _grpo(tmp_path / "a", straight, **settings).fit(3)
    _grpo(tmp_path / "b", **settings).fit(1)
    history = _grpo(tmp_path / "b", resumed, **settings).fit(3)
    assert [r["success_once"] for r in history] == [r["success_once"] for r in expected]
    assert history[0]["sampling_rounds"] > 1
    for name, weights in straight.state_dict().items():
        assert torch.equal(weights, resumed.state_dict()[name]), name
