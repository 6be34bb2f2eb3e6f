"""What each frame of a recorded dataset holds, and the check that an episode fits."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench_adapters import _lerobot as lerobot

LABEL = "label"
DTYPES = ("float32", "int64", "bool", LABEL)


class Schema:
    """The features of a dataset (arguments as for `DatasetRecorder`).

    Attributes:
        features: As in ``meta/info.json``, without the labels.
        cameras: Height and width by feature name.
        labels: Strings seen so far, by name of each label feature; grows as episodes come.
    """

    def __init__(
        self,
        *,
        fps: int,
        cameras: Mapping[str, tuple[int, int]],
        state_dim: int,
        action_dim: int,
        extra_features: Mapping[str, str],
    ) -> None:
        unknown = {k: v for k, v in extra_features.items() if v not in DTYPES}
        if unknown:
            raise ValueError(f"Expected `extra_features` of types {DTYPES}, got {unknown}.")
        if fps < 1 or state_dim < 1 or action_dim < 1:
            raise ValueError(
                f"Expected positive `fps`, `state_dim` and `action_dim`, got {fps}, {state_dim} "
                f"and {action_dim}."
            )
        odd = {k: size for k, size in cameras.items() if size[0] % 2 or size[1] % 2}
        if odd:
            raise ValueError(f"Expected even frame heights and widths for H.264, got {odd}.")
        self.fps = fps
        self.extra = dict(extra_features)
        self.cameras = {f"observation.images.{name}": size for name, size in cameras.items()}
        self.labels: dict[str, list[str]] = {k: [] for k, v in self.extra.items() if v == LABEL}
        scalars = lerobot.INDEX_FEATURES | lerobot.OUTCOME_FEATURES
        scalars |= {k: "int64" if v == LABEL else v for k, v in self.extra.items()}
        self.features: dict[str, dict[str, Any]] = {
            **{k: lerobot.video_feature(*hw, fps) for k, hw in self.cameras.items()},
            "observation.state": lerobot.vector_feature(state_dim),
            "action": lerobot.vector_feature(action_dim),
            **{k: lerobot.scalar_feature(dtype) for k, dtype in scalars.items()},
        }

    def described(self) -> dict[str, dict[str, Any]]:
        """Return the features with the labels seen so far."""
        return {
            name: feature | ({"labels": self.labels[name]} if name in self.labels else {})
            for name, feature in self.features.items()
        }

    def columns(self, given: Mapping[str, Any], length: int) -> dict[str, NDArray[Any]]:
        """Check the columns of an episode and give them their dtypes.

        Args:
            given: Values of every feature that is neither a camera nor an index.
            length: Steps of the episode.

        Raises:
            ValueError: If a column is missing, unknown, of another length or shape, or not finite.
        """
        expected = set(self.features) - set(self.cameras) - set(lerobot.INDEX_FEATURES)
        if set(given) != expected:
            raise ValueError(
                f"Expected the features {sorted(expected)}, got {sorted(given)}: missing "
                f"{sorted(expected - set(given))}, unknown {sorted(set(given) - expected)}."
            )
        if length < 1:
            raise ValueError("Expected an episode of at least 1 step, got 0.")
        return {name: self._column(name, values, length) for name, values in given.items()}

    def _column(self, name: str, values: Any, length: int) -> NDArray[Any]:
        if name in self.labels:
            values = self._label_indices(name, values)
        feature = self.features[name]
        vector = name in ("observation.state", "action")
        shape = (length, *feature["shape"]) if vector else (length,)
        array = np.asarray(values)
        if array.shape != shape:
            raise ValueError(f"Expected {name!r} of shape {shape}, got {array.shape}.")
        if array.dtype.kind not in "biuf" or not np.isfinite(array).all():
            raise ValueError(f"Expected finite numbers in {name!r}, got {array.dtype}: {array}.")
        cast: NDArray[Any] = array.astype(feature["dtype"])
        if feature["dtype"] in ("bool", "int64") and (cast != array).any():
            raise ValueError(
                f"Expected {feature['dtype']} in {name!r}, got {array.dtype}: {array}."
            )
        return cast

    def _label_indices(self, name: str, values: Sequence[str]) -> NDArray[np.int64]:
        known = self.labels[name]
        for value in values:
            if not isinstance(value, str):
                raise ValueError(f"Expected strings in {name!r}, got {value!r}.")  # noqa: TRY004
            if value not in known:
                known.append(value)
        return np.array([known.index(value) for value in values], np.int64)

    def images(
        self, frames: Mapping[str, NDArray[np.uint8]], length: int
    ) -> dict[str, NDArray[np.uint8]]:
        """Check the frames of an episode and key them by feature; they are copied.

        Raises:
            ValueError: If a camera is missing or unknown, or frames are not uint8 of its size.
        """
        images = {f"observation.images.{name}": array for name, array in frames.items()}
        if set(images) != set(self.cameras):
            raise ValueError(f"Expected `frames` of {sorted(self.cameras)}, got {sorted(images)}.")
        for name, array in images.items():
            shape = (length, *self.cameras[name], 3)
            if array.shape != shape or array.dtype != np.uint8:
                raise ValueError(
                    f"Expected uint8 frames {shape} in {name!r}, got {array.dtype} {array.shape}."
                )
        return {name: np.array(array) for name, array in images.items()}

    def require_equal(self, stored: Mapping[str, Mapping[str, Any]], where: str) -> None:
        """Compare with the features of a dataset on disk.

        Raises:
            ValueError: If they differ; the message names the first difference.
        """
        for name in sorted(set(stored) | set(self.features)):
            theirs = {k: v for k, v in stored.get(name, {}).items() if k != "labels"}
            ours = self.features.get(name, {})
            if theirs != ours:
                raise ValueError(
                    f"feature {name!r} is {theirs or 'missing'} in {where}, but "
                    f"{ours or 'missing'} in this recording; record into another folder"
                )
