import csv
import math
import random
import signal
import subprocess
import sys
import time

import pytest
import torch

from vla_rl.algorithms.behaviour_cloning import BehaviourCloning, clone
from vla_rl.algorithms.settings import CloneConfig
from vla_rl.data import make_chunks
from vla_rl.errors import CheckpointError
from vla_rl.testing import make_episodes, make_policy


@pytest.fixture(scope="module")
def samples():
    return make_chunks(make_episodes(4), chunk=4)


def _fit(policy, samples, out_dir, **settings):
    config = CloneConfig(**({"num_epochs": 4, "batch_size": 16} | settings))
    return clone(policy, samples, config, out_dir=out_dir, progress_bar=False)


def test_cloning_fits_a_few_demonstrations(samples, tmp_path):
    policy = make_policy(label_sigma_bins=0.0, shift_pixels=0)
    history = _fit(policy, samples, tmp_path, num_epochs=80, lr=3e-3)
    assert history[0]["loss"] == pytest.approx(math.log(9), abs=0.3)  # nothing known yet
    assert history[-1]["loss"] < 0.5
    mistake = (policy.act(samples, deterministic=True).actions - samples["action"]).abs()
    assert mistake[~samples["action_is_pad"]].mean() < 0.15  # a bin is 0.22 wide
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["loss"]) for row in rows] == [row["loss"] for row in history]


def test_a_stopped_run_continues_bit_for_bit(samples, tmp_path, monkeypatch):
    straight = make_policy()
    expected = _fit(straight, samples, tmp_path / "a")

    class StopError(Exception):
        pass

    interrupted = BehaviourCloning(
        make_policy(),
        samples,
        CloneConfig(num_epochs=4, batch_size=16),
        out_dir=tmp_path / "b",
        progress_bar=False,
    )
    train = interrupted._train_epoch

    def train_two(epoch):
        if epoch == 2:
            raise StopError
        return train(epoch)

    monkeypatch.setattr(interrupted, "_train_epoch", train_two)
    with pytest.raises(StopError):
        interrupted.fit()
    torch.manual_seed(99)  # the state of the global generator must not matter
    resumed = make_policy()
    assert _fit(resumed, samples, tmp_path / "b") == expected
    for name, weights in straight.state_dict().items():
        assert torch.equal(weights, resumed.state_dict()[name]), name


def test_another_run_is_not_continued(samples, tmp_path):
    _fit(make_policy(), samples, tmp_path, num_epochs=1)
    with pytest.raises(CheckpointError, match=r"`config.num_epochs` is 1 there and 2 here"):
        _fit(make_policy(), samples, tmp_path, num_epochs=2)
    with pytest.raises(CheckpointError, match=r"`policy_config.hidden_dim` is 32 there and 16"):
        _fit(make_policy(hidden_dim=16), samples, tmp_path, num_epochs=1)


@pytest.mark.parametrize("key", ["action", "action_is_pad", "observation.state", "task"])
def test_other_samples_are_not_continued(samples, tmp_path, key):
    _fit(make_policy(), samples, tmp_path, num_epochs=1)
    _fit(make_policy(), {**samples, "unread": samples["action"]}, tmp_path, num_epochs=1)
    if key == "task":
        other = ["go", *samples["task"][1:]]
    else:
        other = samples[key].clone()
        other[0] = ~other[0] if other.dtype == torch.bool else other[0] + 0.01
    message = rf"`samples.{key}` is '\w{{8}}' there and '\w{{8}}' here"
    with pytest.raises(CheckpointError, match=message):
        _fit(make_policy(), {**samples, key: other}, tmp_path, num_epochs=1)


def test_fewer_samples_are_not_continued(samples, tmp_path):
    _fit(make_policy(), samples, tmp_path, num_epochs=1)
    fewer = {name: rows[:-1] for name, rows in samples.items()}
    count = len(samples["action"])
    with pytest.raises(CheckpointError, match=rf"`samples.rows` is {count} there and {count - 1}"):
        _fit(make_policy(), fewer, tmp_path, num_epochs=1)


def test_a_loss_that_is_not_finite_stops_before_the_step(samples, tmp_path):
    policy = make_policy()
    with torch.no_grad():
        policy.token_queries[0, 0] = float("nan")
    before = {name: weights.clone() for name, weights in policy.state_dict().items()}
    with pytest.raises(FloatingPointError, match="got nan in epoch 0, batch 0"):
        _fit(policy, samples, tmp_path)
    for name, weights in policy.state_dict().items():
        torch.testing.assert_close(weights, before[name], equal_nan=True, rtol=0.0, atol=0.0)
    assert not (tmp_path / "last.ckpt").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_epochs": 0}, "`num_epochs` > 0, got 0"),
        ({"lr": -1.0}, "`lr` > 0, got -1.0"),
        ({"warmup_share": 1.0}, r"`warmup_share` in \[0, 1\), got 1.0"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        CloneConfig(**settings)


RUN = """
import sys, torch
from vla_rl.algorithms.behaviour_cloning import BehaviourCloning
from vla_rl.algorithms.settings import CloneConfig
from vla_rl.algorithms.rabc import RABC
from vla_rl.algorithms.settings import RABCConfig
from vla_rl.data import make_chunks
from vla_rl.testing import make_episodes, make_policy

episodes = make_episodes(4)
for episode in episodes:
    episode["progress"] = torch.linspace(0.0, 1.0, len(episode["action"]))
samples, policy = make_chunks(episodes, chunk=4), make_policy()
run, kind = {"rabc": (RABC, RABCConfig), "clone": (BehaviourCloning, CloneConfig)}[sys.argv[1]]
config = kind(num_epochs=60, batch_size=8)
run(policy, samples, config, out_dir=sys.argv[2], progress_bar=False).fit()
torch.save(policy.state_dict(), sys.argv[2] + "/weights.pt")
"""


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["clone", "rabc"])
def test_a_run_killed_anywhere_goes_on_as_if_it_had_not_been(tmp_path, algorithm):
    commands = {
        out: [sys.executable, "-c", RUN, algorithm, str(tmp_path / out)]
        for out in ("straight", "killed")
    }
    subprocess.run(commands["straight"], check=True, timeout=300)
    run = subprocess.Popen(commands["killed"])
    while not (tmp_path / "killed" / "last.ckpt").exists():
        time.sleep(0.01)
    time.sleep(random.SystemRandom().uniform(0.0, 0.5))
    run.kill()
    assert run.wait(60) == -signal.SIGKILL
    assert not (tmp_path / "killed" / "weights.pt").exists()
    subprocess.run(commands["killed"], check=True, timeout=300)
    tables = [(tmp_path / out / "metrics.csv").read_bytes() for out in commands]
    assert tables[0] == tables[1]
    weights = [torch.load(tmp_path / out / "weights.pt") for out in commands]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
