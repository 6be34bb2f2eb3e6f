import pytest
import torch

from vla_rl.algorithms.behaviour_cloning import clone
from vla_rl.algorithms.rabc import RABC
from vla_rl.algorithms.settings import CloneConfig, RABCConfig
from vla_rl.data import make_chunks
from vla_rl.errors import CheckpointError
from vla_rl.testing import make_episodes, make_policy


def _episodes(count=4, bad=(), **settings):
    """Episodes with progress; in the bad ones the labels point the other way and progress falls."""
    episodes = []
    for i, episode in enumerate(make_episodes(count, **settings)):
        length = len(episode["action"])
        progress = torch.linspace(0.0, 1.0, length)
        if i in bad:
            episode = episode | {"action": -episode["action"]}
            progress = progress.flip(0)
        episodes.append(episode | {"progress": progress})
    return episodes


def _fit(policy, samples, out_dir, **settings):
    config = RABCConfig(**({"num_epochs": 3, "batch_size": 16} | settings))
    run = RABC(policy, samples, config, out_dir=out_dir, progress_bar=False)
    run.fit()
    return run


def test_gains_reach_to_the_end_of_the_chunk_or_of_the_episode():
    episode = make_episodes(1)[0]
    length = len(episode["action"])
    progress = torch.rand(length)
    gains = make_chunks([episode | {"progress": progress}], chunk=4)["progress_gain"]
    for t in range(length):
        expected = float(progress[min(t + 4, length - 1)] - progress[t])
        assert float(gains[t]) == pytest.approx(expected, abs=1e-6)


def test_what_goes_backwards_is_as_if_it_were_not_there(tmp_path):
    """The weights are 1 and 0, so training is that on the good episodes alone."""
    samples = make_chunks(_episodes(bad=(1, 3)), chunk=4)
    samples = {k: v for k, v in samples.items() if k != "action_is_pad"} | {
        # Without padding all samples have as many actions and weigh the same in plain cloning.
        "action_is_pad": torch.zeros_like(samples["action_is_pad"])
    }
    gain = samples["progress_gain"]
    samples["progress_gain"] = torch.where(gain > 0.0, 1.0, -1.0)
    one, other = make_policy(shift_pixels=0), make_policy(shift_pixels=0)
    run = _fit(one, samples, tmp_path / "a", batch_size=10_000)
    assert 0.3 < float(run.weights.mean()) < 0.7
    good = run.weights.nonzero()[:, 0]
    kept = {k: [v[i] for i in good] if isinstance(v, list) else v[good] for k, v in samples.items()}
    del kept["progress_gain"]
    config = CloneConfig(num_epochs=3, batch_size=10_000)
    clone(other, kept, config, out_dir=tmp_path / "b", progress_bar=False)
    for name, weights in one.state_dict().items():
        torch.testing.assert_close(weights, other.state_dict()[name], msg=name)


def test_degraded_demonstrations_do_less_harm(tmp_path):
    samples = make_chunks(_episodes(24, bad=range(0, 24, 2), observe="state"), chunk=4)
    clean = make_chunks(make_episodes(8, seed=1000, observe="state"), chunk=4)
    rabc, plain = make_policy(cameras=[]), make_policy(cameras=[])
    _fit(rabc, samples, tmp_path / "a", num_epochs=40)
    config = CloneConfig(num_epochs=40, batch_size=16)
    clone(plain, samples, config, out_dir=tmp_path / "b", progress_bar=False)
    errors = [
        float((policy.act(clean, deterministic=True).actions - clean["action"]).abs().mean())
        for policy in (rabc, plain)
    ]
    assert errors[0] < 0.75 * errors[1]


def test_unknown_progress_counts_in_full(tmp_path):
    samples = make_chunks(_episodes(), chunk=4)
    samples["progress_gain"] = torch.full_like(samples["progress_gain"], float("nan"))
    assert bool((_fit(make_policy(), samples, tmp_path, num_epochs=1).weights == 1.0).all())


def test_samples_of_other_progress_are_not_continued(tmp_path):
    samples = make_chunks(_episodes(), chunk=4)
    _fit(make_policy(), samples, tmp_path, num_epochs=1)
    assert _fit(make_policy(), samples, tmp_path, num_epochs=1).epoch == 1
    other = samples | {"progress_gain": 0.9 * samples["progress_gain"]}
    with pytest.raises(CheckpointError, match=r"`samples.progress_gain` is '\w{8}' there and"):
        _fit(make_policy(), other, tmp_path, num_epochs=1)


def test_samples_without_any_progress(tmp_path):
    samples = make_chunks(_episodes(), chunk=4)
    with pytest.raises(ValueError, match=r"none of \d+: the largest `progress_gain` is -1"):
        RABC(
            make_policy(),
            samples | {"progress_gain": torch.full_like(samples["progress_gain"], -1.0)},
            out_dir=tmp_path,
        )
    del samples["progress_gain"]
    with pytest.raises(ValueError, match="'progress_gain'"):
        RABC(make_policy(), samples, out_dir=tmp_path)


def test_a_batch_of_which_none_counts_changes_nothing(tmp_path):
    """Weight decay and momentum included."""
    samples = make_chunks(_episodes(bad=(1, 2, 3)), chunk=4)
    good = samples["progress_gain"] > 0.0
    samples["progress_gain"] = torch.where(good, 1.0, -1.0)
    policy = make_policy(shift_pixels=0)
    run = RABC(policy, samples, RABCConfig(batch_size=4), out_dir=tmp_path, progress_bar=False)
    batch = {k: v[:4] for k, v in run.samples.items()} | {"weight": torch.zeros(4)}
    seen = []

    class Watched(torch.optim.AdamW):
        def step(self, closure=None):
            seen.append(run._counts)
            return super().step(closure)

    run.optimizer = Watched(policy.parameters(), lr=0.1, weight_decay=0.1)
    before = {name: weights.clone() for name, weights in policy.state_dict().items()}
    run.samples = batch
    run._train_epoch(0)
    assert not seen
    for name, weights in policy.state_dict().items():
        assert torch.equal(weights, before[name]), name
