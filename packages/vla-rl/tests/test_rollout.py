import threading
import time

import numpy as np
import pytest
import torch

from vla_rl.functional.action_bins import decode_actions
from vla_rl.policies.token_policy import TokenPolicy
from vla_rl.rollout import collect_episodes
from vla_rl.testing import ToyProgressModel, ToyReachEnv
from vla_rl.types import ProgressModel

GAMMA = 0.9


def _policy(chunk=4):
    torch.manual_seed(0)
    return TokenPolicy(
        cameras=["front"],
        state_dim=2,
        action_dim=2,
        image_size=16,
        chunk=chunk,
        num_bins=5,
        action_low=-4.0,
        action_high=4.0,
        channels=(4, 4, 4),
        image_dim=8,
        hidden_dim=16,
    ).eval()


def _collect(policy=None, *, num_envs=4, seeds=range(10), max_steps=10, autoreset="disabled", **kw):
    # Ten steps are not a multiple of the chunk, so episodes are cut within one.
    env = ToyReachEnv(num_envs=num_envs, max_episode_steps=max_steps, autoreset=autoreset)
    generator = torch.Generator().manual_seed(0)
    return collect_episodes(policy or _policy(), env, seeds, generator=generator, gamma=GAMMA, **kw)


def _assert_same(left, right):
    for name, value in vars(left).items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(getattr(right, name), value, equal_nan=True, msg=name)
    for key in left.replay:
        assert torch.equal(left.replay[key], right.replay[key])


def test_decisions_agree_with_playing_every_episode_step_by_step():
    policy, rollout = _policy(), _collect(seeds=range(40), num_envs=7)
    episodes = rollout.episodes
    tokens = rollout.replay["action_tokens"]
    actions = decode_actions(tokens, policy.action_low, policy.action_high, num_bins=5).numpy()
    assert episodes.success_once.any()
    assert not episodes.success_once.all()
    for e, seed in enumerate(episodes.seed.tolist()):
        env = ToyReachEnv(num_envs=1, max_episode_steps=10)
        env.reset(seed=seed)
        length, success, decisions = 0, False, (rollout.episode == e).nonzero()[:, 0].tolist()
        for d in decisions:
            reward, weight = 0.0, 1.0
            for i in range(4):
                step = env.step_chunk(actions[d][None, i : i + 1])
                assert bool(rollout.mask[d, i]) == bool(step.valid[0, 0])
                if step.valid[0, 0]:
                    length, success = length + 1, bool(step.info["success"][0, 0])
                    reward, weight = reward + weight * float(step.reward[0, 0]), weight * GAMMA
            assert float(rollout.reward[d]) == pytest.approx(reward)
            assert float(rollout.discount[d]) == pytest.approx(weight, rel=1e-6)
        assert not rollout.last[decisions[:-1]].any()
        assert bool(rollout.terminated[decisions[-1]]) == success
        assert bool(rollout.truncated[decisions[-1]]) == (not success)
        assert int(episodes.length[e]) == length
        assert bool(episodes.success_at_end[e]) == success
        assert float(episodes.env_return[e]) == float(success)


def test_environments_that_reset_themselves_make_no_difference():
    disabled, same_step = (_collect(autoreset=mode) for mode in ("disabled", "same_step"))
    torch.testing.assert_close(disabled.episodes.length[:4], same_step.episodes.length[:4])
    # Later samples differ (environments that wait see other frames); greedy play does not.
    greedy = [_collect(autoreset=mode, deterministic=True) for mode in ("disabled", "same_step")]
    _assert_same(*greedy)


def test_the_number_of_environments_makes_no_difference_to_greedy_play():
    one, four = (_collect(num_envs=n, deterministic=True) for n in (1, 4))
    _assert_same(one, four)
    assert four.episodes.seed.tolist() == list(range(10))


def test_next_values():
    policy, finals = _policy(), {}

    def keep_final(obs, decision, step, live):
        for env in np.flatnonzero(step.info["_final_obs"] & live.numpy()):
            final = {key: value[env : env + 1] for key, value in step.info["final_obs"].items()}
            finals[len(finals)] = (policy.act(final, deterministic=True).value, step, env)

    rollout = _collect(policy, num_envs=1, seeds=range(60), max_steps=30, on_step=keep_final)
    for d in range(len(rollout.reward)):
        if rollout.terminated[d]:
            assert rollout.next_value[d] == 0.0
        elif rollout.truncated[d]:
            value = finals[int(rollout.episode[d])][0]
            torch.testing.assert_close(rollout.next_value[d], value[0])
        else:
            assert rollout.next_value[d] == rollout.value[d + 1]
    assert rollout.truncated.any()
    assert rollout.terminated.any()


