"""Cost of labelling over a bare forward pass of the encoder on the same frames, one machine.

Both sides alternate, so that a slow minute of the machine meets both; on a CPU the time is that of
the process, which others on the machine do not add to. The bare pass gets frames of
the encoder's own size; labelling resizes where they differ, encodes, measures and segments.
``--vit-large`` takes a V-JEPA 2 of the sizes of ViT-L with random weights: the cost is the same.
"""

import argparse
import time

import numpy as np
import torch

from progress_labels.encoders import HFEncoder, VJEPA2Encoder, load_encoder
from progress_labels.episode_labels import label_episode
from progress_labels.preprocess import Preprocess
from progress_labels.testing import make_frames


def main() -> None:
    """Print the median ratio over repetitions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoder", default="offline")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--frames-per-stage", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--vit-large", type=int, default=None, metavar="PIXELS")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.vit_large is None:
        encoder: HFEncoder = load_encoder(arguments.encoder, device=arguments.device)
    else:
        encoder = _vit_large(arguments.vit_large).to(arguments.device)
    size = encoder.preprocess.image_size
    frames = make_frames(frames_per_stage=arguments.frames_per_stage, size=size)[None]
    pixels = [
        encoder.preprocess(part.to(arguments.device))
        for part in torch.split(frames[0], encoder.batch_frames)
    ]
    clock = time.process_time if arguments.device == "cpu" else time.perf_counter
    ratios, bare_s = [], []
    for _ in range(arguments.repeats + 1):
        start = clock()
        with torch.no_grad():
            for part in pixels:
                encoder._patches(part)
        _wait(arguments.device)
        middle = clock()
        label_episode(encoder.encode(frames)[0])
        _wait(arguments.device)
        bare_s.append(middle - start)
        ratios.append((clock() - middle) / bare_s[-1])
    share = 100 * (np.median(ratios[1:]) - 1)
    print(
        f"{encoder.encoder_id}, {frames.shape[1]} frames of {size} px: bare pass "
        f"{1e3 * np.median(bare_s[1:]):.0f} ms, labelling {share:+.1f} % "
        f"(n = {arguments.repeats}, {arguments.threads} threads, quartiles "
        f"{100 * (np.quantile(ratios[1:], 0.25) - 1):+.1f} … "
        f"{100 * (np.quantile(ratios[1:], 0.75) - 1):+.1f} %)"
    )


def _vit_large(size: int) -> HFEncoder:
    from transformers import VJEPA2Config, VJEPA2Model

    config = VJEPA2Config(
        crop_size=size,
        hidden_size=1024,
        num_attention_heads=16,
        num_hidden_layers=24,
        pred_num_hidden_layers=1,
    )
    torch.manual_seed(0)
    preprocess = Preprocess(image_size=size, mean=(0.5,) * 3, std=(0.5,) * 3, mode="bilinear")
    return VJEPA2Encoder(VJEPA2Model(config), preprocess=preprocess, encoder_id="random ViT-L")


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
