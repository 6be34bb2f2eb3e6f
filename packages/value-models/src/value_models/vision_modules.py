"""Lightning shell of the vision-language value model, and what feeds it from the command line."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from lightning import LightningModule
from torch import Tensor, nn

from value_models.checkpoints import refuse_other_checkpoint
from value_models.distributed import global_count
from value_models.metrics import OrderAccuracy, ProgressError, RankCorrelation
from value_models.types import ProgressBatch
from value_models.vision_language import LORA_TARGETS, VisionLanguageProgressModel

PROMPT = (
    "You judge how far a robot has got. The picture shows its current view. Task: {task} How much "
    "of the task is done?"
)


class RawFrames:
    """An encoder that keeps the pixels: rows of a picture are its patches.

    With it, `ProgressDataModule` splits, shuffles and serves frames to a model that sees for
    itself. Half precision holds 0 … 255 exactly; frames take 2 bytes per number.
    """

    encoder_id = "frames"

    def encode(self, frames: UInt8[Tensor, "b t h w 3"]) -> Float[Tensor, "b t h row"]:
        """Pixels as numbers."""
        return rearrange(frames, "b t h w c -> b t h (w c)").float()


class ChatInputs:
    """One picture and one question per row, by the processor of the backbone.

    Args:
        processor: A transformers processor, or where ``AutoProcessor`` finds one.
        prompt: The question; ``{task}`` becomes the instruction.

    Raises:
        ValueError: If ``prompt`` has no ``{task}``.
    """

    def __init__(self, processor: Any, prompt: str = PROMPT) -> None:
        if "{task}" not in prompt:
            raise ValueError(f"Expected '{{task}}' in `prompt`, got {prompt!r}.")
        if isinstance(processor, str):
            from transformers import AutoProcessor

            processor = AutoProcessor.from_pretrained(processor)
        self.processor = processor
        self.prompt = prompt

    def __call__(
        self, frames: UInt8[Tensor, "b h w 3"], task: Sequence[str]
    ) -> Mapping[str, Tensor]:
        """Return what the backbone's ``forward`` takes."""
        conversations = [
            [
                {
                    "role": "user",
                    "content": [
                        {"type": "image", "image": frame.cpu().numpy()},
                        {"type": "text", "text": self.prompt.format(task=text)},
                    ],
                }
            ]
            for frame, text in zip(frames, task, strict=True)
        ]
        inputs: Mapping[str, Tensor] = self.processor.apply_chat_template(
            conversations,
            tokenize=True,
            add_generation_prompt=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        )
        return inputs


