import functools
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import gymnasium as gym
import numpy as np
import pytest
import torch

from bench_adapters.envs.base import EnvChunk
from bench_adapters.envs.toy import ReachEnvironment
from bench_adapters.errors import WorkerError
from bench_adapters.evaluate import evaluate, read_result
from bench_adapters.functional.scores import wilson_interval
from bench_adapters.testing import Actions, FaultyEnvironment, RandomPolicy
from bench_adapters.vector import ProcessVectorEnv

SEEDS = list(range(100, 111))


@pytest.fixture
def env():
    return ProcessVectorEnv(ReachEnvironment, 4)


class BoldPolicy:
    """Random, but with a drift to the upper right, so that some episodes succeed."""

    versions = {"bold": "1"}  # noqa: RUF012

    def act(self, obs, *, generator=None, deterministic=False):
        noise = generator.uniform(-1, 1, (len(obs["task"]), 3, 2))
        return Actions(
            torch.tensor(0.8 * np.sign(0.5 - obs["observation.state"][:, None, :2]) + noise)
        )


class BreakingPolicy(BoldPolicy):
    """Goes wrong at the n-th call."""

    def __init__(self, calls, how):
        self.calls, self.how = calls, how

    def act(self, obs, *, generator=None, deterministic=False):
        actions = super().act(obs, generator=generator).actions.numpy()
        self.calls -= 1
        return Actions(self.how(actions) if self.calls == 0 else actions)


class ListEnvironment:
    """Success per step as listed; the episode runs to the end of the list."""

    env_id, fps, versions = "list:one", 1, {"simulator": "7"}
    action_space = gym.spaces.Box(-1, 1, (1,))
    observation_space = gym.spaces.Dict(
        {"observation.state": gym.spaces.Box(0, 9, (1,), np.float32)}
    )

    def __init__(self, success):
        self.success, self.max_episode_steps = success, len(success)

    def reset(self, seed):
        self.step = 0
        return {"observation.state": np.zeros(1, np.float32), "task": "wait"}

    def step_chunk(self, actions):
        k = len(actions)
        index = self.step + np.arange(k)
        valid = index < len(self.success)
        success = np.array([v and self.success[i] for i, v in zip(index, valid, strict=False)])
        end = index == len(self.success) - 1
        self.step += k
        observation = {"observation.state": np.zeros(1, np.float32), "task": "wait"}
        reward = np.where(valid, 0.5, 0).astype(np.float32)
        return EnvChunk(observation, reward, np.zeros(k, bool), end, valid, success)

    def close(self):
        pass


def run(policy, env, **overrides):
    settings = {"seeds": SEEDS, "make_generator": np.random.default_rng, "progress_bar": False}
    return evaluate(policy, env, **(settings | overrides))


def test_against_a_loop_over_single_environments(env):
    """Waves of 4, 4 and 3 with one generator each; each episode played alone gives the same."""
    result = run(BoldPolicy(), env)
    assert [e.seed for e in result.episodes] == SEEDS
    assert [e.episode for e in result.episodes] == list(range(11))
    single = ReachEnvironment()
    for first in range(0, 11, 4):
        rng = np.random.default_rng(SEEDS[first])
        noise = rng.uniform(-1, 1, (7, 4, 3, 2))
        for row, episode in enumerate(result.episodes[first : first + 4]):
            state = single.reset(episode.seed)["observation.state"]
            length, total, once, ended, call = 0, 0.0, False, False, 0
            while not ended:
                drift = 0.8 * np.sign(0.5 - state[None, :2])
                action = (drift + noise[call, row]).astype(np.float32)
                chunk = single.step_chunk(action)
                state, call = chunk.observation["observation.state"], call + 1
                length += int(chunk.valid.sum())
                total += float(chunk.reward.sum())
                once |= bool(chunk.success.any())
                ended = bool((chunk.terminated | chunk.truncated).any())
            assert (episode.length, episode.episode_return) == (length, total)
            assert episode.success_once == once


