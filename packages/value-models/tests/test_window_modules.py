import warnings

import pytest
import torch
from lightning import Callback, Trainer
from lightning.fabric.utilities.distributed import DistributedSamplerWrapper
from torch.utils.data import DataLoader

from value_models.callbacks import AtomicCheckpointIO
from value_models.functional import order_accuracy
from value_models.metrics import ExpertUse
from value_models.networks import StateEmbedding
from value_models.stage_modules import GatedModule, PrimitiveModule, StageModule
from value_models.synthetic import FeatureWorld
from value_models.window_modules import RankingModule, RewindModule, SuccessModule
from value_models.windows import WindowDataset, WindowSpec

INPUTS = {"camera": "hand", "encoder_id": "world", "num_patches": 2, "feature_dim": 24}
SMALL = {"hidden_dim": 32, "num_layers": 1, "num_heads": 2, "num_frames": 4, "stride": 3,
         "dropout": 0.0}  # fmt: skip
KEY = "observation.features.hand"
MODULES = {
    "rank": (RankingModule, {"hidden_dim": 32, "dropout": 0.0}, {}),
    "rank-sampled": (RankingModule, {"hidden_dim": 32}, {"num_pairs": 6}),
    "rewind": (RewindModule, SMALL, {}),
    "success": (SuccessModule, SMALL, {}),
    "sarm": (StageModule, {**SMALL, "priors": {"sparse": [0.3, 0.3, 0.4]}}, {}),
    "primitive": (PrimitiveModule, SMALL, {"group_weight": 0.5}),
    "sarm2": (GatedModule, {**SMALL, "num_experts": 4, "expert_dim": 16}, {}),
}


def _module(name, **changes):
    cls, network, options = MODULES[name]
    torch.manual_seed(0)
    options = {**options, "lr": 3e-3, **changes}
    network = {**network, **options.pop("network", {})}
    return cls(**INPUTS, network=network, **options)


def _loader(num=12, num_failures=0, batch_size=64, world=None, **changes):
    spec = WindowSpec(**{"num_frames": 4, "stride": 3, **changes})
    episodes = (world or FeatureWorld()).episodes(num, num_failures=num_failures)
    data = WindowDataset(episodes, spec, camera="hand")
    return DataLoader(
        data, batch_size=batch_size, sampler=data.sampler, collate_fn=lambda batch: batch
    )


def _fit(module, loader, *, epochs=1, steps=-1, ckpt_path=None, **options):
    with warnings.catch_warnings():
        for text in ("does not have many workers", "have no `val_dataloader`", "smaller than"):
            warnings.filterwarnings("ignore", f".*{text}.*")
        trainer = Trainer(
            max_epochs=epochs,
            max_steps=steps,
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            **{"enable_checkpointing": False, **options},
        )
        trainer.fit(module, loader, ckpt_path=ckpt_path, weights_only=True)
    return trainer


def _progress(module, episode):
    batch = {KEY: episode.features.unsqueeze(0), "task": [episode.task]}
    return module.model.compute_progress(batch)[0]