class VisionLanguageModule(LightningModule):
    """Feat2Go on a vision-language backbone, trained by cross-entropy on binned labels.

    Its data are single frames (no ``windows``) under the encoder `RawFrames`.

    Args:
        camera: Camera that the model looks through.
        encoder_id: That of `RawFrames`.
        num_patches: Height of a frame.
        feature_dim: Three times its width.
        backbone: Folder or Hub id that ``AutoModel`` loads, such as ``Qwen/Qwen3-VL-4B-Instruct``.
        prepare: Makes the backbone's inputs; `ChatInputs` of the backbone's processor if None.
        num_bins: Bins on [0, 1].
        lora_rank: Rank of LoRA's additions to the frozen backbone; 0 trains all of it.
        lora_targets: Layers that they are added to.
        sigma_bins: Width of the Gaussian targets in bins; None for two-hot targets.
        lr: Learning rate of AdamW.
        weight_decay: AdamW's weight decay.
        seed: Seed of dropout; with the step it fixes every random number of that step.

    Raises:
        ValueError: If the data do not come from `RawFrames`.
    """

    def __init__(  # noqa: PLR0913 - a LightningModule's scalars are its config
        self,
        *,
        camera: str,
        encoder_id: str,
        num_patches: int,
        feature_dim: int,
        backbone: str,
        prepare: Callable[..., Any] | None = None,
        num_bins: int = 201,
        lora_rank: int = 16,
        lora_targets: Sequence[str] = LORA_TARGETS,
        sigma_bins: float | None = 0.75,
        lr: float = 1e-4,
        weight_decay: float = 0.01,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if encoder_id != RawFrames.encoder_id or feature_dim % 3:
            raise ValueError(
                "Expected `data.encoder` to be value_models.vision_modules.RawFrames, got encoder "
                f"{encoder_id!r}: the backbone sees frames itself."
            )
        from transformers import AutoModel

        self.save_hyperparameters(ignore=["prepare"])
        # transformers loads for inference.
        network: nn.Module = AutoModel.from_pretrained(backbone).train()
        self.model = VisionLanguageProgressModel(
            network,
            ChatInputs(backbone) if prepare is None else prepare,
            camera=camera,
            num_bins=num_bins,
        )
        if lora_rank:
            self.model.add_lora(rank=lora_rank, targets=lora_targets)
        self.feature_key = f"observation.features.{camera}"
        self.val_metrics: Any = nn.ModuleDict(
            {
                "order_accuracy": OrderAccuracy(),
                "rank_correlation": RankCorrelation(),
                "mean_absolute_error": ProgressError(),
            }
        )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another encoder or architecture."""
        refuse_other_checkpoint(self, checkpoint)

    def on_train_batch_start(self, batch: ProgressBatch, batch_idx: int) -> None:
        """Seed by seed, step and rank, so that a resumed run draws the same numbers."""
        step_seed = self.hparams["seed"] * 1_000_003 + self.global_step
        torch.manual_seed(step_seed * 1009 + self.global_rank)

    def training_step(self, batch: ProgressBatch, batch_idx: int) -> Float[Tensor, ""]:
        """Loss of one batch of labelled frames."""
        loss = self.model.loss(
            self._with_frames(batch),
            sigma_bins=self.hparams["sigma_bins"],
            count=global_count(batch["progress"].isfinite()),
        )
        num = len(batch["progress"])
        self.log("train/loss", loss, prog_bar=True, on_step=False, on_epoch=True, batch_size=num)
        return loss

    def validation_step(self, batch: ProgressBatch, batch_idx: int) -> None:
        """Update the metrics with whole episodes."""
        self._evaluate(batch, "val")

    def test_step(self, batch: ProgressBatch, batch_idx: int) -> None:
        """Update the metrics with whole episodes."""
        self._evaluate(batch, "test")

    def predict_step(self, batch: ProgressBatch, batch_idx: int) -> dict[str, Tensor]:
        """Progress ``(b, t)`` and ``episode_index`` ``(b,)`` of whole episodes."""
        progress = self.model.compute_progress(self._with_frames(batch))
        return {"episode_index": batch["episode_index"], "progress": progress}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW on what is trained."""
        return torch.optim.AdamW(
            (p for p in self.parameters() if p.requires_grad),
            lr=self.hparams["lr"],
            weight_decay=self.hparams["weight_decay"],
        )

    def _evaluate(self, batch: ProgressBatch, stage: str) -> None:
        predicted = self.model.compute_progress(self._with_frames(batch)).cpu()
        for progress, target in zip(predicted, batch["progress"].cpu(), strict=True):
            for metric in self.val_metrics.values():
                metric.update(progress.to(metric.device), target.to(metric.device))
        named: Any = {f"{stage}/{name}": metric for name, metric in self.val_metrics.items()}
        self.log_dict(named, on_step=False, on_epoch=True, prog_bar=True, batch_size=1)

    def _with_frames(self, batch: ProgressBatch) -> dict[str, Any]:
        """Turn the rows that `RawFrames` made back into frames."""
        rows = batch[self.feature_key]
        frames = rearrange(rows, "b t h (w c) -> b t h w c", c=3).to(torch.uint8)
        return {**batch, f"observation.images.{self.model.camera}": frames}
