import dataclasses
import hashlib

import numpy as np
import pytest
import torch

from progress_labels import variance_covariance
from progress_labels.clips import FrameBank, load_frames, sample_clips
from progress_labels.encoders import load_encoder
from progress_labels.errors import CollapseError, DatasetError
from progress_labels.functional import multi_block_mask
from progress_labels.jepa import JEPA, export_encoder, tiny_config
from progress_labels.pretrain import PretrainConfig, pretrain
from progress_labels.probe import feature_spread, probe
from progress_labels.testing import check_encoder, make_dataset

_SMALL = {
    "crop_size": 32,
    "hidden_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "pred_hidden_size": 24,
    "pred_num_hidden_layers": 1,
}
_CONFIG = PretrainConfig(epochs=2, batch_size=32, size=_SMALL, min_rank=1.0, min_std=0.0)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "set"
    make_dataset(path, num_episodes=5, cameras=("base", "wrist"), frames_per_stage=6, size=48)
    return path


@pytest.fixture(scope="module")
def bank(root):
    return load_frames([root], size=32, progress_bar=False)


def test_the_bank_holds_every_camera_of_every_episode(root, bank):
    assert bank.frames.shape == (180, 32, 32, 3)
    assert bank.frames.dtype == torch.uint8
    assert np.unique(bank.episode).tolist() == [0, 1, 2, 3, 4]
    assert np.bincount(bank.group).tolist() == [90, 90]
    assert bank.last[:18].tolist() == [17] * 18
    assert bank.last[-1] == 179
    assert bank.fraction[:18].tolist() == pytest.approx((np.arange(18) / 17).tolist())
    twice = load_frames([root, root], size=32, progress_bar=False)
    assert len(np.unique(twice.episode)) == 10
    assert len(np.unique(twice.group)) == 4


def test_plain_videos_are_episodes_without_state(root, tmp_path):
    bank = load_frames([root / "videos"], size=32, progress_bar=False)
    assert len(np.unique(bank.episode)) == 2
    assert bank.state.shape == (180, 0)
    with pytest.raises(DatasetError, match=r"neither meta/info.json nor mp4"):
        load_frames([tmp_path])
    with pytest.raises(DatasetError, match="No source"):
        load_frames([])
    (tmp_path / "broken.mp4").write_bytes(b"not a video")
    with pytest.raises(DatasetError, match=r"Cannot decode .*broken.mp4"):
        load_frames([tmp_path], progress_bar=False)


def _counting_bank(lengths):
    """A bank whose frame n is filled with the value n, before augmentation."""
    total, ends = sum(lengths), np.cumsum(lengths) - 1
    frames = torch.arange(total, dtype=torch.uint8)[:, None, None, None].expand(-1, 8, 8, 3)
    zeros = np.zeros(total, np.int64)
    last = torch.from_numpy(np.repeat(ends, lengths))
    return FrameBank(frames, last, zeros, zeros, zeros.astype(np.float32), zeros[:, None])


def test_clips_stay_inside_their_video(monkeypatch):
    monkeypatch.setattr("progress_labels.clips._augment", lambda clips, generator: clips)
    bank = _counting_bank([40, 40])
    positions = torch.arange(80)
    generator = torch.Generator().manual_seed(0)
    clips = sample_clips(bank, positions, static_share=0.5, max_gap=8, generator=generator)
    first, second = (255 * clips[:, :, 0, 0, 0]).round().long().unbind(dim=1)
    assert first.tolist() == positions.tolist()
    gap = second - first
    assert 0.3 < (gap == 0).float().mean() < 0.75
    assert gap.min() == 0
    assert gap.max() == 8
    assert bool(((second < 40) == (first < 40)).all())
    static = sample_clips(bank, positions, static_share=1.0, max_gap=8, generator=generator)
    assert torch.equal(static[:, 0], static[:, 1])


def test_augmentation_is_the_same_for_both_frames(bank):
    generator = torch.Generator().manual_seed(0)
    positions = torch.arange(0, 180, 10)
    clips = sample_clips(bank, positions, static_share=1.0, max_gap=1, generator=generator)
    torch.testing.assert_close(clips[:, 0], clips[:, 1])
    assert 0.0 <= clips.min() <= clips.max() <= 1.0
    assert len({round(float(clip.mean()), 4) for clip in clips}) == len(clips)


def test_context_with_all_patches_visible_is_the_encoder():
    torch.manual_seed(0)
    jepa = JEPA(tiny_config(**_SMALL)).eval()
    clips = torch.randn(3, 2, 3, 32, 32)
    with torch.no_grad():
        whole = jepa.context(clips).last_hidden_state
        again = jepa._encode(jepa.context.embeddings(clips), torch.arange(16))
    torch.testing.assert_close(again, whole)


