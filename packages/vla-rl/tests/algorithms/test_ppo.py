import csv
from dataclasses import replace

import pytest
import torch

from vla_rl.algorithms.behaviour_cloning import clone
from vla_rl.algorithms.episode_reward import episode_rewards
from vla_rl.algorithms.ppo import PPO
from vla_rl.algorithms.settings import CloneConfig, PPOConfig
from vla_rl.data import make_chunks
from vla_rl.errors import CheckpointError
from vla_rl.policies.token_policy import TokenPolicy
from vla_rl.rollout import collect_episodes
from vla_rl.testing import ToyProgressModel, ToyReachEnv, make_episodes, make_policy

SMALL = {"episodes_per_update": 8, "minibatch_size": 16, "num_epochs": 2}


def _ppo(out_dir, policy=None, *, env=None, **settings):
    return PPO(
        policy or make_policy(),
        env or ToyReachEnv(num_envs=4, max_episode_steps=12),
        PPOConfig(**(SMALL | settings)),
        out_dir=out_dir,
        progress_model=ToyProgressModel(),
        progress_bar=False,
    )


def _without_times(history):
    return [{k: v for k, v in row.items() if not k.startswith("seconds")} for row in history]


def _assert_equal_weights(left, right):
    for name, weights in left.state_dict().items():
        assert torch.equal(weights, right.state_dict()[name]), name


class _Interrupting(ToyReachEnv):
    """Raises what Ctrl-C raises, at a given chunk."""

    calls = 0

    def step_chunk(self, actions):
        self.calls += 1
        if self.calls == 20:
            raise KeyboardInterrupt
        return super().step_chunk(actions)


def test_a_run_stopped_and_resumed_is_the_run_never_stopped(tmp_path):
    straight, stopped, resumed = make_policy(), make_policy(), make_policy()
    expected = _ppo(tmp_path / "a", straight).fit(4)
    _ppo(tmp_path / "b", stopped).fit(2)
    torch.manual_seed(99)  # the state of the global generator must not matter
    history = _ppo(tmp_path / "b", resumed).fit(4)
    assert _without_times(history) == _without_times(expected)
    _assert_equal_weights(straight, resumed)


def test_ctrl_c_leaves_a_checkpoint_to_continue_from(tmp_path):
    straight, resumed = make_policy(), make_policy()
    expected = _ppo(tmp_path / "a", straight).fit(4)
    with pytest.raises(KeyboardInterrupt):
        _ppo(tmp_path / "b", env=_Interrupting(num_envs=4, max_episode_steps=12)).fit(4)
    continued = _ppo(tmp_path / "b", resumed)
    assert 0 < continued.update < 4
    assert _without_times(continued.fit(4)) == _without_times(expected)
    _assert_equal_weights(straight, resumed)
    assert sorted(p.name for p in (tmp_path / "b").iterdir()) == [
        "last.ckpt",
        "metrics.csv",
        "metrics.png",
    ]


def test_metrics_are_consistent_and_on_disk(tmp_path):
    history = _ppo(tmp_path).fit(2)
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [{k: float(v) for k, v in row.items()} for row in rows] == history
    for row in history:
        assert row["reward_total"] == pytest.approx(row["reward_sparse"] + row["reward_shaping"])
        assert row["reward_sparse"] == row["success_at_end"]
        assert row["log_ratio_before_update"] < 1e-5
        assert 0.0 < row["entropy"] < 2.2  # log of nine bins is 2.197
        assert row["num_steps"] >= 1
    assert [row["episodes"] for row in history] == [8, 16]


def test_only_the_critic_learns_at_first(tmp_path):
    policy, start = make_policy(), make_policy()
    ppo = _ppo(tmp_path, policy, value_warmup_updates=1)
    ppo.fit(1)
    moved = {
        name
        for name, weights in policy.state_dict().items()
        if not torch.equal(weights, start.state_dict()[name])
    }
    assert moved
    assert all(name.startswith("value_head.") for name in moved)
    ppo.fit(2)
    assert not torch.equal(policy.token_queries, start.token_queries)


def test_an_update_ends_when_the_policy_has_moved_too_far(tmp_path):
    row = _ppo(tmp_path, kl_stop=1e-9, value_warmup_updates=0).fit(1)[0]
    assert row["num_steps"] == 1


def test_every_episode_has_its_own_seed(tmp_path):
    seen = []

    class Watched(ToyReachEnv):
        def reset(self, *, seed=None, options=None):
            seen.extend(seed)
            return super().reset(seed=seed, options=options)

    _ppo(tmp_path, env=Watched(num_envs=4, max_episode_steps=4), seed_start=100).fit(3)
    assert seen == list(range(100, 124))


def test_a_failure_is_paid_its_progress_and_a_success_one(tmp_path):
    ppo = _ppo(tmp_path, progress_cap=0.5, gamma=0.9)
    rollout = collect_episodes(
        ppo.policy, ppo.env, range(8), gamma=0.9, progress_model=ppo.progress_model
    )
    reward, _ = episode_rewards(rollout, ppo.config)
    expected = torch.where(
        rollout.episodes.success_at_end, 1.0, rollout.episodes.progress.clamp(max=0.5)
    )
    torch.testing.assert_close(reward, expected)


class _Drifting(TokenPolicy):
    def evaluate(self, replay):
        output = super().evaluate(replay)
        return replace(output, log_prob=output.log_prob + 0.0625)


def test_a_policy_that_scores_itself_differently_is_found(tmp_path):
    with pytest.raises(RuntimeError, match=r"difference of 0\.06.* in update 1, epoch 1"):
        _ppo(tmp_path, make_policy(_Drifting)).fit(1)


