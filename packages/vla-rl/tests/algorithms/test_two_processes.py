import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vla_rl.algorithms.clipped_update import REPLAY
from vla_rl.data import make_chunks
from vla_rl.rollout import collect_episodes
from vla_rl.testing import ToyReachEnv, make_episodes, make_policy

SCRIPT = Path(__file__).with_name("two_processes.py")


def _batch():
    policy = make_policy()
    rollout = collect_episodes(
        policy,
        ToyReachEnv(num_envs=4, max_episode_steps=10),
        range(12),
        generator=torch.Generator().manual_seed(0),
    )
    generator = torch.Generator().manual_seed(1)
    d = len(rollout.reward)
    return {
        **{f"{REPLAY}{key}": value for key, value in rollout.replay.items()},
        "log_prob": rollout.log_prob,
        "ref_log_prob": rollout.log_prob + 0.1 * torch.randn(d, 4, 2, generator=generator),
        "mask": rollout.mask,
        "value": rollout.value,
        "advantage": torch.randn(d, generator=generator),
        "returns": torch.rand(d, generator=generator),
    }


def _weights(batch, folder, devices, share, strategy, micro_batch_size=None):
    """Return the weights after the update that ``devices`` processes make together."""
    out = folder / f"{devices}-{share}-{strategy}.pt"
    torch.save(batch, folder / "batch.pt")
    command = [sys.executable, str(SCRIPT), str(folder / "batch.pt"), str(out)]
    command += [str(devices), str(share), strategy, str(micro_batch_size)]
    # Minutes are plenty: processes that wait for each other for ever must not go unnoticed.
    subprocess.run(command, check=True, timeout=240)
    return torch.load(out)


@pytest.mark.slow
@pytest.mark.parametrize("micro_batch_size", [None, 8])
@pytest.mark.parametrize(("strategy", "tolerance"), [("ddp", 1e-6), ("fsdp2", 1e-5)])
def test_two_processes_make_the_update_of_one_with_all_decisions(
    tmp_path, strategy, tolerance, micro_batch_size
):
    """Although one of them holds three times as many, with other shares of executed steps."""
    batch = _batch()
    assert not batch["mask"].all()
    whole = _weights(batch, tmp_path, 1, 0, "auto")
    share = len(batch["mask"]) // 4
    halves = _weights(batch, tmp_path, 2, share, strategy, micro_batch_size)
    start = make_policy().state_dict()
    for name, one in whole.items():
        torch.testing.assert_close(halves[name], one, atol=tolerance, rtol=0.0, msg=name)
    moved = [name for name in start if not torch.equal(whole[name], start[name])]
    assert {"token_queries", "value_head.0.weight"} <= set(moved)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("idle", "micro_batch_size"), [("masked", None), ("empty", None), ("empty", 8)]
)
def test_a_process_without_a_valid_step_leaves_the_update_to_the_other(
    tmp_path, idle, micro_batch_size
):
    """As when all groups of one process are left out: none waits, and the means stay right."""
    batch = _batch()
    count = len(batch["mask"])
    first = count // 4 if idle == "masked" else 0
    batch["mask"][:first] = False
    together = _weights(batch, tmp_path, 2, first, "ddp", micro_batch_size)
    alone = _weights({k: v[first:] for k, v in batch.items()}, tmp_path, 1, 0, "auto")
    for name, weights in alone.items():
        torch.testing.assert_close(together[name], weights, atol=1e-6, rtol=0.0, msg=name)


@pytest.mark.slow
def test_log_probabilities_that_disagree_in_one_process_stop_both(tmp_path):
    batch = _batch()
    batch["log_prob"][0] += 1.0
    with pytest.raises(subprocess.CalledProcessError):
        _weights(batch, tmp_path, 2, len(batch["mask"]) // 4, "ddp", 8)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["clone", "rabc"])
def test_two_processes_clone_as_one_with_the_joined_batch(tmp_path, algorithm):
    """Batches of nine are shared out unevenly; RA-BC's weights differ from sample to sample."""
    episodes = make_episodes(2)
    for i, episode in enumerate(episodes):
        rise = torch.linspace(0.0, 1.0, len(episode["action"]))
        episode["progress"] = rise if i else 0.3 * rise.square() - 0.2 * rise
    torch.save(make_chunks(episodes, chunk=4), tmp_path / "samples.pt")
    results = []
    for devices in (1, 2):
        out = tmp_path / f"{devices}.pt"
        command = [sys.executable, str(SCRIPT.with_name("two_cloners.py"))]
        command += [str(tmp_path / "samples.pt"), str(out), str(devices), algorithm]
        subprocess.run(command, check=True, timeout=240)
        results.append(torch.load(out))
    alone, together = results
    assert together["loss"] == pytest.approx(alone["loss"], abs=1e-6)
    for name, weights in alone["weights"].items():
        torch.testing.assert_close(
            together["weights"][name], weights, atol=1e-6, rtol=0.0, msg=name
        )
    start = make_policy().state_dict()
    assert not torch.equal(alone["weights"]["token_queries"], start["token_queries"])