def test_hidden_patches_do_not_reach_the_prediction():
    torch.manual_seed(0)
    jepa = JEPA(tiny_config(**_SMALL)).eval()
    visible, hidden = multi_block_mask(
        4, num_blocks=2, scale=0.3, generator=torch.Generator().manual_seed(0)
    )
    clips = torch.randn(2, 2, 3, 32, 32)
    changed = clips.clone()
    for patch in hidden.tolist():
        row, column = 8 * (patch // 4), 8 * (patch % 4)
        changed[..., row : row + 8, column : column + 8] = 9.0

    def predict(x):
        seen = jepa._encode(jepa.context.embeddings(x), visible)
        return jepa._predict(seen, visible, hidden)

    with torch.no_grad():
        torch.testing.assert_close(predict(changed), predict(clips))


def test_predictor_equals_the_models_own():
    torch.manual_seed(0)
    jepa = JEPA(tiny_config(**_SMALL)).eval()
    tokens = torch.randn(2, 16, 24)
    visible, hidden = torch.tensor([0, 3, 5, 9]), torch.tensor([1, 2, 14])
    with torch.no_grad():
        ours = jepa._predict(tokens[:, visible], visible, hidden)
        masks = [visible.expand(2, -1)], [hidden.expand(2, -1)]
        theirs = jepa.predictor(tokens, *masks).last_hidden_state
    torch.testing.assert_close(jepa.predictor.proj(ours), theirs)


def test_each_term_has_its_weight():
    torch.manual_seed(0)
    off = {"pixels": 0.0, "variance": 0.0, "covariance": 0.0}
    jepa = JEPA(tiny_config(**_SMALL), **off).eval()
    clips = torch.rand(4, 2, 3, 32, 32)
    visible, hidden = torch.arange(8), torch.arange(8, 16)
    with torch.no_grad():
        latent = jepa(clips, [(visible, hidden)])
        goal = torch.nn.functional.layer_norm(jepa.target(clips).last_hidden_state, (24,))
        seen = jepa._encode(jepa.context.embeddings(clips), visible)
        state = jepa._predict(seen, visible, hidden)
        expected = (jepa.predictor.proj(state) - goal[:, hidden]).abs().mean()
        torch.testing.assert_close(latent, expected)
        variance, covariance = variance_covariance(seen, target_std=jepa.target_std)
        guess = jepa.pixel_head(state).unflatten(-1, (2, 3, 8, 8))
        patches = [
            clips[..., 8 * (n // 4) : 8 * (n // 4) + 8, 8 * (n % 4) : 8 * (n % 4) + 8]
            for n in hidden.tolist()
        ]
        pixels = (guess - torch.stack(patches, dim=1)).square().mean()
        terms = {"pixels": pixels, "variance": variance, "covariance": covariance}
        for name, term in terms.items():
            setattr(jepa, name, 2.0)
            torch.testing.assert_close(jepa(clips, [(visible, hidden)]) - latent, 2.0 * term)
            setattr(jepa, name, 0.0)


def test_the_target_moves_towards_the_context_without_gradient():
    jepa = JEPA(tiny_config(**_SMALL))
    slow, fast = next(jepa.target.parameters()), next(jepa.context.parameters())
    before = slow.clone()
    with torch.no_grad():
        fast += 1.0
    jepa.update_target(0.75)
    torch.testing.assert_close(slow, before + 0.25)
    mask = torch.arange(8), torch.arange(8, 16)
    jepa(torch.randn(4, 2, 3, 32, 32), [mask]).backward()
    assert all(p.grad is None for p in jepa.target.parameters())
    assert fast.grad.abs().max() > 0


def test_variance_covariance_against_numpy():
    features = torch.randn(
        20, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    features[..., 1] = 0.5 * features[..., 0]
    variance, covariance = variance_covariance(features)
    centred = (features - features.mean(dim=0)).flatten(0, 1).numpy()
    matrix = centred.T @ centred / (60 - 3)
    off = matrix - np.diag(np.diag(matrix))
    assert covariance.item() == pytest.approx((off**2).sum() / 5)
    hinge = np.maximum(0, 1 - np.sqrt(np.diag(matrix) + 1e-4)).mean()
    assert variance.item() == pytest.approx(hinge)
    enough, _ = variance_covariance(features, target_std=0.1)
    assert enough.item() == 0.0
    inputs = features[:4].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: sum(variance_covariance(x)), inputs)
    with pytest.raises(ValueError, match="at least 2 frames, got 1"):
        variance_covariance(features[:1])


def test_spread_tells_collapse_from_variety():
    generator = torch.Generator().manual_seed(0)
    position = torch.randn(1, 6, 16, generator=generator)
    assert feature_spread(position.expand(50, -1, -1)).std == pytest.approx(0.0, abs=1e-6)
    varied = torch.randn(400, 6, 16, generator=generator)
    assert feature_spread(varied).effective_rank == pytest.approx(16.0, abs=0.5)
    line = torch.randn(50, 6, 1, generator=generator) * torch.ones(16)
    assert feature_spread(line).effective_rank == pytest.approx(1.0, abs=1e-3)


def test_probe_finds_what_is_there_and_only_that(bank):
    time = torch.from_numpy(bank.fraction)[:, None]
    scores = probe(time, bank)
    assert scores["time"] > 0.99
    assert scores["state"] < 0.3
    noise = probe(torch.randn(180, 4, generator=torch.Generator().manual_seed(0)), bank)
    assert noise["time"] < 0.2
    few = bank._replace(episode=bank.episode % 3)
    with pytest.raises(ValueError, match="5 episodes of each group, got 3"):
        probe(time, few)


def test_pretraining_writes_a_loadable_measured_encoder(root, tmp_path):
    out = pretrain([root], tmp_path / "enc", config=_CONFIG, progress_bar=False)
    assert sorted(path.name for path in out.iterdir()) == [
        *("RECIPE.md", "config.json", "model.safetensors", "preprocessor_config.json")
    ]
    encoder = load_encoder(str(out))
    check_encoder(encoder)
    assert encoder.encode(torch.zeros(1, 1, 48, 48, 3, dtype=torch.uint8)).shape == (1, 1, 16, 24)
    recipe = (out / "RECIPE.md").read_text()
    assert hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest() in recipe
    assert "| time | " in recipe
    assert "180 of 32 × 32 px, 5 episodes" in recipe
    assert str(root.parent) not in recipe
    assert not (tmp_path / "enc.partial").exists()
    with pytest.raises(ValueError, match="enc exists"):
        pretrain([root], out, config=_CONFIG)


def test_exported_weights_are_the_targets_in_half_precision():
    jepa = JEPA(tiny_config(**_SMALL))
    model = export_encoder(jepa)
    for ours, theirs in zip(model.encoder.parameters(), jepa.target.parameters(), strict=True):
        assert torch.equal(ours, theirs.half())


def _interrupt_after(epochs, monkeypatch):
    from progress_labels import pretrain as module

    save, calls = module.save_checkpoint, []

    def save_then_stop(*args):
        save(*args)
        calls.append(1)
        if len(calls) == epochs:
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "save_checkpoint", save_then_stop)


def test_a_resumed_run_ends_in_the_same_weights(root, tmp_path, monkeypatch):
    straight = pretrain([root], tmp_path / "a", config=_CONFIG, progress_bar=False)
    with monkeypatch.context() as patch:
        _interrupt_after(1, patch)
        with pytest.raises(KeyboardInterrupt):
            pretrain([root], tmp_path / "b", config=_CONFIG, progress_bar=False)
    assert not (tmp_path / "b").exists()
    other = dataclasses.replace(_CONFIG, lr=0.5)
    with pytest.raises(ValueError, match="other frames or settings; remove"):
        pretrain([root], tmp_path / "b", config=other, progress_bar=False)
    resumed = pretrain([root], tmp_path / "b", config=_CONFIG, progress_bar=False)
    name = "model.safetensors"
    assert (resumed / name).read_bytes() == (straight / name).read_bytes()


def test_collapse_stops_the_run(root, tmp_path):
    config = dataclasses.replace(_CONFIG, min_std=5.0)
    with pytest.raises(CollapseError, match=r"collapsed in epoch 1: .*least 5.0"):
        pretrain([root], tmp_path / "enc", config=config, progress_bar=False)
    assert not (tmp_path / "enc").exists()


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match=r"`epochs` ≥ 1 and `batch_size` ≥ 2: 0, 64"):
        PretrainConfig(epochs=0)
    with pytest.raises(ValueError, match=r"`epochs` ≥ 1 and `batch_size` ≥ 2: 6, 1"):
        PretrainConfig(batch_size=1)
    with pytest.raises(ValueError, match=r"`static_share` in \[0, 1\], got 2.0"):
        PretrainConfig(static_share=2.0)
    with pytest.raises(ValueError, match="`max_gap` ≥ 1, got 0"):
        PretrainConfig(max_gap=0)
