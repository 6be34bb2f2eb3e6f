import pytest
import torch

from value_models.primitives import NULL_INDEX
from value_models.progress_model import DistributionalProgressModel, TemporalRankingModel
from value_models.sarm import StageAwareModel
from value_models.sarm2 import GatedValueModel, PrimitiveEstimator
from value_models.testing import PixelEncoder, check_progress_model, make_observation
from value_models.window_model import RewindRegressor, SuccessClassifier

SIZES = {"hidden_dim": 16, "num_layers": 2, "num_heads": 2, "num_frames": 4, "stride": 3}
INPUTS = {"camera": "hand", "encoder_id": "pixel-4x4-2", "num_patches": 16, "feature_dim": 24}
PRIORS = {"sparse": [0.3, 0.7], "dense": [0.1, 0.2, 0.3, 0.4]}


def _make(name, **changes):
    classes = {
        "rewind": (RewindRegressor, {}),
        "rewind-all": (RewindRegressor, {"position": "all"}),
        "success": (SuccessClassifier, {}),
        "sarm": (StageAwareModel, {"priors": PRIORS}),
        "sarm2": (GatedValueModel, {"num_experts": 4, "expert_dim": 8, "null_threshold": 0.0}),
        "sarm2-plain": (GatedValueModel, {"num_experts": 4, "use_estimator": False}),
        "feat2go": (DistributionalProgressModel, {}),
        "rftf": (TemporalRankingModel, {}),
    }
    cls, options = classes[name]
    sizes = {"hidden_dim": 16} if name in FRAME_MODELS else SIZES
    torch.manual_seed(0)
    return cls(**{**INPUTS, **sizes, **options, **changes}).eval()


FRAME_MODELS = ["feat2go", "rftf"]
MODELS = ["rewind", "rewind-all", "success", "sarm", "sarm2", "sarm2-plain"]


def _episodes(b, t, *, seed=0, cameras=("hand",), state_dim=0):
    generator = torch.Generator().manual_seed(seed)
    batch = {
        f"observation.features.{camera}": torch.randn(b, t, 16, 24, generator=generator)
        for camera in cameras
    }
    if state_dim:
        batch["observation.state"] = torch.randn(b, t, state_dim, generator=generator)
    return {**batch, "task": [f"task number {i}" for i in range(b)]}


@pytest.mark.parametrize("name", MODELS)
def test_keeps_the_contract(name):
    check_progress_model(_make(name).attach_encoder(PixelEncoder()), make_observation(3))


def test_ranking_model_keeps_the_contract():
    model = TemporalRankingModel(**INPUTS, hidden_dim=16)
    check_progress_model(model.attach_encoder(PixelEncoder()), make_observation(3))


@pytest.mark.parametrize("state_dim", [0, 5])
@pytest.mark.parametrize("name", [*MODELS, *FRAME_MODELS])
def test_streaming_equals_batch_for_environments_of_different_age(name, state_dim):
    model = _make(name, state_dim=state_dim)
    batch = _episodes(3, 40, state_dim=state_dim)
    whole = model.compute_progress(batch)
    starts = torch.tensor([0, 5, 13])  # environment i begins its episode at this step
    model.reset()
    for step in range(40):
        age = (step - starts).clamp(min=0)
        obs = {
            key: value[range(3), age] if key.startswith("observation") else value
            for key, value in batch.items()
        }
        model.reset(torch.as_tensor(step == starts))
        streamed = model.progress(obs)
        running = step >= starts
        torch.testing.assert_close(
            streamed[running], whole[range(3), age][running], atol=1e-5, rtol=0.0
        )
    torch.testing.assert_close(model.compute_reward(batch), whole[:, -1])


@pytest.mark.parametrize("name", MODELS)
def test_the_future_changes_no_bit_of_the_present(name):
    model = _make(name)
    batch = _episodes(2, 30)
    before = model.compute_progress(batch)
    assert before.std() > 0
    changed = {**batch, "observation.features.hand": batch["observation.features.hand"].clone()}
    changed["observation.features.hand"][:, 20:] = 7.0 * torch.randn(2, 10, 16, 24)
    after = model.compute_progress(changed)
    assert torch.equal(before[:, :20], after[:, :20])
    assert not torch.allclose(before[:, 20:], after[:, 20:])


@pytest.mark.parametrize("name", MODELS)
def test_padding_and_rewound_frames_change_no_bit_of_frames_before(name):
    # Only with all experts applied do matrix products keep their shape.
    model = _make(name, **({"dispatch": False} if name.startswith("sarm2") else {}))
    batch = _episodes(2, 8)
    with torch.no_grad():
        before = model(batch).progress
        batch["observation.features.hand"][:, 5:] = 3.0
        after = model(batch).progress
    assert torch.equal(before[:, :5], after[:, :5])
    assert not torch.equal(before[:, 5:], after[:, 5:])