def test_without_bootstrapping_nothing_is_known_behind_a_time_limit():
    asked, spared = _collect(), _collect(bootstrap=False)
    assert bool((spared.next_value[spared.last] == 0.0).all())
    assert torch.equal(spared.next_value[~spared.last], asked.next_value[~asked.last])
    assert torch.equal(spared.log_prob, asked.log_prob)


def test_log_probs_and_values_can_be_scored_again():
    policy, rollout = _policy(), _collect()
    again = policy.evaluate(rollout.replay)
    torch.testing.assert_close(again.log_prob.detach(), rollout.log_prob)
    torch.testing.assert_close(again.value.detach(), rollout.value)


def test_by_episode_is_undone_by_valid():
    rollout = _collect()
    spread = rollout.by_episode(rollout.reward + 1.0)
    assert torch.equal(spread[rollout.valid], rollout.reward + 1.0)
    assert (spread[~rollout.valid] == 0.0).all()
    lengths = torch.stack([rollout.mask.sum(-1)[rollout.episode == e].sum() for e in range(10)])
    assert torch.equal(lengths, rollout.episodes.length)


class _Watched(ProgressModel):
    def __init__(self):
        self.model, self.seen = ToyProgressModel(), []

    def reset(self, env_mask=None):
        self.seen.append(0)

    def progress(self, obs):
        self.seen[-1] += len(obs["task"])
        return self.model.progress(obs)


def test_progress_is_asked_for_once_per_wave_and_for_failures_only():
    watched = _Watched()
    rollout = _collect(seeds=range(30), progress_model=watched)
    failed = ~rollout.episodes.success_at_end
    assert sum(watched.seen) == int(failed.sum())
    assert len(watched.seen) <= 8
    assert torch.equal(rollout.episodes.progress.isnan(), ~failed)
    assert (rollout.episodes.progress[failed] <= 1.0).all()


def test_progress_is_that_of_the_final_frame():
    finals = {}

    def keep_final(obs, decision, step, live):
        final = {key: value[:1] for key, value in step.info["final_obs"].items()}
        finals[len(finals)] = float(ToyProgressModel().progress(final)[0])

    rollout = _collect(
        num_envs=1, seeds=range(6), progress_model=ToyProgressModel(), on_step=keep_final
    )
    last = (rollout.last.nonzero()[:, 0]).tolist()
    for e, progress in enumerate(rollout.episodes.progress.tolist()):
        if not rollout.episodes.success_at_end[e]:
            assert progress == pytest.approx(finals[last[e]])


class _Spoiled(ToyReachEnv):
    """A toy world whose answers are changed on the way out."""

    def __init__(self, change, **kwargs):
        super().__init__(**kwargs)
        self.change = change

    def step_chunk(self, actions):
        return self.change(super().step_chunk(actions))


def _without(key):
    return lambda step: step._replace(info={k: v for k, v in step.info.items() if k != key})


def _renamed(step):
    info = dict(step.info)
    info["final_observation"], info["_final_observation"] = (
        info.pop("final_obs"),
        info.pop("_final_obs"),
    )
    return step._replace(info=info)


def test_both_spellings_of_the_final_observation():
    env = _Spoiled(_renamed, num_envs=4, max_episode_steps=10)
    renamed = collect_episodes(_policy(), env, range(10), deterministic=True, gamma=GAMMA)
    _assert_same(renamed, _collect(deterministic=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s._replace(reward=s.reward * np.nan),
            r"finite rewards, .* seed 5 after 0 steps",
        ),
        (lambda s: s._replace(reward=s.reward[:, :1]), r"`reward` of shape \(2, 4\) .* \(2, 1\)"),
        (lambda s: s._replace(valid=s.valid & False), r"seed 5 to execute at least one"),
        (_without("success"), r"'success' in the info"),
        (_without("final_obs"), r"`final_obs` and `_final_obs`"),
    ],
)
def test_environments_that_break_the_contract(change, message):
    env = _Spoiled(change, num_envs=2, max_episode_steps=4)
    with pytest.raises(ValueError, match=message):
        collect_episodes(_policy(), env, [5, 6], gamma=GAMMA)


def test_no_seeds():
    with pytest.raises(ValueError, match="at least one seed"):
        _collect(seeds=[])


class _CountsFrames(ProgressModel):
    """Progress is the share of 100 frames seen since the start: it has a history."""

    def reset(self, env_mask=None):
        self.frames = 0

    def progress(self, obs):
        self.frames += 1
        return torch.full((len(obs["task"]),), self.frames / 100.0)


