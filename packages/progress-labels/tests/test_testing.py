import pytest
import torch

from progress_labels.testing import check_encoder, make_dataset, make_frames, make_staged_features


class _Good:
    encoder_id = "good@1"

    def encode(self, frames):
        return frames.float().mean(dim=(2, 3), keepdim=True).flatten(2, 3)


class _WholeBatch(_Good):
    def encode(self, frames):
        return super().encode(frames) - super().encode(frames).mean()


class _Random(_Good):
    def encode(self, frames):
        return torch.rand(*frames.shape[:2], 1, 3)


class _Edits(_Good):
    def encode(self, frames):
        frames //= 2
        return super().encode(frames)


class _Pooled(_Good):
    def encode(self, frames):
        return super().encode(frames)[:, :, 0]


class _Blind(_Good):
    def encode(self, frames):
        return torch.ones(*frames.shape[:2], 1, 3)


def test_a_conforming_encoder_passes():
    check_encoder(_Good())


@pytest.mark.parametrize(
    ("encoder", "clause"),
    [
        (_WholeBatch(), "on its own"),
        (_Random(), "deterministic"),
        (_Edits(), "leaves its input"),
        (_Pooled(), r"\(b, t, p, d\)"),
        (_Blind(), "different frames"),
    ],
)
def test_the_first_broken_clause_is_named(encoder, clause):
    with pytest.raises(AssertionError, match=clause):
        check_encoder(encoder)


def test_samples_rest_at_their_subgoals():
    features, stage = make_staged_features(num_stages=3, frames_per_stage=20, pause=0.25, noise=0.0)
    assert stage.tolist() == [0] * 20 + [1] * 20 + [2] * 20
    moved = (features[1:] - features[:-1]).abs().amax(dim=(1, 2)) > 1e-6
    for end in (20, 40, 60):
        assert not moved[end - 6 : end - 1].any()
        assert moved[end - 19 : end - 7].all()


def test_frames_differ_by_seed_and_not_by_call(tmp_path):
    assert torch.equal(make_frames(seed=3), make_frames(seed=3))
    assert not torch.equal(make_frames(seed=3), make_frames(seed=4))
    stage = make_dataset(tmp_path / "a", num_episodes=1, num_stages=2, idle_tail=3)
    assert stage.tolist() == [0] * 16 + [1] * 19