@pytest.mark.parametrize(
    ("success", "once", "at_end"),
    [
        ([0, 1, 0, 0, 0], True, False),
        ([0, 0, 0, 0, 1], True, True),
        ([0, 0, 0, 0, 0], False, False),
        ([1, 1, 1, 1, 1], True, True),
    ],
)
def test_once_and_at_end_differ(success, once, at_end):
    env = ProcessVectorEnv(lambda: ListEnvironment(list(map(bool, success))), 2)
    result = evaluate(RandomPolicy(1, chunk=3), env, seeds=[1, 2, 3], progress_bar=False)
    assert {(e.success_once, e.success_at_end) for e in result.episodes} == {(once, at_end)}
    assert {(e.length, e.episode_return) for e in result.episodes} == {(5, 2.5)}


def test_timeouts_are_failures(env):
    result = run(RandomPolicy(2), env, deterministic=True)  # stands still
    assert {(e.length, e.success_once, e.success_at_end) for e in result.episodes} == {
        (20, False, False)
    }
    assert (result.success_once["count"], result.success_once["total"]) == (0, 11)


def test_file(env, tmp_path):
    out = tmp_path / "results" / "bold.json"
    result = run(BoldPolicy(), env, out=out, suite="toys", policy_name="bold")
    assert read_result(out) == result
    content = json.loads(out.read_text())
    count = sum(episode["success_once"] for episode in content["episodes"])
    assert 0 < count < 11
    low, high = wilson_interval(count, 11)
    assert content["success_once"] == {
        "count": count,
        "total": 11,
        "rate": count / 11,
        "low": low,
        "high": high,
    }
    assert (content["suite"], content["env_id"], content["policy"]) == ("toys", "toy:reach", "bold")
    assert content["versions"]["bold"] == "1"
    assert [path.name for path in out.parent.iterdir()] == ["bold.json"]
    with pytest.raises(FileExistsError, match=f"{out} exists"):
        run(BoldPolicy(), env, out=out)


def test_simulator_version_is_stored():
    env = ProcessVectorEnv(lambda: ListEnvironment([True]), 1)
    result = evaluate(RandomPolicy(1), env, seeds=[0], progress_bar=False)
    assert (result.versions["simulator"], result.env_id) == ("7", "list:one")
    assert result.policy == "RandomPolicy"


@pytest.mark.parametrize("calls", [1, 6, 10, 14])
def test_stopped_and_started_again(env, tmp_path, calls):
    """Wherever it stops, the next start gives the result of a run that did not."""
    whole = run(BoldPolicy(), env)
    out = tmp_path / "out.json"

    def stop(actions):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(BreakingPolicy(calls, stop), env, out=out, policy_name="BoldPolicy")
    assert not out.exists()
    again = run(BoldPolicy(), env, out=out)
    assert again == whole
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]


def test_a_cut_line_is_run_again(env, tmp_path):
    out = tmp_path / "out.json"
    with pytest.raises(ValueError, match="returned nan"):
        run(BreakingPolicy(12, lambda a: a * np.nan), env, out=out, policy_name="BoldPolicy")
    journal = tmp_path / "out.json.partial.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    assert len(lines) == 1 + 4
    journal.write_text("".join(lines)[:-20])
    assert run(BoldPolicy(), env, out=out) == run(BoldPolicy(), env)


def test_starting_again_in_another_environment(tmp_path, monkeypatch):
    out = tmp_path / "out.json"
    for steps, message in ((20, "returned nan"), (5, "begun with other max_episode_steps;")):
        env = ProcessVectorEnv(functools.partial(ReachEnvironment, max_episode_steps=steps), 4)
        with pytest.raises(ValueError, match=message):
            run(BreakingPolicy(9, lambda a: a * np.nan), env, out=out)
    monkeypatch.setattr(BoldPolicy, "versions", {"bold": "2"})
    with pytest.raises(ValueError, match="begun with other versions;"):
        run(BreakingPolicy(9, lambda a: a * np.nan), ProcessVectorEnv(ReachEnvironment, 4), out=out)