def test_a_loss_that_is_not_finite_stops_before_the_step(tmp_path):
    policy = make_policy()
    ppo = _ppo(tmp_path, policy)
    ppo.fit(1)
    with torch.no_grad():
        policy.value_head[2].bias.fill_(float("nan"))
    before = policy.token_queries.detach().clone()
    with pytest.raises(FloatingPointError, match=r"got nan .* in update 2, epoch 1, minibatch 1"):
        ppo.fit(2)
    assert torch.equal(policy.token_queries, before)
    assert _ppo(tmp_path).update == 1


def test_checkpoints_of_other_runs_are_refused(tmp_path):
    _ppo(tmp_path).fit(1)
    saved = (tmp_path / "last.ckpt").read_bytes()
    with pytest.raises(CheckpointError, match=r"`config.lr` is 0.0003 there and 0.1 here"):
        _ppo(tmp_path, lr=0.1)
    with pytest.raises(CheckpointError, match=r"`policy_config.num_bins` is 9 there and 5 here"):
        _ppo(tmp_path, make_policy(num_bins=5))
    samples = make_chunks(make_episodes(1), chunk=4)
    with pytest.raises(CheckpointError, match=r"`algorithm` is 'ppo' there"):
        clone(make_policy(), samples, CloneConfig(num_epochs=1), out_dir=tmp_path)
    assert (tmp_path / "last.ckpt").read_bytes() == saved


def test_a_broken_checkpoint_is_named(tmp_path):
    _ppo(tmp_path).fit(1)
    content = (tmp_path / "last.ckpt").read_bytes()
    (tmp_path / "last.ckpt").write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=r"readable checkpoint at .*last\.ckpt"):
        _ppo(tmp_path)


def test_what_is_missing_is_named(tmp_path):
    env = ToyReachEnv()
    with pytest.raises(ValueError, match=r"`progress_model`, .* ppo reads at failures, got None"):
        PPO(make_policy(), env, out_dir=tmp_path)
    with pytest.raises(ValueError, match="submodule `value_head`, got Linear"):
        PPO(torch.nn.Linear(1, 1), env, PPOConfig(reward="sparse"), out_dir=tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"episodes_per_update": 0}, "`episodes_per_update` > 0, got 0"),
        ({"gamma": 1.5}, r"`gamma` in \[0, 1\], got 1.5"),
        ({"level": "word"}, r"`level` in .*, got 'word'"),
        ({"reward": "dense"}, r"`reward` in \('feat2go', 'sparse', .*got 'dense'"),
        ({"kl_coefficient": -1.0}, "`kl_coefficient` ≥ 0, got -1.0"),
        ({"kl_target": 0.1}, "a `kl_coefficient` above 0 to adapt, got 0.1 and 0.0"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        PPOConfig(**settings)


@pytest.mark.parametrize("reward", ["potential", "naive"])
def test_dense_progress_is_paid_on_top_of_the_outcome(tmp_path, reward):
    coefficient = 0.5
    ppo = _ppo(tmp_path, reward=reward, shaping_coefficient=coefficient, gamma=0.9)
    rollout = collect_episodes(
        ppo.policy,
        ppo.env,
        range(8),
        generator=torch.Generator().manual_seed(0),
        gamma=0.9,
        progress_model=ppo.progress_model,
        progress_at="decisions",
    )
    metrics = {}
    ppo._credit(rollout, metrics)
    expected = 0.0
    for d in range(len(rollout.discount)):
        reached = float(rollout.discount[d] * rollout.next_progress[d])
        if reward == "naive":
            expected += coefficient * reached
        else:
            over = bool(rollout.terminated[d])
            expected += coefficient * ((0.0 if over else reached) - float(rollout.progress[d]))
    assert float(metrics["reward_shaping"]) == pytest.approx(expected / 8, abs=1e-5)


def test_a_penalty_holds_the_policy_near_where_it_started(tmp_path):
    free, held = (
        _ppo(tmp_path / str(weight), kl_coefficient=weight, kl_stop=None).fit(4)
        for weight in (1e-9, 30.0)
    )
    assert held[-1]["kl_reference"] < 0.5 * free[-1]["kl_reference"]
    assert free[0]["kl_reference"] == 0.0  # only the critic learns in the first update


def test_a_run_with_an_adaptive_penalty_resumes_as_if_never_stopped(tmp_path):
    settings = {"kl_coefficient": 0.01, "kl_target": 1e-6}
    straight, resumed = make_policy(), make_policy()
    expected = _ppo(tmp_path / "a", straight, **settings).fit(4)
    _ppo(tmp_path / "b", **settings).fit(3)
    history = _ppo(tmp_path / "b", resumed, **settings).fit(4)
    assert _without_times(history) == _without_times(expected)
    assert [row["kl_coefficient"] for row in history] == [0.01, 0.01, 0.02, 0.04]
    _assert_equal_weights(straight, resumed)


@pytest.mark.parametrize("level", ["token", "chunk"])
def test_a_minibatch_in_parts_makes_the_step_of_the_whole(tmp_path, level):
    settings = {"value_warmup_updates": 0, "kl_coefficient": 0.1, "level": level, "num_epochs": 1}
    whole, parts = make_policy(), make_policy()
    one = _ppo(tmp_path / "a", whole, **settings).fit(1)[0]
    other = _ppo(tmp_path / "b", parts, micro_batch_size=5, **settings).fit(1)[0]
    for key in one.keys() - {"seconds_rollout", "seconds_reward", "seconds_update"}:
        assert other[key] == pytest.approx(one[key], abs=1e-5), key
    for name, weights in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[name], weights, atol=2e-5, rtol=0.0, msg=name)
    with pytest.raises(ValueError, match="`micro_batch_size` > 0, got 0"):
        PPOConfig(micro_batch_size=0)
