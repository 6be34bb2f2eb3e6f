"""Frozen frame encoders: Hugging Face vision models behind one call, ``encode``."""

import hashlib
import json
from abc import abstractmethod
from pathlib import Path
from typing import Any

import torch
from einops import rearrange, repeat
from huggingface_hub import snapshot_download
from jaxtyping import Float, UInt8
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from progress_labels.preprocess import Preprocess

OFFLINE_FOLDER = Path(__file__).parent / "weights" / "offline"
"""The encoder that ships with this package; ``RECIPE.md`` in it says how it was trained."""

_HEADS = ("head.", "vision_model.head.")
_PREPROCESSORS = ("preprocessor_config.json", "video_preprocessor_config.json")
_RESAMPLE = {0: "nearest-exact", 2: "bilinear", 3: "bicubic"}
"""PIL's numbers, which Hugging Face preprocessors use, and torch's names for them."""
_VIT_PREFIX_TOKENS = {"dinov2": 1, "siglip_vision_model": 0, "siglip2_vision_model": 0}


class HFEncoder(nn.Module):
    """A frozen Hugging Face vision model; subclasses say how frames enter and patches leave.

    Attributes:
        preprocess: How frames become pixel values.
        batch_frames: Frames encoded at once.
    """

    def __init__(
        self, model: nn.Module, *, preprocess: Preprocess, encoder_id: str, batch_frames: int = 64
    ) -> None:
        super().__init__()
        if batch_frames < 1:
            raise ValueError(f"Expected `batch_frames` ≥ 1, got {batch_frames}.")
        self.model: Any = model.eval().requires_grad_(requires_grad=False)
        self.preprocess = preprocess
        self.batch_frames = batch_frames
        self._encoder_id = encoder_id

    @property
    def encoder_id(self) -> str:
        """``name@revision``, or ``name@hash`` for a local folder."""
        return self._encoder_id

    @torch.no_grad()
    def encode(self, frames: UInt8[Tensor, "b t h w 3"]) -> Float[Tensor, "b t p d"]:
        """Encode each frame on its own.

        Args:
            frames: RGB, uint8, on any device.

        Returns:
            Float32 patch features in row-major patch order, on the encoder's device.

        Raises:
            TypeError: If ``frames`` is not a uint8 tensor.
            ValueError: If ``frames`` is not ``(b, t, h, w, 3)`` with b·t ≥ 1.
        """
        if getattr(frames, "dtype", None) != torch.uint8:  # also refuses numpy arrays
            kind = getattr(frames, "dtype", type(frames).__name__)
            raise TypeError(f"Expected `frames` as a uint8 tensor of RGB values, got {kind}.")
        if frames.ndim != 5 or frames.shape[-1] != 3 or frames.numel() == 0:
            raise ValueError(f"Expected `frames` (b, t, h, w, 3), got {tuple(frames.shape)}.")
        device = next(self.model.parameters()).device
        flat = torch.split(frames.flatten(0, 1), self.batch_frames)
        patches = [self._patches(self.preprocess(part.to(device))).float() for part in flat]
        return rearrange(torch.cat(patches), "(b t) p d -> b t p d", b=len(frames))

    def train(self, mode: bool = True) -> "HFEncoder":
        """Stay in evaluation mode: a frozen encoder inside a trained model must not change."""
        del mode
        return super().train(mode=False)

    @abstractmethod
    def _patches(self, pixels: Float[Tensor, "n 3 size size"]) -> Float[Tensor, "n p d"]: ...


class VJEPA2Encoder(HFEncoder):
    """V-JEPA 2: each frame enters as a static clip of one tubelet, so no frame sees another."""

    def _patches(self, pixels: Float[Tensor, "n 3 size size"]) -> Float[Tensor, "n p d"]:
        clip = repeat(pixels, "n c h w -> n f c h w", f=self.model.config.tubelet_size)
        output: Tensor = self.model(clip, skip_predictor=True).last_hidden_state
        return output


class ViTEncoder(HFEncoder):
    """DINOv2, DINOv2 with registers, DINOv3, SigLIP and SigLIP 2: patch tokens of the last layer.

    Class and register tokens are dropped.
    """

    def _patches(self, pixels: Float[Tensor, "n 3 size size"]) -> Float[Tensor, "n p d"]:
        config = self.model.config
        kind = config.model_type
        # DINOv2 with registers and DINOv3: one class token, then the registers.
        known = kind in _VIT_PREFIX_TOKENS
        prefix = _VIT_PREFIX_TOKENS[kind] if known else 1 + config.num_register_tokens
        inputs: dict[str, Tensor] = {"pixel_values": pixels}
        if kind == "siglip2_vision_model":
            inputs = _naflex_inputs(pixels, config.patch_size)
        output: Tensor = self.model(**inputs).last_hidden_state
        return output[:, prefix:]