def test_started_again_it_tries_what_the_simulator_failed_at(env, tmp_path):
    whole, out = run(BoldPolicy(), env), tmp_path / "out.json"
    env_fn = functools.partial(FaultyEnvironment, fault="raise", seed=105)
    faulty = ProcessVectorEnv(env_fn, 4)

    class Stopped(BoldPolicy):
        def act(self, obs, **kwargs):
            if len(out.with_name("out.json.partial.jsonl").read_text().splitlines()) > 8:
                raise KeyboardInterrupt
            return super().act(obs, **kwargs)

    with pytest.raises(KeyboardInterrupt):
        run(Stopped(), faulty, out=out, policy_name="BoldPolicy")
    assert '"message"' in out.with_name("out.json.partial.jsonl").read_text()
    assert run(BoldPolicy(), env, out=out) == whole


def test_starting_again_with_other_settings(env, tmp_path):
    out = tmp_path / "out.json"
    with pytest.raises(ValueError, match="returned nan"):
        run(BreakingPolicy(9, lambda a: a * np.nan), env, out=out)
    with pytest.raises(ValueError, match=r"partial.jsonl was begun with other policy, seeds;"):
        run(BoldPolicy(), env, out=out, seeds=[1, 2])
    (tmp_path / "out.json.partial.jsonl").write_text("{}\nnonsense\n{}\n")
    with pytest.raises(ValueError, match=r"partial.jsonl is damaged .*remove it"):
        run(BoldPolicy(), env, out=out)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (
            lambda a: np.where(np.arange(4)[:, None, None] == 2, np.inf, a),
            "returned inf for environment 2 at step 3, action dimension 0",
        ),
        (lambda a: a[:, 0], r"shape \(4, 2\) at step 3; expected \(4, k, a\)"),
        (lambda a: a[:3], r"shape \(3, 3, 2\) at step 3; expected \(4, k, a\)"),
        (lambda a: a[..., :1], r"\(4, k, 2\), got \(4, 3, 1\)"),
        (lambda a: a[:, :0], r"shape \(4, 0, 2\)"),
    ],
)
def test_bad_policies_are_named(env, how, message):
    with pytest.raises(ValueError, match=message):
        run(BreakingPolicy(2, how), env)


@pytest.mark.parametrize("answer", [np.zeros((4, 1, 2)), Actions("north"), Actions([[0.0], []])])
def test_answers_without_numbers_are_named(env, answer):
    class Policy:
        def act(self, obs, *, generator=None, deterministic=False):
            return answer

    with pytest.raises(TypeError, match=rf"{type(answer).__name__} at step 0 .* \(4, k, a\)"):
        run(Policy(), env)


def test_a_bad_policy_leaves_finished_waves_and_a_usable_vector(env, tmp_path):
    whole, out = run(BoldPolicy(), env), tmp_path / "out.json"
    with pytest.raises(ValueError, match="returned nan for environment 0 at step"):
        run(BreakingPolicy(9, lambda a: a * np.nan), env, out=out, policy_name="BoldPolicy")
    lines = (tmp_path / "out.json.partial.jsonl").read_text().splitlines()[1:]
    assert [json.loads(line) for line in lines] == [e._asdict() for e in whole.episodes[:4]]
    assert run(BoldPolicy(), env, out=out) == whole


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("fault", ["raise", "nan", "exit"])
def test_a_simulator_that_fails_once_changes_nothing(env, tmp_path, workers, fault):
    if fault == "exit" and not workers:
        return  # it would end the tests
    env_fn = functools.partial(FaultyEnvironment, fault=fault, seed=105, once=tmp_path / "once")
    faulty = ProcessVectorEnv(env_fn, 4, num_workers=workers)
    assert run(BoldPolicy(), faulty) == run(BoldPolicy(), env)
    assert (tmp_path / "once").exists()
    faulty.close()


