import json

import pytest
import torch
from torch import nn

from value_models.pretrained import PretrainedModule, save_folder


class _Small(PretrainedModule):
    model_type = "small"

    def __init__(self, *, dim: int = 3) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, 1)


class _Other(_Small):
    model_type = "other"


def _edit(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_round_trip(tmp_path):
    model = _Small(dim=5)
    assert save_folder(model, tmp_path / "a" / "model") == tmp_path / "a" / "model"
    again = _Small.from_pretrained(tmp_path / "a" / "model")
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    config = json.loads((tmp_path / "a" / "model" / "config.json").read_text())
    assert config == {"model_type": "small", "dim": 5}


def test_saving_again_replaces_the_folder_and_leaves_nothing_else(tmp_path):
    save_folder(_Small(), tmp_path / "model")
    (tmp_path / "model" / "stray").touch()
    save_folder(_Small(dim=7), tmp_path / "model")
    assert _Small.from_pretrained(tmp_path / "model").linear.in_features == 7
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert not (tmp_path / "model" / "stray").exists()


@pytest.mark.parametrize(
    "files",
    [
        {"last.ckpt": "weights"},
        {"config.json": '{"model_type": "other"}'},
        {"config.json": "{"},
        {"config.json": "[]"},
    ],
)
def test_saving_never_replaces_anything_else(tmp_path, files):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(FileExistsError, match=f"{tmp_path}.*saved _Small.*choose another folder"):
        save_folder(_Small(), tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == files
    with pytest.raises(FileExistsError, match=r"saved _Small.*choose another folder"):
        save_folder(_Small(), tmp_path / next(iter(files)))


def test_an_empty_folder_is_filled(tmp_path):
    save_folder(_Small(), tmp_path)
    assert _Small.from_pretrained(tmp_path).linear.in_features == 3


def test_a_model_of_no_type_is_never_replaced(tmp_path):
    class Untyped:
        def save_pretrained(self, folder):
            folder.mkdir()
            (folder / "config.json").write_text("{}")

    save_folder(Untyped(), tmp_path / "model")
    with pytest.raises(FileExistsError, match="saved Untyped"):
        save_folder(Untyped(), tmp_path / "model")


def test_another_class_is_refused(tmp_path):
    save_folder(_Other(), tmp_path / "model")
    with pytest.raises(ValueError, match="type 'other', but _Small loads 'small'"):
        _Small.from_pretrained(tmp_path / "model")


def test_another_architecture_is_refused(tmp_path):
    save_folder(_Small(), tmp_path / "model")
    _edit(tmp_path / "model", dim=4)
    with pytest.raises(ValueError, match=r"(?s)model.safetensors.*size mismatch"):
        _Small.from_pretrained(tmp_path / "model")


def test_unknown_arguments_are_refused(tmp_path):
    save_folder(_Small(), tmp_path / "model")
    _edit(tmp_path / "model", depth=2)
    with pytest.raises(ValueError, match=r"unknown arguments \['depth'\]"):
        _Small.from_pretrained(tmp_path / "model")


def test_incomplete_folders_are_refused(tmp_path):
    folder = save_folder(_Small(), tmp_path / "model")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(ValueError, match=r"Cannot load .*model.safetensors"):
        _Small.from_pretrained(folder)
    weights.unlink()
    with pytest.raises(ValueError, match=r"Cannot load .*model.safetensors"):
        _Small.from_pretrained(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match="is not valid JSON"):
        _Small.from_pretrained(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match=r"No config.json in .*not a saved _Small"):
        _Small.from_pretrained(folder)
    with pytest.raises(FileNotFoundError, match=r"No model folder at .*absent"):
        _Small.from_pretrained(tmp_path / "absent")
