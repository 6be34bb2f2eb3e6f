import subprocess
import sys
from pathlib import Path

import pytest

from progress_labels.encoders import load_encoder
from progress_labels.errors import DatasetError
from progress_labels.labels import LabelConfig, label_dataset
from progress_labels.predict import predict_labels
from progress_labels.testing import make_dataset


def test_two_processes_write_the_bytes_of_one_run(tmp_path):
    root = tmp_path / "set"
    make_dataset(root, num_episodes=5, failures=1)
    path = label_dataset(root, load_encoder(), progress_bar=False)
    expected = path.read_bytes()
    path.unlink()
    script = Path(__file__).with_name("predict_in_processes.py")
    subprocess.run([sys.executable, str(script), str(root), "2"], check=True, timeout=300)
    assert path.read_bytes() == expected
    assert not list(root.glob(".feat2go*"))


@pytest.mark.filterwarnings("ignore:.*predict_dataloader.* does not have many workers")
@pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec")
def test_predict_writes_the_bytes_of_one_run(tmp_path):
    root = tmp_path / "set"
    make_dataset(root, num_episodes=3, failures=1)
    encoder = load_encoder()
    path = label_dataset(root, encoder, progress_bar=False)
    expected = path.read_bytes()
    with pytest.raises(DatasetError, match="exists; pass --overwrite"):
        predict_labels(root, encoder)
    path.write_bytes(b"something older")
    assert predict_labels(root, encoder, overwrite=True) == path
    assert path.read_bytes() == expected
    assert not list(root.glob(".feat2go*"))
    with pytest.raises(ValueError, match="all episodes at once"):
        predict_labels(root, encoder, config=LabelConfig(common_stages=True))
