import shutil

import pytest
import torch

from value_models.progress_model import DistributionalProgressModel
from value_models.sarm2 import GatedValueModel
from value_models.window_model import RewindRegressor

INPUTS = {"camera": "hand", "encoder_id": "e", "num_patches": 4, "feature_dim": 8}
SMALL = {"hidden_dim": 8, "num_layers": 1, "num_heads": 2, "num_frames": 3, "stride": 2}
MODELS = {
    "frame": (DistributionalProgressModel, {"hidden_dim": 8}),
    "window": (RewindRegressor, SMALL),
    "experts": (GatedValueModel, {**SMALL, "num_experts": 3, "expert_dim": 8}),
}


def _make(name):
    torch.manual_seed(0)
    cls, options = MODELS[name]
    return cls(**INPUTS, **options).eval()


def _stream(model, *, frames=6, seed=1, reset=True):
    generator = torch.Generator().manual_seed(seed)
    if reset:
        model.reset()
    return torch.stack(
        [
            model.progress(
                {
                    "observation.features.hand": torch.randn(2, 4, 8, generator=generator),
                    "task": ["push", "pull it"],
                }
            )
            for _ in range(frames)
        ]
    )


@pytest.mark.parametrize("name", MODELS)
def test_bfloat16_stays_near_and_gives_float32(name):
    exact = _stream(_make(name))
    half = _stream(_make(name).for_streaming(dtype=torch.bfloat16))
    assert half.dtype == torch.float32
    # 8 bits of mantissa through a few layers.
    torch.testing.assert_close(half, exact, atol=0.03, rtol=0.0)


def test_what_was_seen_before_the_cast_is_forgotten():
    fresh = _make("window").for_streaming(dtype=torch.float64)
    model = _make("window")
    _stream(model, seed=2)
    kept = _stream(model, reset=False)
    model.for_streaming(dtype=torch.float64)
    found = _stream(model, reset=False)
    torch.testing.assert_close(found, _stream(fresh), atol=0.0, rtol=0.0)
    assert not torch.allclose(found, kept, atol=1e-4)  # what was seen before would tell


def test_dtype_must_be_floating_point():
    with pytest.raises(ValueError, match=r"floating point `dtype`, got torch.int8"):
        _make("frame").for_streaming(dtype=torch.int8)


@pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None,
    reason="torch.compile needs a C++ compiler on a CPU",
)
@pytest.mark.parametrize("name", ["window"])
# Inductor's own imports.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_compiled_equals_eager(name, tmp_path):
    exact = _stream(_make(name), frames=3)
    compiled = _make(name).for_streaming(compile_model=True)
    torch.testing.assert_close(_stream(compiled, frames=3), exact, atol=1e-5, rtol=0.0)
    # Compiling leaves no trace in what is saved.
    compiled.save_pretrained(tmp_path)
    again = type(compiled).from_pretrained(tmp_path)
    torch.testing.assert_close(_stream(again, frames=3), exact)
