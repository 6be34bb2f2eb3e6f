"""Saving and loading of model folders: config.json + model.safetensors."""

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

from huggingface_hub import PyTorchModelHubMixin, hf_hub_download
from safetensors import SafetensorError
from safetensors.torch import load_model
from torch import nn

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"


class PretrainedModule(nn.Module, PyTorchModelHubMixin):
    """An ``nn.Module`` with keyword-only scalar arguments that saves to and loads from a folder.

    ``config.json`` holds the arguments and the ``model_type`` of the class; loading a folder of
    another class, with unknown or missing arguments or with other weights is one clear error.
    """

    model_type: ClassVar[str]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> Self:
        """Load a model, in eval mode, from a folder or a Hugging Face Hub repository.

        Args:
            pretrained_model_name_or_path: Folder, or ``owner/name`` on the Hub.
            kwargs: ``revision``, ``token``, ``cache_dir``, ``force_download``,
                ``local_files_only``, ``map_location``.

        Raises:
            FileNotFoundError: If a path is not a folder.
            ValueError: If the folder is incomplete or holds another model.
        """
        name = pretrained_model_name_or_path
        path = Path(name)
        if (isinstance(name, Path) or path.is_absolute() or path.exists()) and not path.is_dir():
            raise FileNotFoundError(f"No model folder at {str(name)!r}.")
        try:
            return super().from_pretrained(name, **kwargs)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{CONFIG_NAME} of {str(name)!r} is not valid JSON: {error}."
            ) from error

    def _save_pretrained(self, save_directory: Path) -> None:
        super()._save_pretrained(save_directory)
        arguments = self._hub_mixin_config
        assert isinstance(arguments, dict)  # the mixin's record of what __init__ was given
        config = {"model_type": self.model_type, **arguments}
        # Sorted here only: the order within an argument may mean something.
        text = json.dumps(dict(sorted(config.items())), indent=2)
        (save_directory / CONFIG_NAME).write_text(text + "\n")

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        map_location: str = "cpu",
        strict: bool = True,
        config: dict[str, Any] | None = None,
        **model_kwargs: Any,
    ) -> Self:
        cls._check_config(model_id, config)
        if os.path.isdir(model_id):
            weights = os.path.join(model_id, WEIGHTS_NAME)
        else:
            weights = hf_hub_download(
                model_id,
                WEIGHTS_NAME,
                revision=revision,
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
                token=token,
            )
        model = cls(**model_kwargs)
        try:
            load_model(model, weights, strict=strict, device=map_location)
        except (OSError, RuntimeError, SafetensorError) as error:
            raise ValueError(
                f"Cannot load {weights!r} into {cls.__name__}: {error}. The file is missing, "
                "incomplete or of another architecture; save the model again."
            ) from error
        return model.to(map_location).eval()

    @classmethod
    def _check_config(cls, model_id: str, config: dict[str, Any] | None) -> None:
        if config is None:
            raise ValueError(f"No {CONFIG_NAME} in {model_id!r}: not a saved {cls.__name__}.")
        found = config.get("model_type")
        if found != cls.model_type:
            raise ValueError(
                f"{model_id!r} holds a model of type {found!r}, but {cls.__name__} loads "
                f"{cls.model_type!r}; load it with the class that saved it."
            )
        known = set(cls._hub_mixin_init_parameters) - {"self"}
        saved = set(config) - {"model_type"}
        if saved != known:
            raise ValueError(
                f"{CONFIG_NAME} of {model_id!r} has unknown arguments {sorted(saved - known)} and "
                f"lacks {sorted(known - saved)}; it was saved by another version of "
                f"{cls.__name__}."
            )


@runtime_checkable
class Exportable(Protocol):
    """A model that saves itself to a folder.

    A ``model_type`` that it has and writes to the JSON file ``config_name`` (``config.json`` if it
    names none) tells the folders that hold such a model.
    """

    def save_pretrained(self, folder: Path, /) -> Any:
        """Save to a folder that does not exist."""


def check_replaceable(model: Exportable, folder: str | os.PathLike[str]) -> None:
    """Make sure that saving a model to ``folder`` deletes nothing but another of its kind.

    Raises:
        FileExistsError: Unless ``folder`` is missing, empty or holds a model of the same type.
    """
    folder = Path(folder)
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    try:
        config = json.loads((folder / getattr(model, "config_name", CONFIG_NAME)).read_text())
    except (OSError, ValueError):
        config = None
    wanted = getattr(model, "model_type", None)
    found = config.get("model_type") if isinstance(config, dict) else None
    if wanted is None or found != wanted:
        raise FileExistsError(
            f"{str(folder)!r} exists and is not known to be a saved {type(model).__name__}, which "
            "would replace it; choose another folder or delete it."
        )


def save_folder(model: Exportable, folder: str | os.PathLike[str]) -> Path:
    """Save a model so that ``folder`` is complete whenever it exists; an old one is replaced.

    Raises:
        FileExistsError: If ``folder`` holds anything but a model of the same type.
    """
    folder = Path(folder)
    check_replaceable(model, folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        fresh, stale = Path(temporary, "fresh"), Path(temporary, "stale")
        model.save_pretrained(fresh)
        if folder.exists():
            folder.rename(stale)
        fresh.rename(folder)
        shutil.rmtree(stale, ignore_errors=True)
    return folder