@pytest.mark.parametrize("fault", ["raise", "exit"])
def test_a_simulator_that_fails_again_is_recorded(env, tmp_path, fault):
    whole = run(BoldPolicy(), env)
    env_fn = functools.partial(FaultyEnvironment, fault=fault, seed=105)
    faulty, out = ProcessVectorEnv(env_fn, 4, num_workers=1), tmp_path / "out.json"
    result = run(BoldPolicy(), faulty, out=out)
    faulty.close()
    assert result.episodes == [e for e in whole.episodes if e.seed != 105]
    ((episode, seed, message),) = result.errors
    assert (episode, seed) == (5, 105)
    assert "steps of the episode of seed 105" in message
    assert result.success_once["total"] == 10
    assert read_result(out) == result


def test_a_simulator_that_never_works_ends_the_run(tmp_path):
    env_fn = functools.partial(FaultyEnvironment, fault="raise", seed=3)
    faulty, out = ProcessVectorEnv(env_fn, 1), tmp_path / "out.json"
    with pytest.raises(WorkerError, match=r"1 of 2 episodes .* twice .*episode 1 of seed 3: env"):
        run(BoldPolicy(), faulty, seeds=[2, 3, 4], out=out, max_errors=0)
    assert not out.exists()
    result = run(BoldPolicy(), faulty, seeds=[2, 3, 4], out=out)
    assert [episode.seed for episode in result.episodes] == [2, 4]
    with pytest.raises(WorkerError, match="1 of 1 episodes could not be run"):
        run(BoldPolicy(), faulty, seeds=[3])
    with pytest.raises(ValueError, match="`max_errors` ≥ 0, got -1"):
        run(BoldPolicy(), faulty, max_errors=-1)


def test_a_worker_that_cannot_be_started_again_ends_the_run(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)
    from limited_builds import LimitedBuilds

    env_fn = functools.partial(LimitedBuilds, tmp_path, 2, RuntimeError("out of licences"))
    vector = ProcessVectorEnv(env_fn, 2, num_workers=1)
    with pytest.raises(WorkerError, match=r"2 of 2 episodes could not be run.*out of licences"):
        run(BoldPolicy(), vector, seeds=[0, 1])
    vector.close()


