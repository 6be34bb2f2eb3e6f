import pytest
import torch

from value_models.module import ProgressModule
from value_models.stage_modules import GatedModule
from value_models.window_modules import RewindModule

INPUTS = {"camera": "hand", "encoder_id": "one", "num_patches": 4, "feature_dim": 8}
SMALL = {"hidden_dim": 8, "num_layers": 1, "num_heads": 2, "num_frames": 3, "stride": 2}


def _rewind(**changes):
    return RewindModule(**{**INPUTS, "network": SMALL, **changes})


MODULES = {
    "frame": lambda **changes: ProgressModule(**{**INPUTS, "hidden_dim": 8, **changes}),
    "window": _rewind,
}


def _checkpoint(module):
    return {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}


@pytest.mark.parametrize("name", MODULES)
def test_its_own_checkpoint_is_taken(name):
    make = MODULES[name]
    module, checkpoint = make(), _checkpoint(make(seed=3))
    before = module.state_dict()
    assert any(not torch.equal(v, before[k]) for k, v in checkpoint["state_dict"].items())
    module.on_load_checkpoint(checkpoint)
    module.load_state_dict(checkpoint["state_dict"])
    for key, value in module.state_dict().items():
        assert torch.equal(value, checkpoint["state_dict"][key]), key


@pytest.mark.parametrize("name", MODULES)
def test_features_of_another_encoder_are_refused(name):
    make = MODULES[name]
    with pytest.raises(ValueError, match="features of encoder 'two', the data are of 'one'"):
        make().on_load_checkpoint(_checkpoint(make(encoder_id="two")))


def test_another_architecture_is_refused():
    other = GatedModule(**INPUTS, network={**SMALL, "num_experts": 3, "expert_dim": 8})
    with pytest.raises(ValueError, match=r"another architecture than RewindModule.*absent"):
        _rewind().on_load_checkpoint(_checkpoint(other))
    wide = _rewind(network={**SMALL, "hidden_dim": 16})
    with pytest.raises(ValueError, match=r"weights differ, such as .* there and \("):
        _rewind().on_load_checkpoint(_checkpoint(wide))
