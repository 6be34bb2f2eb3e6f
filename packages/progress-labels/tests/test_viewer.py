import numpy as np
import pytest

from progress_labels.encoders import load_encoder
from progress_labels.labels import label_dataset, read_labels
from progress_labels.testing import make_dataset
from progress_labels.viewer import write_recording

pytest.importorskip("rerun", reason="rerun-sdk is an extra")


def test_a_recording_holds_frames_and_labels(tmp_path):
    root, out = tmp_path / "set", tmp_path / "set.rrd"
    make_dataset(root, num_episodes=2, failures=1)
    path = label_dataset(root, load_encoder(), progress_bar=False)
    assert write_recording(root, out) == out
    found = rows_of(out)
    labels = read_labels(path)
    for episode, label in labels.items():
        known = label.progress[np.isfinite(label.progress)]
        np.testing.assert_allclose(found.get(f"/episode_{episode:06d}/progress", []), known)
        assert found[f"/episode_{episode:06d}/frame"] == len(label.progress)
    assert [p.name for p in tmp_path.iterdir() if p.name.endswith(".tmp")] == []


def rows_of(path):
    """Return scalars, or the number of images, by entity."""
    from rerun.chunk import RrdReader  # how recordings are read changes with the version

    rows = {}
    for chunk in RrdReader(path).stream():
        batch = chunk.to_record_batch()
        for name in batch.schema.names:
            if name.endswith("Scalars:scalars"):
                values = [v for row in batch[name].to_pylist() for v in row or []]
                rows.setdefault(chunk.entity_path, []).extend(values)
            elif name.endswith(":blob"):
                rows[chunk.entity_path] = rows.get(chunk.entity_path, 0) + len(batch)
    return rows


def test_nothing_is_replaced(tmp_path):
    out = tmp_path / "mine.rrd"
    out.write_bytes(b"mine")
    with pytest.raises(FileExistsError, match=r"mine.rrd exists; remove it"):
        write_recording(tmp_path, out)
    assert out.read_bytes() == b"mine"