@pytest.mark.parametrize("name", MODULES)
def test_trains_and_reloads_with_weights_only(name, tmp_path):
    module = _module(name, warmup_steps=1)
    loader = _loader(4, num_failures=2, max_rewind=2)
    before = [p.detach().clone() for p in module.model.parameters() if p.requires_grad]
    trainer = _fit(module, loader, steps=2, plugins=[AtomicCheckpointIO()])
    after = [p for p in module.model.parameters() if p.requires_grad]
    changed = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert sum(changed) > 0.8 * len(changed)
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    again = type(module).load_from_checkpoint(tmp_path / "two.ckpt", weights_only=True)
    for ours, theirs in zip(module.parameters(), again.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", MODULES)
def test_state_is_normalised_by_the_training_data(name, tmp_path):
    episodes = [
        e._replace(signals={**e.signals, "observation.state": 9.0 + torch.rand(len(e.progress), 3)})
        for e in FeatureWorld().episodes(4)
    ]
    data = WindowDataset(episodes, WindowSpec(num_frames=4, stride=3), camera="hand")
    loader = DataLoader(data, batch_size=64, sampler=data.sampler, collate_fn=lambda batch: batch)
    module = _module(name, network={"state_dim": 3})
    trainer = _fit(module, loader, steps=1, plugins=[AtomicCheckpointIO()])
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    again = type(module).load_from_checkpoint(tmp_path / "one.ckpt", weights_only=True)
    states = torch.cat([episode.signals["observation.state"] for episode in episodes])
    found = [part for part in again.modules() if isinstance(part, StateEmbedding)]
    assert len(found) == (2 if name == "sarm2" else 1)
    for part in found:
        torch.testing.assert_close(part.mean, states.mean(0))
        torch.testing.assert_close(part.scale, states.std(0, correction=0))


@pytest.mark.parametrize("name", MODULES)
def test_padding_changes_no_bit_of_the_loss(name):
    changes = {"network": {"dispatch": False}} if name == "sarm2" else {}
    module = _module(name, **changes).eval()
    module.log = lambda *args, **kwargs: None
    batch = next(iter(_loader(4, max_rewind=3, rewind_probability=0.5)))
    padded = ~(torch.arange(8) < batch["length"][:, None])
    assert padded.any()
    losses = []
    for fill in (0.0, 9.0):
        features = batch[KEY].masked_fill(padded[:, :, None, None], fill)
        torch.manual_seed(0)
        losses.append(module.loss({**batch, KEY: features}))
    # The term of SARM2's balance, too, leaves padding out.
    assert torch.equal(losses[0], losses[1])


def test_ranking_orders_held_out_frames_after_one_epoch():
    # The motion of one task is monotone in time, as RFTF assumes of expert segments.
    world = FeatureWorld(noise=0.2)
    module = _module("rank")
    _fit(module, _loader(40, num_frames=8, world=world, batch_size=32))
    held_out = world.episodes(12, seed=99)
    accuracy = torch.stack([order_accuracy(_progress(module, e)) for e in held_out]).mean()
    assert accuracy >= 0.94


def test_ranked_values_fall_with_failures():
    world = FeatureWorld(noise=0.2)
    module = _module("rank")
    _fit(module, _loader(40, num_frames=8, world=world, batch_size=32))
    failures = world.episodes(0, num_failures=20, seed=7)
    curves = [_progress(module, episode) for episode in failures]
    falls = [float(c[len(c) // 2 - 2 : len(c) // 2 + 3].mean() > c[-5:].mean()) for c in curves]
    assert sum(falls) / len(falls) >= 0.9


class _Clock(FeatureWorld):
    """What the frame shows is buried in noise, so that the place in the window is easier."""

    def __init__(self):
        super().__init__(num_patches=1, feature_dim=24, noise=1.0)
        self.kinds = 0.1 * self.kinds


def _clock_slope(max_rewind):
    """Mean change of progress while a clip is played backwards."""
    network = {"position": "all", "num_frames": 8, "stride": 4}
    module = _module("rewind", network=network)
    module = RewindModule(**{**INPUTS, "num_patches": 1}, network={**SMALL, **network}, lr=3e-3)
    loader = _loader(
        40, world=_Clock(), num_frames=8, stride=4, max_rewind=max_rewind, batch_size=32
    )
    _fit(module, loader, epochs=2)
    data = WindowDataset(
        _Clock().episodes(12, seed=99),
        WindowSpec(num_frames=8, stride=4, max_rewind=3, rewind_probability=1.0),
        camera="hand",
    )
    batch = data.__getitems__(list(range(len(data))))
    full = batch["length"] == 1 + 8 + 3
    with torch.no_grad():
        progress = module.model.eval()(batch).progress[full]
    return float((progress[:, -1] - progress[:, 8]).mean())


def test_clock_only_rewinding_makes_predictions_fall_on_reversed_clips():
    assert _clock_slope(max_rewind=3) < -0.03
    assert _clock_slope(max_rewind=0) > 0.0


def test_estimator_learns_primitives_and_says_so(tmp_path):
    world = FeatureWorld()
    module = _module("primitive")
    _fit(module, _loader(24, world=world), epochs=5)
    right, total = 0, 0
    for episode in world.episodes(8, seed=99):
        batch = {KEY: episode.features.unsqueeze(0), "task": [episode.task]}
        found = module.model.compute_primitives(batch)[0]
        right += int((found == episode.signals["primitive"]).sum())
        total += len(found)
    assert right / total > 0.9


def test_separate_estimator_is_loaded_and_stays(tmp_path):
    estimator = _module("primitive", network={"num_layers": 2})
    estimator.model.save_pretrained(tmp_path)
    module = _module("sarm2", estimator_folder=str(tmp_path), joint=False)
    _fit(module, _loader(4), steps=2)
    for ours, theirs in zip(
        module.model.estimator.parameters(), estimator.model.parameters(), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_an_estimator_that_nobody_trains_is_refused():
    with pytest.raises(ValueError, match="`estimator_folder` where `joint` is false, got None"):
        _module("sarm2", joint=False)
    blind = _module("sarm2", joint=False, network={"use_estimator": False})
    assert blind.model.estimator is None


def test_sarm2_learns_and_uses_its_experts():
    world = FeatureWorld()
    module = _module("sarm2")
    _fit(module, _loader(24, world=world, max_rewind=2), epochs=5)
    held_out = world.episodes(8, seed=99)
    errors = [(_progress(module, e) - e.progress).square().mean() for e in held_out]
    assert torch.stack(errors).mean() < 0.02
    batch = next(iter(_loader(8, world=world)))
    with torch.no_grad():
        out = module.model.eval()(batch)
    use = ExpertUse(num_experts=4)
    use.update(out.experts.flatten(0, 1), torch.zeros(out.experts.shape[:2].numel()).long())
    assert use.compute() < 0.5


@pytest.mark.parametrize(
    ("name", "change", "error", "message"),
    [
        ("rewind", {"network": {"hiden_dim": 3}}, ValueError, "`network`.*'hiden_dim'"),
        ("sarm", {"network": {"priors": {"fine": [1.0]}}}, ValueError, "1 stages in `priors`"),
        (
            "sarm",
            {"network": {"priors": {"a": [0.3, 0.3, 0.4], "b": [1.0]}}},
            KeyError,
            "Expected 'stage_b' for head 'b'",
        ),
    ],
)
def test_bad_configurations_are_named(name, change, error, message):
    with pytest.raises(error, match=message):
        _module(name, **change).loss(next(iter(_loader(4))))


def _loss_without_primitives(name, **changes):
    module = _module(name, **changes)
    module.log = lambda *args, **kwargs: None
    batch = next(iter(_loader(4)))
    del batch["primitive"]
    return module.loss(batch)


@pytest.mark.parametrize("name", ["primitive", "sarm2"])
def test_training_an_estimator_needs_primitives(name):
    with pytest.raises(KeyError, match=r"Expected 'primitive' in the episodes.*`joint` false"):
        _loss_without_primitives(name)


@pytest.mark.parametrize("frozen", [True, False])
def test_nothing_else_needs_primitives(frozen, tmp_path):
    _module("primitive", network={"num_layers": 2}).model.save_pretrained(tmp_path)
    separate = {"joint": False, "estimator_folder": str(tmp_path)}
    changes = separate if frozen else {"network": {"use_estimator": False}}
    assert _loss_without_primitives("sarm2", **changes).isfinite()


@pytest.mark.parametrize("name", ["rewind", "sarm2"])
def test_resumed_run_has_the_bits_of_one_never_stopped(name, tmp_path):
    def network():
        return {"network": {"dropout": 0.2}}

    whole = _module(name, **network())
    _fit(whole, _loader(4, max_rewind=2), epochs=3)
    stopped = _module(name, **network())

    class Stop(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            if trainer.current_epoch == 0:
                trainer.save_checkpoint(tmp_path / "first.ckpt")

    _fit(stopped, _loader(4, max_rewind=2), epochs=3, callbacks=[Stop()])
    torch.rand(5)
    resumed = _module(name, **network())
    path = tmp_path / "first.ckpt"
    _fit(resumed, _loader(4, max_rewind=2), epochs=3, ckpt_path=path)
    for ours, theirs in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_windows_know_the_epoch_behind_the_sampler_of_several_processes():
    data = _loader(4).dataset
    wrapped = DistributedSamplerWrapper(data.sampler, num_replicas=2, rank=0)
    loader = DataLoader(data, batch_size=64, sampler=wrapped, collate_fn=lambda batch: batch)
    seen = []

    class Look(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            seen.append((trainer.current_epoch, data.sampler.epoch))

    _fit(_module("rewind"), loader, epochs=2, callbacks=[Look()])
    assert {epoch for epoch, _ in seen} == {0, 1}
    assert all(epoch == told for epoch, told in seen)


def test_ranking_learns_from_demonstrations_only():
    module = _module("rank")
    batch = next(iter(_loader(4, num_failures=4, batch_size=200)))
    shown = batch["demonstrates"]
    assert 0 < shown.sum() < len(shown)
    before = module.loss(batch)
    failures = batch["frame_index"].clone()
    failures[~shown] = failures[~shown].flip(1)
    torch.testing.assert_close(module.loss({**batch, "frame_index": failures}), before)
    backwards = {**batch, "frame_index": batch["frame_index"].flip(1)}
    assert not torch.allclose(module.loss(backwards), before)


def test_unknown_success_has_no_part_in_the_loss():
    module = _module("success").eval()
    batch = next(iter(_loader(4)))
    target = batch["success"].clone()
    target[:5] = torch.nan
    rest = {key: value[5:] if not isinstance(value, str) else value for key, value in batch.items()}
    loss = module.loss({**batch, "success": target})
    torch.testing.assert_close(loss, module.loss(rest))
    loss.backward()
    assert all(p.grad.isfinite().all() for p in module.parameters() if p.grad is not None)
