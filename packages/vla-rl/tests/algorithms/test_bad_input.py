"""Bad input that only a running algorithm meets: one clear error, and nothing is lost."""

import numpy as np
import pytest
import torch
from lightning.fabric import Fabric

from vla_rl.algorithms.behaviour_cloning import clone
from vla_rl.algorithms.grpo import GRPO
from vla_rl.algorithms.ppo import PPO
from vla_rl.algorithms.settings import CloneConfig, GRPOConfig, PPOConfig
from vla_rl.data import make_chunks
from vla_rl.errors import CheckpointError
from vla_rl.policies.discretized_policy import DiscretizedPolicy
from vla_rl.policies.flow_policy import FlowPolicy
from vla_rl.policies.gaussian_policy import GaussianPolicy
from vla_rl.reductions import all_or_none
from vla_rl.testing import (
    ToyProgressModel,
    ToyReachEnv,
    make_episodes,
    make_observation,
    make_policy,
)

SMALL = {"episodes_per_update": 8, "minibatch_size": 16, "num_epochs": 1}


class _Changed(ToyReachEnv):
    """A toy world whose third answer is changed."""

    def __init__(self, change):
        super().__init__(num_envs=4, max_episode_steps=12)
        self.change, self.steps = change, 0

    def step_chunk(self, actions):
        self.steps += 1
        step = super().step_chunk(actions)
        return self.change(step) if self.steps == 9 else step


def _run(out_dir, change):
    return PPO(
        make_policy(),
        _Changed(change),
        PPOConfig(**SMALL),
        out_dir=out_dir,
        progress_model=ToyProgressModel(),
        progress_bar=False,
    )


def _shorter(step):
    return step._replace(**{name: getattr(step, name)[:, :3] for name in ("reward", "valid")})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s._replace(reward=s.reward * np.nan), r"finite rewards, .* episode of seed \d+"),
        (_shorter, r"`valid` of shape \(4, 4\) .* to match the policy's actions, got \(4, 3\)"),
        (lambda s: s._replace(valid=s.valid & False), r"to execute at least one step of the chunk"),
    ],
)
def test_an_environment_that_goes_wrong_later_leaves_the_last_checkpoint(tmp_path, change, message):
    run = _run(tmp_path, change)
    with pytest.raises(ValueError, match=message):
        run.fit(3)
    again = _run(tmp_path, lambda step: step)
    assert again.update == run.update >= 1
    for name, weights in again.policy.state_dict().items():
        assert torch.equal(weights, run.policy.state_dict()[name]), name


@pytest.mark.parametrize("value", [5.0, float("nan")])
def test_a_demonstrated_action_far_outside_the_bins_stops_before_the_step(tmp_path, value):
    samples = make_chunks(make_episodes(1), chunk=4)
    samples["action"][0, 0, 1] = value
    policy, start = make_policy(), make_policy().state_dict()
    with pytest.raises(ValueError, match=rf"`action` in \[-1, 1\] .* dimension 1, got {value:g}\."):
        clone(policy, samples, CloneConfig(num_epochs=1), out_dir=tmp_path, progress_bar=False)
    assert all(torch.equal(weights, start[name]) for name, weights in policy.state_dict().items())
    assert not (tmp_path / "last.ckpt").exists()


def test_an_action_a_little_outside_the_bins_is_cloned_as_their_end():
    """Ranges may be quantiles, and what lies outside is clipped, as OpenVLA clips it."""
    policy, samples = make_policy().eval(), make_chunks(make_episodes(1), chunk=4)
    losses = []
    for value in (1.0, 1.7):
        samples["action"][0, 0, 1] = value
        losses.append(policy.imitation_loss(samples))
    assert torch.equal(*losses)


def _continuous(kind, **settings):
    sizes = {"cameras": [], "state_dim": 4, "action_dim": 2, "hidden_dim": 8}
    return kind(**sizes, action_low=-1.0, action_high=1.0, **settings)


def _discretized(action_high=1.0):
    return DiscretizedPolicy(
        _continuous(GaussianPolicy), action_dim=2, action_low=-1.0, action_high=action_high
    )


@pytest.mark.parametrize(
    "policy", [_continuous(GaussianPolicy), _continuous(FlowPolicy), _discretized()]
)
def test_demonstrations_in_other_units_are_named_by_every_policy(policy):
    samples = make_chunks(make_episodes(1, observe="state"), chunk=4)
    policy.imitation_loss(samples)
    samples["action"] *= 1000.0
    with pytest.raises(
        ValueError, match=r"`action` in \[-1, 1\] .* got -?\d+\. Widen `action_low`"
    ):
        policy.imitation_loss(samples)


def test_a_run_with_another_range_of_actions_is_not_continued(tmp_path):
    samples = make_chunks(make_episodes(1, observe="state"), chunk=4)
    settings = {"out_dir": tmp_path, "progress_bar": False}
    clone(_discretized(), samples, CloneConfig(num_epochs=1), **settings)
    with pytest.raises(
        CheckpointError,
        match=r"`policy_config.action_high` is \[1.0, 1.0\] there and \[2.0, 2.0\] here",
    ):
        clone(_discretized(action_high=2.0), samples, CloneConfig(num_epochs=1), **settings)


@pytest.mark.parametrize("policy", [make_policy(cameras=[]), _discretized()])
def test_a_decision_with_other_bins_is_named(policy):
    replay = policy.act(make_observation(2, cameras=(), state_dim=4)).replay
    replay["action_tokens"][1, 2, 0] = policy.num_bins
    message = f"`action_tokens` from 0 to {policy.num_bins - 1}, .* got {policy.num_bins}"
    with pytest.raises(ValueError, match=message):
        policy.evaluate(replay)
    del replay["action_tokens"]
    with pytest.raises(ValueError, match="'action_tokens' in the replay of a decision"):
        policy.evaluate(replay)


def test_groups_of_one_and_checkpoints_of_others_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="`group_size` of at least 2 episodes to compare, got 1"):
        GRPOConfig(group_size=1)
    _run(tmp_path, lambda step: step).fit(1)
    saved = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(CheckpointError, match="`algorithm` is 'ppo' there and 'grpo' here"):
        GRPO(
            make_policy(),
            ToyReachEnv(num_envs=4),
            GRPOConfig(),
            out_dir=tmp_path,
            progress_model=ToyProgressModel(),
        )
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == saved


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clip_low": 1.0}, r"`clip_low` in \(0, 1\), got 1.0"),
        ({"clip_high": 0.0}, "`clip_high` > 0, got 0.0"),
        ({"dual_clip": 1.0}, "`dual_clip` > 1 or None, got 1.0"),
        ({"kl_stop": 0.0}, "`kl_stop` > 0, got 0.0"),
        ({"value_clip": -0.2}, "`value_clip` > 0, got -0.2"),
    ],
)
def test_clip_ranges_that_make_no_sense_are_named_before_anything_is_played(settings, message):
    with pytest.raises(ValueError, match=message):
        PPOConfig(**settings)


def test_what_fails_in_one_process_ends_the_others_with_a_word():
    fabric = Fabric(accelerator="cpu", devices=1)
    with pytest.raises(ValueError, match="the reason"), all_or_none(fabric):
        raise ValueError("the reason")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fabric, "all_reduce", lambda x, reduce_op: torch.ones_like(x))
        with pytest.raises(RuntimeError, match="Another process failed"), all_or_none(fabric):
            pass