def frames_of(path):
    with av.open(str(path)) as container:
        rate = container.streams.video[0].average_rate
        return rate, [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_videos_show_what_the_policy_saw(env, tmp_path):
    out = tmp_path / "out.json"
    seen = {}

    class Watcher(BoldPolicy):
        def act(self, obs, **kwargs):
            seen.setdefault(len(seen), obs["observation.images.top"])
            return super().act(obs, **kwargs)

    result = run(Watcher(), env, out=out, videos={100, 106}, policy_name="BoldPolicy")
    assert result == run(BoldPolicy(), env)
    folder = tmp_path / "out.json.videos"
    names = ["episode_000000_seed_100.mp4", "episode_000006_seed_106.mp4"]
    assert sorted(path.name for path in folder.iterdir()) == names
    rate, frames = frames_of(folder / names[0])
    assert rate == round(10 / 3)  # steps per second over steps per chunk
    assert len(frames) == 1 + -(-result.episodes[0].length // 3)
    for call, frame in enumerate(frames[:-1]):
        assert np.abs(frame.astype(int) - seen[call][0]).mean() < 4
    assert np.abs(frames[-1].astype(int) - frames[-2]).mean() > 0.1


def test_videos_survive_a_stop(env, tmp_path):
    out = tmp_path / "out.json"

    def stop(actions):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(BreakingPolicy(10, stop), env, out=out, policy_name="BoldPolicy", videos=6)
    run(BoldPolicy(), env, out=out, videos=6)
    names = sorted(path.name for path in (tmp_path / "out.json.videos").iterdir())
    assert names == [f"episode_{i:06d}_seed_{100 + i}.mp4" for i in range(6)]


@pytest.mark.parametrize(
    ("videos", "message"),
    [(-1, "got -1"), ({1, 100}, r"of `seeds`, got \[1\]"), (2, "the 2 `videos` go, got None")],
)
def test_bad_videos(env, videos, message):
    with pytest.raises(ValueError, match=message):
        run(BoldPolicy(), env, videos=videos)
    blind = ProcessVectorEnv(lambda: ListEnvironment([True]), 1)
    with pytest.raises(ValueError, match="with a camera for `videos`"):
        evaluate(RandomPolicy(1), blind, seeds=[1], videos=1, out="out.json")


def test_bfloat16_actions(env):
    class Policy:
        def act(self, obs, *, generator=None, deterministic=False):
            return Actions(torch.zeros(4, 5, 2, dtype=torch.bfloat16, requires_grad=True))

    assert run(Policy(), env).episodes[0].length == 20


def test_environments_that_never_end():
    env = ProcessVectorEnv(lambda: ListEnvironment([False] * 4), 1)
    env._backend._share.envs[0].success = [False] * 1000
    with pytest.raises(RuntimeError, match=r"environment 0 .* after 6 steps; .* limit is 4"):
        evaluate(RandomPolicy(1, chunk=3), env, seeds=[0], progress_bar=False)


def test_bad_seeds_and_folder(env):
    for seeds in ([], [3, -1]):
        with pytest.raises(ValueError, match=r"`seeds`, got \["):
            run(BoldPolicy(), env, seeds=seeds)
    with pytest.raises(PermissionError, match="cannot write to /proc/nowhere"):
        run(BoldPolicy(), env, out="/proc/nowhere/out.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"schema_version": 3}', "schema version 3, this release reads 1"),
        ("[]", "schema version None"),
        ("{", "not valid JSON"),
        ('{"schema_version": 1, "episodes": []}', "not a complete evaluation .'errors'"),
        ('{"schema_version": 1, "episodes": [], "errors": []}', "not a complete evaluation"),
    ],
)
def test_reading_something_else(tmp_path, text, message):
    path = tmp_path / "result.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"{path}.*{message}"):
        read_result(path)


SLOW_EVALUATION = """
import sys, time
import numpy as np
from bench_adapters.evaluate import evaluate
from bench_adapters.registry import make
from bench_adapters.testing import RandomPolicy

class Slow(RandomPolicy):
    def act(self, *args, **kwargs):
        time.sleep(float(sys.argv[2]))
        return super().act(*args, **kwargs)

env = make("toy:reach", num_envs=8)
evaluate(Slow(2, chunk=4), env, seeds=range(200), make_generator=np.random.default_rng,
         out=sys.argv[1], progress_bar=False)
"""


def test_killed_five_times_it_ends_with_the_result_of_a_run_that_was_not(tmp_path):
    rng = np.random.default_rng(0)
    whole, killed = tmp_path / "whole.json", tmp_path / "killed.json"
    subprocess.run([sys.executable, "-c", SLOW_EVALUATION, whole, "0"], check=True)
    journal, lines = tmp_path / "killed.json.partial.jsonl", 0
    for _ in range(5):
        process = subprocess.Popen([sys.executable, "-c", SLOW_EVALUATION, killed, "0.01"])
        # Past one more wave at least, then at any moment of the next ones.
        while not journal.exists() or journal.read_text().count("\n") <= lines + 8:
            assert process.poll() is None
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.1))
        process.kill()
        assert process.wait() == -signal.SIGKILL
        lines = journal.read_text().count("\n")
    subprocess.run([sys.executable, "-c", SLOW_EVALUATION, killed, "0"], check=True)
    assert killed.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed.json", "whole.json"]
