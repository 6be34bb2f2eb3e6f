"""Lightning plug-ins: atomic checkpoints, model folders, predictions, reports, memory."""

import csv
import importlib.util
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_info

from value_models.pretrained import Exportable, check_replaceable, save_folder
from value_models.sharding import whole_model


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its final name and renames it, so that it is never half there."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Save ``checkpoint`` under ``path``, replacing an old one only when complete."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as folder:
            fresh = Path(folder, path.name)
            super().save_checkpoint(checkpoint, fresh, storage_options)
            os.replace(fresh, path)


class ExportModel(Callback):
    """Saves ``module.model`` as a model folder when training ends.

    Args:
        folder: Where to; a saved model of the same type is replaced.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse, before it is trained, a model that cannot be saved or not to this folder."""
        model = getattr(pl_module, "model", None)
        if not isinstance(model, Exportable):
            raise ValueError(  # noqa: TRY004 - the command line prints it as one line
                f"`ExportModel` cannot save the {type(model).__name__} of "
                f"{type(pl_module).__name__}: it has no `save_pretrained`; remove the callback."
            )
        check_replaceable(model, self.folder)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save on the first rank."""
        model = whole_model(pl_module)
        if trainer.is_global_zero:
            save_folder(model, self.folder)


class PredictionWriter(BasePredictionWriter):
    """Writes predictions to a CSV file: ``episode_index, frame_index, progress`` (or primitive).

    Args:
        path: The file; replaced if it exists. Ranks above 0 append ``.<rank>`` to it.
    """

    def __init__(self, path: str) -> None:
        super().__init__(write_interval="epoch")
        self.path = path

    def write_on_epoch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        predictions: Sequence[Any],
        batch_indices: Sequence[Any],
    ) -> None:
        """Write all predictions of this rank."""
        rank = trainer.global_rank
        path = Path(f"{self.path}.{rank}" if rank else self.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{path.name}.tmp")
        with fresh.open("w", newline="") as file:
            writer = csv.writer(file)
            column = next((k for b in predictions for k in b if k != "episode_index"), "progress")
            writer.writerow(["episode_index", "frame_index", column])
            for batch in predictions:
                for index, curve in zip(batch["episode_index"], batch[column], strict=True):
                    form = "{:.6f}" if curve.is_floating_point() else "{}"
                    rows = enumerate(curve.tolist())
                    writer.writerows([int(index), frame, form.format(x)] for frame, x in rows)
        os.replace(fresh, path)


class ReportWriter(Callback):
    """Writes an HTML report of the held-out episodes after training, and after ``report``.

    Needs the extra ``[viz]``.

    Args:
        path: The file; replaced only when complete.
        num_strips: Most successes and most failures to show.
    """

    def __init__(self, path: str, num_strips: int = 4) -> None:
        if importlib.util.find_spec("matplotlib") is None:
            raise ValueError("A report needs matplotlib: pip install 'value-models[viz]'.")
        self.path = path
        self.num_strips = num_strips

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write on the first rank."""
        self._write(trainer, pl_module)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write on the first rank."""
        self._write(trainer, pl_module)

    def _write(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Seconds of import that a run without a report need not pay for.
        from value_models.report import write_report

        data: Any = getattr(trainer, "datamodule", None)
        model = whole_model(pl_module)
        if trainer.is_global_zero:
            write_report(self.path, model, data, num_strips=self.num_strips)
        rank_zero_info(f"Report: {self.path}")


class MemoryEstimate(Callback):
    """Prints before training what weights, gradients, AdamW's state and features will take."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print one line on the first rank."""
        mib = 2.0**20
        trained = sum(p.numel() * p.element_size() for p in pl_module.parameters()
                      if p.requires_grad)  # fmt: skip
        frozen = sum(p.numel() * p.element_size() for p in pl_module.parameters()
                     if not p.requires_grad)  # fmt: skip
        episodes = getattr(getattr(trainer, "datamodule", None), "encoded", [])
        features = sum(e.features.numel() * e.features.element_size() for e in episodes)
        # Weight, gradient and AdamW's two moments; the training set is gathered into a copy.
        rank_zero_info(
            f"Memory: {(4 * trained + frozen) / mib:.1f} MiB for weights, gradients and optimizer, "
            f"up to {2 * features / mib:.1f} MiB for features; activations come on top."
        )