@pytest.mark.parametrize("autoreset", ["disabled", "same_step"])
def test_progress_at_every_decision(autoreset):
    model = ToyProgressModel()
    before, after = [], []

    def keep(obs, decision, step, live):
        final = {key: list(value) for key, value in step.observation.items()}
        for env in np.flatnonzero(step.info["_final_obs"]):
            for key in final:
                final[key][env] = step.info["final_obs"][key][env]
        stacked = {k: v if k == "task" else np.stack(v) for k, v in final.items()}
        before.append(model.progress(obs)[live])
        after.append(model.progress(stacked)[live])

    rollout = _collect(
        num_envs=10,
        autoreset=autoreset,
        progress_model=model,
        progress_at="decisions",
        on_step=keep,
    )
    order = np.argsort(
        np.concatenate(
            [np.flatnonzero(rollout.valid[:, t]) for t in range(rollout.valid.shape[1])]
        ),
        kind="stable",
    )
    torch.testing.assert_close(rollout.progress, torch.cat(before)[order])
    torch.testing.assert_close(rollout.next_progress, torch.cat(after)[order])
    torch.testing.assert_close(rollout.episodes.progress, rollout.next_progress[rollout.last])
    inside = ~rollout.last[:-1]
    torch.testing.assert_close(rollout.next_progress[:-1][inside], rollout.progress[1:][inside])


def test_a_progress_model_with_a_history_sees_every_state_once():
    rollout = _collect(progress_model=_CountsFrames(), progress_at="decisions")
    place = torch.cat([torch.arange(n) for n in rollout.valid.sum(-1).tolist()])
    torch.testing.assert_close(rollout.progress, (place + 1) / 100.0)
    torch.testing.assert_close(rollout.next_progress, (place + 2) / 100.0)


def test_progress_that_is_not_finite_is_named():
    class Broken(ToyProgressModel):
        def progress(self, obs):
            return torch.full((len(obs["task"]),), float("nan"))

    with pytest.raises(ValueError, match="finite progress, got nan in the episode of seed 0 after"):
        _collect(progress_model=Broken(), progress_at="decisions")


class _Slow(ToyReachEnv):
    """A toy world that answers after a while."""

    def __init__(self, seconds, **kwargs):
        super().__init__(**kwargs)
        self.seconds, self.threads = seconds, set()

    def step_chunk(self, actions):
        self.threads.add(threading.get_ident())
        time.sleep(self.seconds)
        return super().step_chunk(actions)


def _in_halves(*seconds, **kwargs):
    envs = [_Slow(s, num_envs=4, max_episode_steps=10) for s in seconds]
    generator = torch.Generator().manual_seed(0)
    rollout = collect_episodes(
        _policy(), envs, range(22), generator=generator, gamma=GAMMA, **kwargs
    )
    return rollout, envs


def test_how_fast_environments_answer_makes_no_difference():
    """Also where one is a wave ahead of the other in time."""
    even, envs = _in_halves(0.0, 0.0)
    for seconds in ((0.02, 0.0), (0.0, 0.02)):
        _assert_same(even, _in_halves(*seconds)[0])
    assert all(threading.get_ident() not in env.threads for env in envs)
    assert even.episodes.seed.tolist() == list(range(22))


def test_two_halves_play_the_episodes_of_one_whole():
    halves, _ = _in_halves(0.0, 0.0, deterministic=True)
    _assert_same(halves, _collect(num_envs=8, seeds=range(22), deterministic=True))


def test_environments_step_while_the_policy_acts():
    """Each waits for a step of the other to begin: one after the other they would wait for ever."""
    barrier = threading.Barrier(2, timeout=20)

    class Together(ToyReachEnv):
        steps = 0

        def step_chunk(self, actions):
            self.steps += 1
            if self.steps == 2:
                barrier.wait()
            return super().step_chunk(actions)

    envs = [Together(num_envs=2, max_episode_steps=10) for _ in range(2)]
    collect_episodes(_policy(), envs, range(4), gamma=GAMMA)
    assert not barrier.broken


def test_an_error_in_one_of_several_environments_is_that_of_the_rollout():
    envs = [ToyReachEnv(num_envs=2), _Spoiled(_without("success"), num_envs=2)]
    with pytest.raises(ValueError, match="'success' in the info"):
        collect_episodes(_policy(), envs, range(8), gamma=GAMMA)


def test_each_of_several_environments_has_a_progress_model_that_keeps_its_history():
    settings = {"progress_at": "decisions"}
    rollout, _ = _in_halves(0.0, 0.0, progress_model=[_CountsFrames(), _CountsFrames()], **settings)
    place = torch.cat([torch.arange(n) for n in rollout.valid.sum(-1).tolist()])
    torch.testing.assert_close(rollout.progress, (place + 1) / 100.0)
    with pytest.raises(ValueError, match=r"a list of 2 progress models, .* got one"):
        _in_halves(0.0, 0.0, progress_model=_CountsFrames(), **settings)
    with pytest.raises(ValueError, match=r"Expected 2 progress models, .* got 1"):
        _in_halves(0.0, 0.0, progress_model=[_CountsFrames()], **settings)
    with pytest.raises(ValueError, match="at least one vector of environments"):
        collect_episodes(_policy(), [], range(2))