def test_all_rows_of_a_frame_see_each_other():
    model = _make("rewind", more_cameras=["top"])
    batch = _episodes(1, 6, cameras=("hand", "top"))
    before = model.compute_progress(batch)
    for camera in ("hand", "top"):
        changed = {**batch, f"observation.features.{camera}": torch.zeros(1, 6, 16, 24)}
        assert not torch.allclose(before, model.compute_progress(changed))
    changed = {**batch, "task": ["something else"]}
    assert not torch.allclose(before, model.compute_progress(changed))


@pytest.mark.parametrize("name", [*MODELS, *FRAME_MODELS])
def test_state_is_read_and_checked(name):
    model = _make(name, state_dim=5)
    batch = _episodes(2, 6, state_dim=5)
    before = model.compute_progress(batch)
    moved = {**batch, "observation.state": batch["observation.state"] + 1.0}
    assert not torch.allclose(before, model.compute_progress(moved))
    with pytest.raises(ValueError, match=r"'observation.state' of width 5, got 4"):
        model.compute_progress(_episodes(2, 6, state_dim=4))
    with pytest.raises(KeyError, match=r"Expected 'observation.state'"):
        model.compute_progress(_episodes(2, 6))
    with pytest.raises(ValueError, match="`state_dim` of at least 0, got -1"):
        _make(name, state_dim=-1)


@pytest.mark.parametrize("name", ["sarm2", "rftf"])
def test_state_is_normalised_once_and_saved_so(name, tmp_path):
    model = _make(name, state_dim=5)
    batch = _episodes(2, 6, state_dim=5)
    raw = model.compute_progress(batch)
    states = batch["observation.state"].flatten(0, 1)
    shifted = {**batch, "observation.state": 3.0 * batch["observation.state"] + 7.0}
    model.fit_state(3.0 * states + 7.0)
    fitted = model.compute_progress(shifted)
    model.fit_state(states)  # fine-tuning on other data keeps the scale
    assert torch.equal(model.compute_progress(shifted), fitted)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert torch.equal(again.compute_progress(shifted), fitted)
    # What is normalised does not depend on the units of the state.
    plain = _make(name, state_dim=5)
    plain.fit_state(states)
    torch.testing.assert_close(plain.compute_progress(batch), fitted, atol=1e-5, rtol=0.0)
    assert not torch.allclose(raw, fitted, atol=1e-4)


def test_without_positions_time_cannot_be_counted():
    # A clip of one still frame: whatever its age, the model sees the same.
    model = _make("rewind")
    still = torch.randn(1, 1, 16, 24).expand(1, 30, 16, 24)
    progress = model.compute_progress({"observation.features.hand": still, "task": ["a"]})
    torch.testing.assert_close(progress, progress[:, :1].expand(1, 30))


def test_sarm_heads_and_told_stages():
    model = _make("sarm")
    tokens = model.embed(torch.randn(2, 5, 16, 24))
    words = model.instruction(["a", "b"])
    dense = model.decode(tokens, words, head="dense")
    assert dense.logits.shape == (2, 5, 4)
    last = model.decode(tokens, words, head="dense", stage=torch.full((2, 5), 3))
    assert (last.progress >= 0.6 - 1e-6).all()
    unknown = model.decode(tokens, words, head="dense", stage=torch.full((2, 5), -1))
    torch.testing.assert_close(unknown.progress, dense.progress)
    with pytest.raises(ValueError, match=r"Unknown head 'fine'; the model has \['sparse', 'dense'"):
        model.decode(tokens, words, head="fine")


def test_sarm_smoothing_is_an_option():
    model = _make("sarm")
    batch = _episodes(1, 12)
    raw = model.compute_progress(batch)
    torch.testing.assert_close(model.compute_smoothed_progress(batch, threshold=1.1), raw)
    smooth = model.compute_smoothed_progress(batch, threshold=0.0, window=5)
    assert smooth.diff().abs().sum() < raw.diff().abs().sum()


@pytest.mark.parametrize("priors", [{}, {"sparse": [0.5, 0.6]}, {"sparse": []}])
def test_bad_priors_are_named(priors):
    with pytest.raises(ValueError, match="`priors`"):
        _make("sarm", priors=priors)


