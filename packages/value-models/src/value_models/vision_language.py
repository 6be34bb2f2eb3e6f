"""The Feat2Go value model on a vision-language backbone of transformers (Qwen3-VL class)."""

import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from jaxtyping import Float, UInt8
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

from value_models.base import as_tensor, inference, read_instructions
from value_models.functional.bins import expectation
from value_models.functional.losses import distributional_cross_entropy
from value_models.networks import ProgressHead
from value_models.types import Observation, ProgressBatch, ProgressOutput

PrepareInputs = Callable[[UInt8[Tensor, "b h w 3"], Sequence[str]], Mapping[str, Tensor]]
"""Frames and instructions to what the backbone's ``forward`` takes, with an
``attention_mask`` (b, n) of its tokens: its processor and prompt."""

LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")
HEAD_NAME = "value_head.safetensors"
BACKBONE_FOLDER = "backbone"


class VisionLanguageProgressModel(nn.Module):
    """Frame and instruction to a distribution over progress, by a vision-language model.

    The value head reads the last hidden state of the last token: LayerNorm, Linear, GELU, Linear.
    One frame in, one value out; the model keeps no history.

    Args:
        backbone: A transformers model without language head that returns ``last_hidden_state``,
            such as ``Qwen3VLModel``.
        prepare: Makes the backbone's inputs.
        camera: Camera that the model looks through.
        num_bins: Bins on [0, 1].
        frames_per_call: Frames that the backbone reads at once.

    Source: Feat2Go, arXiv 2605.30795 (Qwen3-VL-4B-Instruct, 201 bins); the order of the head's
    layers is ours.
    """

    model_type: ClassVar[str] = "vision_language_progress"
    config_name: ClassVar[str] = "value_config.json"

    def __init__(
        self,
        backbone: nn.Module,
        prepare: PrepareInputs,
        *,
        camera: str,
        num_bins: int = 201,
        frames_per_call: int = 16,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.prepare = prepare
        self.camera = camera
        self.num_bins = num_bins
        self.frames_per_call = frames_per_call
        config: Any = backbone.config
        self.head = ProgressHead(config.get_text_config().hidden_size, num_bins)

    def forward(self, frames: UInt8[Tensor, "b h w 3"], task: Sequence[str]) -> ProgressOutput:
        """Predict from one frame and one instruction per row; the results have t = 1."""
        weight: Any = self.head[1].weight
        device = weight.device
        inputs = {key: value.to(device) for key, value in self.prepare(frames, task).items()}
        hidden = self.backbone(**inputs).last_hidden_state
        # The last real token, on whichever side the padding is.
        place = torch.arange(hidden.shape[1], device=device)
        last = (place * inputs["attention_mask"]).argmax(1)
        state = hidden[torch.arange(len(hidden), device=device), last]
        # The head keeps its own precision, float32 unless it was cast.
        logits = self.head(state.to(weight.dtype)).unsqueeze(1)
        return ProgressOutput(logits, expectation(logits))

    def loss(
        self,
        batch: ProgressBatch,
        *,
        sigma_bins: float | None = 0.75,
        count: Tensor | None = None,
    ) -> Float[Tensor, ""]:
        """Cross-entropy of a batch of frames (b, 1, h, w, 3) with ``progress`` (b, 1).

        Args:
            batch: Frames, instructions and labels.
            sigma_bins: Width of the Gaussian targets in bins; None for two-hot targets.
            count: Number to divide by in place of the known labels; see `masked_mean`.
        """
        frames = self._frames(batch, ndim=5)[:, 0]
        logits = self(frames, read_instructions(batch, len(frames))).logits
        target = batch["progress"].to(logits.device)
        return distributional_cross_entropy(logits, target, sigma_bins=sigma_bins, count=count)

    def add_lora(
        self, *, rank: int = 16, alpha: int = 32, targets: Sequence[str] = LORA_TARGETS
    ) -> Self:
        """Freeze the backbone and learn low-rank additions to some of its projections.

        Needs the extra ``value-models[lora]``.

        Args:
            rank: Of the additions.
            alpha: Their scale is alpha / rank.
            targets: Names of the layers that they are added to.
        """
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets))
        self.backbone = get_peft_model(self.backbone, config)
        return self

    def compute_progress(self, batch: ProgressBatch) -> Float[Tensor, "b t"]:
        """Progress in [0, 1] of every frame of ``observation.images.<camera>`` (b, t, h, w, 3)."""
        frames = self._frames(batch, ndim=5)
        b, t = frames.shape[:2]
        task = [text for text in read_instructions(batch, b) for _ in range(t)]
        flat = frames.flatten(0, 1)
        with inference(self):
            progress = [
                self(flat[i : i + self.frames_per_call], task[i : i + self.frames_per_call])
                .progress[:, 0]
                for i in range(0, len(flat), self.frames_per_call)
            ]  # fmt: skip
        return torch.cat(progress).view(b, t)

    def compute_reward(self, batch: ProgressBatch) -> Float[Tensor, " b"]:
        """Progress of the last frame of each window."""
        return self.compute_progress(batch)[:, -1]

    def reset(self, env_mask: Any = None) -> None:
        """Do nothing: a single-frame model has no history."""

    def progress(self, obs: Observation) -> Float[Tensor, " n"]:
        """Progress in [0, 1] of the newest frame of each environment."""
        key = f"observation.images.{self.camera}"
        frames = self._frames(obs, ndim=4).unsqueeze(1)
        return self.compute_progress({key: frames, "task": obs["task"]})[:, 0]

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Save backbone (or its LoRA weights), head and settings to a new folder.

        Raises:
            FileExistsError: If the folder exists.
        """
        folder = Path(folder)
        if folder.exists():
            raise FileExistsError(f"{str(folder)!r} exists; choose another folder or delete it.")
        folder.parent.mkdir(parents=True, exist_ok=True)
        settings = {"model_type": self.model_type, "camera": self.camera, "num_bins": self.num_bins}
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as fresh:
            made = Path(fresh, "made")
            backbone: Any = self.backbone
            backbone.save_pretrained(made / BACKBONE_FOLDER)
            save_model(self.head, str(made / HEAD_NAME))
            (made / self.config_name).write_text(json.dumps(settings, indent=2) + "\n")
            made.rename(folder)

    @classmethod
    def from_pretrained(
        cls, folder: str | os.PathLike[str], backbone: nn.Module, prepare: PrepareInputs
    ) -> Self:
        """Load head and settings onto a backbone that the caller has loaded, in eval mode.

        Args:
            folder: As `save_pretrained` wrote it.
            backbone: ``Qwen3VLModel.from_pretrained(folder / "backbone")``; with LoRA weights,
                ``peft.PeftModel.from_pretrained(base, folder / "backbone")``.
            prepare: Makes its inputs.

        Raises:
            ValueError: If the folder holds another model.
        """
        folder = Path(folder)
        path = folder / cls.config_name
        settings = json.loads(path.read_text()) if path.exists() else {}
        if settings.pop("model_type", None) != cls.model_type:
            raise ValueError(f"{str(folder)!r} holds no {cls.__name__}.")
        model = cls(backbone, prepare, **settings)
        load_model(model.head, str(folder / HEAD_NAME))
        return model.eval()

    def _frames(self, batch: ProgressBatch, *, ndim: int) -> Tensor:
        key = f"observation.images.{self.camera}"
        if key not in batch:
            raise KeyError(f"Expected {key!r}, got the keys {sorted(batch)}.")
        frames = as_tensor(batch[key], key, ndim)
        if frames.dtype != torch.uint8:
            raise TypeError(f"Expected uint8 RGB frames in {key!r}, got {frames.dtype}.")
        return frames
