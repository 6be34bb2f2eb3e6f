"""What code of this kind gets wrong, where no test of a single module would notice."""

import dataclasses
import sys

import pytest
import torch

from vla_rl.algorithms.behaviour_cloning import BehaviourCloning
from vla_rl.algorithms.grpo import GRPO
from vla_rl.algorithms.ppo import PPO
from vla_rl.algorithms.rabc import RABC
from vla_rl.algorithms.rftf import RFTF
from vla_rl.algorithms.settings import (
    CloneConfig,
    GRPOConfig,
    PPOConfig,
    RABCConfig,
    RFTFConfig,
    SpiralConfig,
)
from vla_rl.algorithms.spiral import Spiral
from vla_rl.data import make_chunks
from vla_rl.functional.advantages import group_advantages
from vla_rl.policies.flow_policy import FlowPolicy
from vla_rl.policies.residual_policy import ResidualPolicy
from vla_rl.rollout import collect_episodes
from vla_rl.testing import ToyProgressModel, ToyReachEnv, make_episodes, make_policy


def _watched(kind, **settings):
    """Return settings of ``kind`` and the names of those that somebody has read."""
    read = set()

    class Watched(kind):
        def __getattribute__(self, name):
            by = sys._getframe(1).f_globals["__name__"]
            # Being checked and written down is not being used.
            if by not in ("dataclasses", "vla_rl.algorithms.settings"):
                read.add(name)
            return super().__getattribute__(name)

    return Watched(**settings), read


SMALL = {"episodes_per_update": 8, "minibatch_size": 16, "num_epochs": 1}
PLAYED = {"progress_bar": False, "progress_model": ToyProgressModel()}


def _residual_policy():
    sizes = {"action_low": -1.0, "action_high": 1.0, "hidden_dim": 8}
    base = FlowPolicy(cameras=[], state_dim=4, action_dim=2, **sizes)
    return ResidualPolicy.around(base, hidden_dim=8, num_critics=2)


def _train(algorithm, config, out_dir):
    env = ToyReachEnv(num_envs=4, max_episode_steps=12, observe="state")
    if algorithm in (BehaviourCloning, RABC):
        episodes = make_episodes(2, observe="state")
        gained = [e | {"progress": torch.linspace(0, 1, len(e["action"]))} for e in episodes]
        samples = make_chunks(gained, chunk=4)
        run = algorithm(
            make_policy(cameras=[]), samples, config, out_dir=out_dir, progress_bar=False
        )
        return run.fit()
    policy = _residual_policy() if algorithm is Spiral else make_policy(cameras=[])
    return algorithm(policy, env, config, out_dir=out_dir, **PLAYED).fit(1)


@pytest.mark.parametrize(
    ("algorithm", "kind", "variants"),
    [
        (PPO, PPOConfig, [{"reward": "potential"}, {"kl_coefficient": 0.01}]),
        (GRPO, GRPOConfig, [{"group_size": 4, "kl_coefficient": 0.01}]),
        (RFTF, RFTFConfig, [{}]),
        (Spiral, SpiralConfig, [{}]),
        (BehaviourCloning, CloneConfig, [{}]),
        (RABC, RABCConfig, [{}]),
    ],
)
def test_no_setting_is_silently_ignored(tmp_path, algorithm, kind, variants):
    sizes = SMALL if hasattr(kind, "clip_low") else {"num_epochs": 1}
    if kind is SpiralConfig:
        sizes = {"episodes_per_round": 4, "steps_per_round": 1, "target_noise": 0.1}
    used = set()
    for i, variant in enumerate(variants):
        config, read = _watched(kind, **(sizes | variant))
        _train(algorithm, config, tmp_path / str(i))
        used |= read
    names = {field.name for field in dataclasses.fields(kind)}
    # Read through a property of the settings, which the tests of PPO cover.
    if "bootstraps_time_limit" in used:
        used.add("bootstrap_time_limit")
    assert names - used == set()


