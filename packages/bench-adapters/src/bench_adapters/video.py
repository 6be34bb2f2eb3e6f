"""H.264 video files that browsers play and robot-learning tools read frame by frame."""

import contextlib
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

__all__ = ["VideoWriter", "write_video"]

# A key frame every second frame and no B-frames: any frame is one or two decodes away. The
# macroblock tree looks further ahead than that, and its result differs from run to run.
_ENCODER_OPTIONS = {"g": "2", "bf": "0", "x264-params": "mbtree=0"}


class VideoWriter:
    """Encodes frames into a temporary file that `finish` gives its final name.

    Args:
        path: The ``.mp4`` to write; an existing file is replaced by `finish`.
        fps: Frames per second.
        height: Frame height in pixels, even (H.264 halves the colour resolution).
        width: Frame width in pixels, even.
        crf: Quality, 0 (lossless) to 51; 18 looks lossless at robot-camera sizes.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(self, path: Path, *, fps: int, height: int, width: int, crf: int = 18) -> None:
        if fps < 1:
            raise ValueError(f"Expected `fps` of at least 1, got {fps}.")
        if height < 2 or width < 2 or height % 2 or width % 2:
            raise ValueError(f"Expected even frame height and width, got {height} x {width}.")
        if not 0 <= crf <= 51:
            raise ValueError(f"Expected `crf` from 0 to 51, got {crf}.")
        self.path = Path(path)
        self.num_frames = 0
        self._fps = fps
        self._shape = (height, width, 3)
        self._temporary = self.path.with_name(f".{self.path.name}.part")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # faststart puts the index first, so that a browser starts before it has the whole file
        self._container: Any = av.open(
            str(self._temporary), "w", format="mp4", options={"movflags": "faststart"}
        )
        self._stream = self._container.add_stream(
            "libx264", rate=fps, options={**_ENCODER_OPTIONS, "crf": str(crf)}
        )
        self._stream.width, self._stream.height = width, height
        self._stream.pix_fmt = "yuv420p"

    def write(self, frames: NDArray[np.uint8]) -> None:
        """Append ``frames`` ``(t, h, w, 3)``, RGB.

        Raises:
            ValueError: If shape or dtype are not those announced.
        """
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1:] != self._shape:
            raise ValueError(
                f"Expected uint8 frames of shape (t, {', '.join(map(str, self._shape))}) for "
                f"{self.path.name}, got {frames.dtype} {frames.shape}."
            )
        for array in frames:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(array), format="rgb24")
            frame = frame.reformat(format="yuv420p")
            frame.pts, frame.time_base = self.num_frames, Fraction(1, self._fps)
            for packet in self._stream.encode(frame):
                self._container.mux(packet)
            self.num_frames += 1

    def finish(self) -> None:
        """Complete the file and give it its name."""
        for packet in self._stream.encode():
            self._container.mux(packet)
        self._container.close()
        self._temporary.replace(self.path)

    def discard(self) -> None:
        """Drop what was written."""
        with contextlib.suppress(Exception):  # closing a container without frames may complain
            self._container.close()
        self._temporary.unlink(missing_ok=True)


def write_video(path: Path | str, frames: NDArray[np.uint8], fps: int, *, crf: int = 18) -> None:
    """Write an H.264 ``.mp4``; nothing unfinished ever has the final name.

    Args:
        path: File to write.
        frames: ``(t, h, w, 3)`` RGB with at least one frame; odd sizes grow by one pixel.
        fps: Frames per second.
        crf: Quality, 0 (lossless) to 51.

    Raises:
        ValueError: If ``frames`` is not uint8 ``(t, h, w, 3)`` or empty.
    """
    frames = np.asarray(frames)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not frames.size:
        raise ValueError(
            f"Expected `frames` as uint8 (t, h, w, 3) with t ≥ 1, got {frames.dtype} "
            f"{frames.shape}."
        )
    _, height, width, _ = frames.shape
    frames = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    _, height, width, _ = frames.shape
    writer = VideoWriter(Path(path), fps=fps, height=height, width=width, crf=crf)
    try:
        writer.write(frames)
        writer.finish()
    except BaseException:
        writer.discard()
        raise
