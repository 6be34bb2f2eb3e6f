"""Peak memory of `progress-labels label` on a long dataset, as the system counts it.

The dataset is made in a process of its own, labelled by the command line in another one; the figure
is the latter's largest resident set. Arguments after ``--`` go to ``label``. ``--pixels`` puts
pixels in features of the shipped encoder's shape in place of the network, and asks for common
stages and references too: the same memory but for the network's own, in a small part of the time.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_MAKE = """
import sys
from pathlib import Path
from progress_labels.testing import make_dataset
make_dataset(Path(sys.argv[1]), num_episodes=int(sys.argv[2]), frames_per_stage=32)
"""
_LABEL = "from progress_labels.cli import main; main()"
_PIXELS = """
import sys
import torch
from torch.nn import functional as F
from progress_labels.labels import LabelConfig, label_dataset

class Pixels:
    encoder_id = "pixels"

    def encode(self, frames):
        coarse = F.avg_pool2d(frames.flatten(0, 1).permute(0, 3, 1, 2).float() / 255, 2)
        patches = F.unfold(coarse, 4, stride=4).mT  # 64 patches of 48 numbers
        return F.pad(patches, (0, 80)).reshape(*frames.shape[:2], 64, 128)

label_dataset(sys.argv[2], Pixels(), config=LabelConfig(common_stages=True, failures="reference"))
"""
_EPISODE = 96


def main() -> None:
    """Print the peak and what was labelled."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, default=None, help="where to write; a temporary one")
    parser.add_argument("--pixels", action="store_true")
    parser.add_argument("label", nargs="*", help="arguments of `progress-labels label`")
    arguments = parser.parse_args()
    episodes = -(-arguments.frames // _EPISODE)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        root = Path(folder) / "set"
        subprocess.run([sys.executable, "-c", _MAKE, str(root), str(episodes)], check=True)
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        start = time.perf_counter()
        program = _PIXELS if arguments.pixels else _LABEL
        command = [sys.executable, "-c", program, "label", str(root), *arguments.label]
        process = subprocess.Popen(command)
        _, status, usage = os.wait4(process.pid, 0)  # its own use, not that of all children
        seconds = time.perf_counter() - start
    if status:
        sys.exit(f"labelling ended with status {status}")
    print(
        f"{episodes * _EPISODE} frames in {episodes} episodes: labelling took {seconds:.0f} s and "
        f"at most {usage.ru_maxrss / 1024:.0f} MiB (making them: {before / 1024:.0f} MiB)"
    )


if __name__ == "__main__":
    main()