def test_an_all_fail_group_told_apart_by_noise_is_not_kept_by_its_outcome(tmp_path):
    """Returns that differ by a thousandth become advantages of more than 1."""
    reward = torch.tensor([[0.010, 0.012, 0.008, 0.011]])
    expected = torch.tensor([[-0.15, 1.02, -1.32, 0.44]])
    torch.testing.assert_close(group_advantages(reward, eps=0.0), expected, atol=5e-3, rtol=0.0)
    grpo = GRPO(
        make_policy(),
        ToyReachEnv(num_envs=4, max_episode_steps=4),
        GRPOConfig(group_size=4, episodes_per_update=8, keep_groups="mixed_outcome"),
        out_dir=tmp_path,
        **PLAYED,
    )
    rollout, _ = grpo._collect(0, torch.Generator().manual_seed(0))
    assert not rollout.episodes.success_once.any()
    assert not grpo._kept(rollout).any()
    assert not grpo._credit(rollout, {})["mask"].any()


class _Flickering(ToyReachEnv):
    """Every episode is a success in the middle of its first chunk, and none at its end."""

    def step_chunk(self, actions):
        step = super().step_chunk(actions)
        success = step.info["success"].copy()
        if (self._elapsed <= 4).all():
            success[:, 1] = True
        never = step.terminated & False
        return step._replace(
            terminated=never,
            truncated=step.truncated | step.terminated,
            info={**step.info, "success": success & ~step.terminated},
        )


def test_success_once_and_success_at_end_are_two_numbers():
    env = _Flickering(num_envs=4, max_episode_steps=10)
    episodes = collect_episodes(make_policy(), env, range(4)).episodes
    assert episodes.success_once.all()
    assert not episodes.success_at_end.any()


class _AutoReset(ToyReachEnv):
    """Gymnasium's NEXT_STEP: the step after an end ignores its action and begins anew."""

    def step_chunk(self, actions):
        step = super().step_chunk(actions)
        ended = self._over.copy()
        super().reset(seed=range(900, 900 + self.num_envs), options={"reset_mask": ended})
        # The row of the reset: executed as far as the environment is concerned, worth nothing.
        valid = step.valid | ended[:, None]
        return step._replace(valid=valid, observation=self._observe())


def test_the_row_of_a_next_step_reset_is_no_decision():
    def play(kind):
        env = kind(num_envs=4, max_episode_steps=10)
        return collect_episodes(make_policy(), env, range(8), deterministic=True)

    plain, resetting = play(ToyReachEnv), play(_AutoReset)
    assert torch.equal(plain.mask, resetting.mask)
    assert torch.equal(plain.episodes.length, resetting.episodes.length)
    torch.testing.assert_close(plain.log_prob, resetting.log_prob)


def test_critics_are_float32_and_send_nothing_into_the_policy():
    policy = make_policy()
    obs = ToyReachEnv(num_envs=3).reset(seed=0)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = policy.evaluate(policy.act(obs).replay)
    assert output.value.dtype == torch.float32
    output.value.sum().backward()
    moved = {name for name, p in policy.named_parameters() if p.grad is not None}
    assert moved
    assert all(name.startswith("value_head.") for name in moved)


@pytest.mark.parametrize("algorithm", [PPO, GRPO])
def test_each_process_plays_episodes_of_its_own(tmp_path, algorithm):
    kind = {PPO: PPOConfig, GRPO: GRPOConfig}[algorithm]
    sizes = {"episodes_per_update": 16} | ({"group_size": 4} if algorithm is GRPO else {})
    run = algorithm(
        make_policy(), ToyReachEnv(num_envs=4), kind(**sizes), out_dir=tmp_path, **PLAYED
    )
    seeds = []
    for rank in range(2):
        run._share = lambda rank=rank: (8, 8 * rank)
        seeds.append([seed for update in range(3) for seed in run._seeds(update)])
    assert not set(seeds[0]) & set(seeds[1])
    assert len(set(seeds[0] + seeds[1])) == (48 if algorithm is PPO else 12)
