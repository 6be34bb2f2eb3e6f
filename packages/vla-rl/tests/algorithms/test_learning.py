"""Do the algorithms learn? On held-out episodes of the toy world, from a seed of their own."""

import pytest
import torch

from vla_rl.algorithms.behaviour_cloning import clone
from vla_rl.algorithms.grpo import GRPO
from vla_rl.algorithms.ppo import PPO
from vla_rl.algorithms.rftf import RFTF
from vla_rl.algorithms.settings import CloneConfig, GRPOConfig, PPOConfig, RFTFConfig
from vla_rl.algorithms.spiral import Spiral, SpiralConfig
from vla_rl.data import make_chunks, state_statistics
from vla_rl.policies.flow_policy import FlowPolicy
from vla_rl.policies.residual_policy import ResidualPolicy
from vla_rl.policies.token_policy import TokenPolicy
from vla_rl.rollout import collect_episodes
from vla_rl.testing import ToyProgressModel, ToyReachEnv, make_episodes, make_policy
from vla_rl.toy import TASKS

pytestmark = pytest.mark.slow
STATE_ONLY = {"cameras": [], "state_dim": 4, "action_dim": 2, "hidden_dim": 64}
STATE_ONLY |= {"action_low": -1.0, "action_high": 1.0}


def _success(policy, env, count=200):
    generator = torch.Generator().manual_seed(0)
    seeds = range(1_000_000, 1_000_000 + count)
    episodes = collect_episodes(policy, env, seeds, generator=generator).episodes
    return float(episodes.success_once.float().mean())


@pytest.mark.parametrize(
    ("algorithm", "config", "num_updates"),
    [
        (PPO, PPOConfig(episodes_per_update=64, minibatch_size=128, lr=1e-3), 50),
        (
            GRPO,
            GRPOConfig(
                episodes_per_update=128,
                group_size=4,
                max_sampling_rounds=4,
                minibatch_size=128,
                lr=1e-3,
            ),
            60,
        ),
    ],
)
def test_from_nothing_to_nearly_always(tmp_path, algorithm, config, num_updates):
    """Random weights reach the goal about once in thirty episodes; the expert always does."""
    policy = TokenPolicy(**STATE_ONLY, num_bins=5)
    env = ToyReachEnv(num_envs=config.episodes_per_update, observe="state")
    before = _success(policy, env)
    algorithm(
        policy,
        env,
        config,
        out_dir=tmp_path,
        progress_model=ToyProgressModel(),
        progress_bar=False,
    ).fit(num_updates)
    assert before < 0.1
    assert _success(policy, env) >= 0.95


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_grpo_learns_from_groups_that_all_fail_with_feat2gos_reward_only(tmp_path, seed):
    """Random weights do not reach goals this far away: outcomes tell no episode from another."""
    success = {}
    for reward in ("feat2go", "sparse"):
        torch.manual_seed(seed)
        policy = TokenPolicy(**STATE_ONLY, num_bins=5)
        env = ToyReachEnv(num_envs=128, observe="state", min_distance=1.0)
        sizes = {"episodes_per_update": 128, "group_size": 4, "minibatch_size": 128, "lr": 1e-3}
        rows = GRPO(
            policy,
            env,
            GRPOConfig(**sizes, reward=reward, seed=seed),
            out_dir=tmp_path / reward,
            progress_model=ToyProgressModel(reach=2.6),
            progress_bar=False,
        ).fit(25)
        assert rows[0]["success_once"] == 0.0
        assert (rows[0]["kept_groups_share"] > 0.9) == (reward == "feat2go")
        success[reward] = _success(policy, env)
    assert success["sparse"] <= 0.02  # one lucky episode in thousands is all it ever sees
    assert success["feat2go"] >= 0.5


def test_rftf_takes_a_weak_clone_to_nearly_always(tmp_path):
    policy = TokenPolicy(**STATE_ONLY, num_bins=5)
    samples = make_chunks(make_episodes(15, seed=0, noise=0.5, observe="state"), chunk=4)
    clone(policy, samples, CloneConfig(num_epochs=30), out_dir=tmp_path / "a", progress_bar=False)
    env = ToyReachEnv(num_envs=64, observe="state")
    before = _success(policy, env)
    RFTF(
        policy,
        env,
        RFTFConfig(
            episodes_per_update=64,
            minibatch_size=128,
            lr=1e-3,
            eta_success=1.0,
            kl_coefficient=0.0,
            kl_target=None,
        ),
        out_dir=tmp_path / "b",
        progress_model=ToyProgressModel(),
        progress_bar=False,
    ).fit(80)
    assert before < 0.85
    assert _success(policy, env) >= 0.95


def test_spiral_mends_a_base_that_stays_as_it_is(tmp_path):
    base = FlowPolicy(**STATE_ONLY)
    samples = make_chunks(make_episodes(6, seed=0, noise=0.5, observe="state"), chunk=4)
    clone(base, samples, CloneConfig(num_epochs=60), out_dir=tmp_path / "a", progress_bar=False)
    policy = ResidualPolicy(
        base,
        feature_dim=64,
        action_low=base.action_low,
        action_high=base.action_high,
        hidden_dim=64,
        num_critics=2,
        residual_scale=0.5,
    )
    env = ToyReachEnv(num_envs=64, observe="state")
    before = _success(base, env)
    Spiral(
        policy,
        env,
        SpiralConfig(steps_per_round=300, batch_size=128, num_draws=2, bc_weight=0.3, lr=1e-3),
        out_dir=tmp_path / "b",
        progress_model=ToyProgressModel(),
        progress_bar=False,
    ).fit(6)
    assert _success(base, env) == before
    assert _success(policy, env) >= before + 0.25


@pytest.mark.parametrize(("algorithm", "config"), [(PPO, PPOConfig), (GRPO, GRPOConfig)])
def test_a_weak_clone_that_sees_improves(tmp_path, algorithm, config):
    """By 25 points, from images, under Feat2Go's reward."""
    samples = make_chunks(make_episodes(30, seed=100_000, noise=0.5, tasks=TASKS[:1]), chunk=4)
    policy = make_policy(
        channels=(16, 32, 32),
        image_dim=64,
        hidden_dim=128,
        shift_pixels=0,
        **state_statistics(samples),
    )
    clone(policy, samples, CloneConfig(num_epochs=40), out_dir=tmp_path / "a", progress_bar=False)
    env = ToyReachEnv(num_envs=32, tasks=TASKS[:1])
    before = _success(policy, env)
    algorithm(
        policy,
        env,
        config(episodes_per_update=128, minibatch_size=128),
        out_dir=tmp_path / "b",
        progress_model=ToyProgressModel(),
        progress_bar=False,
    ).fit(32)
    assert 0.2 < before < 0.65
    assert _success(policy, env) > before + 0.25  # two standard errors of the difference are 0.1