def test_primitive_estimates_do_not_know_the_task():
    model = PrimitiveEstimator(**INPUTS, **SIZES, null_threshold=0.0).eval()
    batch = _episodes(2, 20)
    chosen = model.compute_primitives(batch)
    assert chosen.shape == (2, 20)
    assert torch.equal(chosen, model.compute_primitives({**batch, "task": ["x", "y"]}))
    streamed = [
        model.primitives({"observation.features.hand": frame, "task": batch["task"]})
        for frame in batch["observation.features.hand"].unbind(1)
    ]
    assert torch.equal(torch.stack(streamed, 1), chosen)


def test_unsure_primitives_take_the_null_gate():
    model = _make("sarm2", null_threshold=1.0)
    assert (model.estimator.compute_primitives(_episodes(1, 5)) == NULL_INDEX).all()


def test_gates_follow_the_estimated_group():
    model = _make("sarm2")
    batch = _episodes(2, 8)
    with torch.no_grad():
        before = model(batch)
        group = model.experts.gates
        used = set()
        for index, gate in enumerate(group):
            gate[-1].bias += 3.0 * torch.randn(4)
            if not torch.equal(model(batch).probs, before.probs):
                used.add(index)
                before = model(batch)
    assert 1 <= len(used) <= 2


def test_decoder_error_reaches_the_estimator():
    model = _make("sarm2").train()
    model(_episodes(2, 8)).progress.sum().backward()
    assert model.estimator.primitive_head.weight.grad.abs().sum() > 0


def test_the_decoder_reads_the_same_primitives_in_training_and_in_use():
    # Without dropout nothing else differs between the modes.
    model = _make("sarm2", dropout=0.0)
    batch = _episodes(2, 8)
    with torch.no_grad():
        used = model.eval()(batch).progress
        trained = model.train()(batch).progress
    torch.testing.assert_close(trained, used)


def test_estimator_is_taken_over():
    model = _make("sarm2")
    trained = PrimitiveEstimator(**INPUTS, **SIZES)
    model.load_estimator(trained)
    for ours, theirs in zip(model.estimator.parameters(), trained.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    with pytest.raises(ValueError, match="does not fit the model"):
        model.load_estimator(PrimitiveEstimator(**INPUTS, **{**SIZES, "hidden_dim": 8}))
    with pytest.raises(ValueError, match="`use_estimator` false"):
        _make("sarm2-plain").load_estimator(trained)


@pytest.mark.parametrize("name", ["rewind", "sarm", "sarm2"])
def test_round_trip_and_refusal_of_another_architecture(name, tmp_path):
    model = _make(name)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    batch = _episodes(1, 6)
    assert torch.equal(model.compute_progress(batch), again.compute_progress(batch))
    with pytest.raises(ValueError, match=f"model of type '{model.model_type}', but Temporal"):
        TemporalRankingModel.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_frames": 0}, "`num_frames` of at least 1, got 0"),
        ({"stride": 0}, "`stride` of at least 1, got 0"),
        ({"num_heads": 3}, "`num_heads` that divides `hidden_dim` 16, got 3"),
        ({"position": "last"}, "`position`.*got 'last'"),
        ({"more_cameras": ["hand"]}, r"different cameras, got \['hand', 'hand'\]"),
    ],
)
def test_bad_arguments_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        _make("rewind", **change)


def test_changed_number_of_environments_is_refused():
    model = _make("rewind").attach_encoder(PixelEncoder())
    model.progress(make_observation(3))
    with pytest.raises(ValueError, match="Got 2 environments after 3; call `reset"):
        model.progress(make_observation(2))
    with pytest.raises(ValueError, match=r"`env_mask` of shape \(3,\), got \(2,\)"):
        model.reset([True, False])


def test_each_frame_is_encoded_once():
    class Counting(PixelEncoder):
        frames = 0

        def encode(self, frames):
            self.frames += frames.shape[0] * frames.shape[1]
            return super().encode(frames)

    encoder = Counting()
    model = _make("sarm2").attach_encoder(encoder)
    for seed in range(20):
        model.progress(make_observation(3, seed=seed))
    assert encoder.frames == 60


@pytest.mark.parametrize("name", ["rewind", "sarm", "sarm2"])
def test_half_precision_is_near(name):
    batch = _episodes(2, 12)
    exact = _make(name).compute_progress(batch)
    half = _make(name).to(torch.bfloat16)
    assert half.compute_progress(batch).dtype == torch.float32
    # bfloat16 has 8 bits; where it changes the likeliest class, progress may jump.
    close = (half.compute_progress(batch) - exact).abs() < 0.02
    assert close.float().mean() > 0.7