def load_encoder(
    name: str = "offline",
    *,
    device: str | torch.device = "cpu",
    revision: str | None = None,
    batch_frames: int = 64,
) -> HFEncoder:
    """Load a frozen frame encoder.

    Args:
        name: ``"offline"`` (ships with this package), a folder with ``config.json``,
            ``model.safetensors`` and ``preprocessor_config.json``, or a Hugging Face Hub id such as
            ``"facebook/vjepa2-vitl-fpc64-256"`` or ``"facebook/dinov2-small"``.
        device: Where the model runs.
        revision: Commit, tag or branch on the Hub. For a folder, the hash it must have.
        batch_frames: Frames encoded at once; lower it when memory is short.

    Returns:
        The encoder, in evaluation mode, without gradients, float32.

    Raises:
        ValueError: If nothing is found under ``name``, its files are damaged or incomplete, or the
            model is not of a supported kind.
    """
    folder = OFFLINE_FOLDER if name == "offline" else Path(name).expanduser()
    if folder.is_dir():
        found = _folder_hash(folder)
        if revision is not None and revision != found:
            raise ValueError(f"Expected `revision` {revision} of {name!r}, its files are {found}.")
        encoder_id = f"{folder.resolve().name}@{found}"
    else:
        folder = _download(name, revision)
        encoder_id = f"{name}@{folder.name[:12]}"
    if not (folder / "config.json").is_file():
        raise ValueError(f"No config.json in {folder}: not the folder of an encoder.")
    config = AutoConfig.from_pretrained(folder)
    kind = config.model_type
    if kind in ("siglip", "siglip2"):  # the image half of an image-text model
        config = config.vision_config
        kind = config.model_type
    preprocess = _read_preprocess(folder, config)
    if kind == "vjepa2":
        config.crop_size = preprocess.image_size  # RoPE positions are computed from crop_size
        encoder_class: type[HFEncoder] = VJEPA2Encoder
    elif kind in _VIT_PREFIX_TOKENS or hasattr(config, "num_register_tokens"):
        encoder_class = ViTEncoder
    else:
        raise ValueError(
            f"Cannot encode frames with {name!r}, a {kind!r} model. Supported: V-JEPA 2, DINOv2, "
            "DINOv2 with registers, DINOv3 (ViT), SigLIP and SigLIP 2."
        )
    model = _load_model(folder, config)
    return encoder_class(
        model.to(device), preprocess=preprocess, encoder_id=encoder_id, batch_frames=batch_frames
    )


def _load_model(folder: Path, config: Any) -> Any:
    """Load weights; missing ones are an error, where Transformers would draw them at random."""
    try:
        model, report = AutoModel.from_pretrained(
            folder, config=config, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"Cannot load the weights in {folder} ({reason}): damaged, or of another model."
        ) from error
    # Patch features need neither V-JEPA's predictor nor SigLIP's pooling head.
    missing = [k for k in report["missing_keys"] if not k.startswith(("predictor.", *_HEADS))]
    if missing:
        raise ValueError(
            f"The weights in {folder} lack {len(missing)} tensors, for example {missing[0]!r}: "
            "incomplete, or of another model."
        )
    return model


def _read_preprocess(folder: Path, config: Any) -> Preprocess:
    path = next((folder / name for name in _PREPROCESSORS if (folder / name).is_file()), None)
    if path is None:
        raise ValueError(f"No preprocessor_config.json in {folder}: cannot prepare frames.")
    values = json.loads(path.read_text())
    native = getattr(config, "crop_size", getattr(config, "image_size", None))
    # NaFlex SigLIP 2 has a patch budget in place of an image size.
    if native is None:
        native = int(config.num_patches**0.5) * config.patch_size
    size = values.get("crop_size") if values.get("do_center_crop") else values.get("size")
    if isinstance(size, dict):
        size = size.get("height", size.get("shortest_edge"))
    return Preprocess(
        image_size=int(size or native),
        mean=tuple(values["image_mean"]),
        std=tuple(values["image_std"]),
        mode=_RESAMPLE.get(int(values.get("resample", 2)), "bilinear"),
    )


def _naflex_inputs(pixels: Tensor, patch: int) -> dict[str, Tensor]:
    """Cut images into SigLIP 2's flexible-resolution input."""
    rows, columns = pixels.shape[-2] // patch, pixels.shape[-1] // patch
    tokens = rearrange(pixels, "n c (h p) (w q) -> n (h w) (p q c)", p=patch, q=patch)
    return {
        "pixel_values": tokens,
        "pixel_attention_mask": tokens.new_ones(tokens.shape[:2], dtype=torch.int64),
        "spatial_shapes": torch.tensor([[rows, columns]] * len(pixels)),
    }


def _folder_hash(folder: Path) -> str:
    """Return 12 hex digits over weights, configuration and preprocessing."""
    digest = hashlib.sha256()
    for path in [*sorted(folder.glob("*.safetensors")), *sorted(folder.glob("*config.json"))]:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _download(name: str, revision: str | None) -> Path:
    try:
        patterns = ["*.json", "*.safetensors"]
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"No folder {name!r}, and no such model could be fetched from the Hugging Face Hub "
            f"({type(error).__name__}). Check the name and the network, or use 'offline'."
        ) from error
