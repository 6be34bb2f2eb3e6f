"""The label file as LeRobot's RA-BC reads it: always its schema, with a clone of LeRobot its code.

``LEROBOT_ROOT`` names a clone; ``LEROBOT_PYTHON`` an interpreter with torch, pandas,
huggingface_hub and draccus, if this one lacks any of them. Checked against LeRobot at 7427f318.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from progress_labels.encoders import load_encoder
from progress_labels.episode_labels import LabelConfig
from progress_labels.labels import SARM_FILE, label_dataset
from progress_labels.testing import make_dataset

_CHUNK = 5
_KAPPA = 0.05

# Packages are entered past their __init__ files, which import every policy and robot there is.
_READER = """
import json, sys, types
from pathlib import Path
source, root, chunk, kappa, frames = sys.argv[1:]
for name in ("lerobot", "lerobot.utils", "lerobot.rewards", "lerobot.rewards.sarm"):
    package = types.ModuleType(name)
    package.__path__ = [str(Path(source, *name.split(".")))]
    sys.modules[name] = package
import torch
from lerobot.utils.sample_weighting import SampleWeightingConfig, make_sample_weighter
policy = types.SimpleNamespace(config=types.SimpleNamespace(chunk_size=int(chunk)))
found = {}
for head in ("sparse", "dense"):
    config = SampleWeightingConfig(type="rabc", head_mode=head, kappa=float(kappa))
    weighter = make_sample_weighter(config, policy, torch.device("cpu"), dataset_root=root)
    weights, stats = weighter.compute_batch_weights({"index": torch.arange(int(frames))})
    found[head] = [weights.tolist(), stats, weighter.get_stats()]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two successes, the second one's labels found; one failure, which stays unknown."""
    root = tmp_path_factory.mktemp("rabc") / "set"
    make_dataset(root, num_episodes=3, failures=1, idle_tail=4)
    label_dataset(root, load_encoder(), compat="sarm", progress_bar=False)
    return root


def test_the_file_has_the_columns_types_and_ranges_that_rabc_reads(root):
    table = pq.read_table(root / SARM_FILE)
    for name in ("index", "episode_index", "frame_index"):
        assert table.schema.field(name).type == pa.int64()
    rows = pq.read_table(root / "data/chunk-000/file-000.parquet")
    for name in ("index", "episode_index", "frame_index"):
        assert table[name].to_pylist() == rows[name].to_pylist()
    episode = table["episode_index"].to_numpy()
    for name in ("progress_sparse", "progress_dense"):
        column = table[name]
        assert column.type == pa.float32()
        assert column.null_count == 0  # unknown is NaN, as RA-BC tests for it
        values = column.to_numpy()
        assert np.isnan(values).tolist() == (episode == 2).tolist()
        known = values[episode < 2]
        assert known.min() >= 0.0
        assert known.max() == 1.0


def test_measured_failures_have_no_unknown_frames(tmp_path):
    make_dataset(tmp_path / "set", num_episodes=3, failures=1)
    config = LabelConfig(failures="reference")
    label_dataset(
        tmp_path / "set", load_encoder(), compat="sarm", config=config, progress_bar=False
    )
    values = pq.read_table(tmp_path / "set" / SARM_FILE)["progress_sparse"].to_numpy()
    assert ((values >= 0.0) & (values <= 1.0)).all()


@pytest.mark.skipif("LEROBOT_ROOT" not in os.environ, reason="LEROBOT_ROOT names no clone")
def test_rabc_of_lerobot_gives_the_weights_of_its_equations(root):
    table = pq.read_table(root / SARM_FILE)
    source = Path(os.environ["LEROBOT_ROOT"]) / "src"
    python = os.environ.get("LEROBOT_PYTHON", sys.executable)
    arguments = [str(source), str(root), str(_CHUNK), str(_KAPPA), str(table.num_rows)]
    done = subprocess.run(
        [python, "-c", _READER, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    episode = table["episode_index"].to_numpy()
    progress = table["progress_sparse"].to_numpy().astype(np.float64)
    expected = _weights(progress, episode)
    for weights, batch, stats in found.values():
        assert stats["num_frames"] == int(np.isfinite(progress).sum())
        assert batch["num_zero_weight"] == int((expected == 0).sum()) > 0
        np.testing.assert_allclose(
            weights, expected * len(expected) / expected.sum(), rtol=1e-4, atol=1e-5
        )


def _weights(progress, episode):
    """SARM, Eq. 8-9, over each episode; 1 where progress is not known."""
    delta = np.full(len(progress), np.nan)
    for number in np.unique(episode):
        rows = np.flatnonzero(episode == number)
        ahead = np.minimum(np.arange(len(rows)) + _CHUNK, len(rows) - 1)
        delta[rows] = progress[rows[ahead]] - progress[rows]
    known = delta[np.isfinite(delta)]
    mean, std = max(known.mean(), 0.0), max(known.std(), 1e-6)
    soft = np.clip((delta - (mean - 2 * std)) / (4 * std + 1e-6), 0.0, 1.0)
    weights = np.where(delta > _KAPPA, 1.0, np.where(delta >= 0.0, soft, 0.0))
    return np.where(np.isfinite(delta), weights, 1.0)
