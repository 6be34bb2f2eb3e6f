import pytest

TRAINER = """
trainer:
  max_epochs: 2
  accelerator: cpu
  enable_progress_bar: false
  enable_model_summary: false
  log_every_n_steps: 1
  num_sanity_val_steps: 0
  logger:
    class_path: lightning.pytorch.loggers.CSVLogger
    init_args: {save_dir: runs}
  plugins:
    - class_path: value_models.callbacks.AtomicCheckpointIO
  callbacks:
    - class_path: lightning.pytorch.callbacks.ModelCheckpoint
      init_args: {dirpath: checkpoints, save_last: true}
    - class_path: value_models.callbacks.MemoryEstimate
    - class_path: value_models.callbacks.ExportModel
      init_args: {folder: model}
    - class_path: value_models.callbacks.PredictionWriter
      init_args: {path: predictions.csv}
"""


@pytest.fixture
def write_config(tmp_path, monkeypatch):
    """Write ``config.yaml``, with a small trainer, into the empty folder that the test runs in."""
    monkeypatch.chdir(tmp_path)

    def write(data_and_model):
        (tmp_path / "config.yaml").write_text("seed_everything: 0\n" + data_and_model + TRAINER)

    return write
