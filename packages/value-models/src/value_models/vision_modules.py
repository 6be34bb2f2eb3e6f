"""Lightning shell of the vision-language value model, and what feeds it from the command line."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from value_models.distributed import global_count
from value_models.types import ProgressBatch
from value_models.value_module import ValueModule
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


class VisionLanguageModule(ValueModule):
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

    def loss(self, batch: ProgressBatch) -> Float[Tensor, ""]:
        """Cross-entropy of labelled frames."""
        loss: Tensor = self.model.loss(
            self._with_frames(batch),
            sigma_bins=self.hparams["sigma_bins"],
            count=global_count(batch["progress"].isfinite()),
        )
        return loss

    def predict_progress(self, batch: ProgressBatch) -> Float[Tensor, "b t"]:
        """Progress of every frame of whole episodes."""
        return super().predict_progress(self._with_frames(batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW at a constant learning rate."""
        return self.optimizer()

    def _with_frames(self, batch: ProgressBatch) -> dict[str, Any]:
        """Turn the rows that `RawFrames` made back into frames."""
        rows = batch[self.feature_key]
        frames = rearrange(rows, "b t h (w c) -> b t h w c", c=3).to(torch.uint8)
        return {**batch, f"observation.images.{self.model.camera}": frames}
