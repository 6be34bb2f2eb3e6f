"""Label a dataset in the processes of one Trainer; `test_predict` runs this file."""

import sys

from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy

from progress_labels.encoders import load_encoder
from progress_labels.predict import predict_labels

if __name__ == "__main__":
    trainer = Trainer(
        accelerator="cpu",
        devices=int(sys.argv[2]),
        strategy=DDPStrategy(process_group_backend="gloo"),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    predict_labels(sys.argv[1], load_encoder(), trainer=trainer, overwrite=True)
