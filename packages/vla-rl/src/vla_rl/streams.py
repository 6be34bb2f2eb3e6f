"""Random streams that depend on nothing but their key, so that a resumed run repeats them."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def stream_seed(*key: int) -> int:
    """Return a seed that differs between keys of the same length, however close they are.

    Of keys of up to four numbers zeros at the end do not count: numpy fills shorter ones up.

    Example:
        >>> stream_seed(0, 1) == stream_seed(0, 1), stream_seed(0, 1) == stream_seed(1, 0)
        (True, False)
        >>> stream_seed(1) == stream_seed(1, 0)
        True
    """
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))


@contextmanager
def random_stream(*key: int, device: torch.device) -> Iterator[torch.Generator]:
    """Yield a generator for ``key``, and seed torch's global one for the time of the block.

    Layers that draw from the global generator (dropout, augmentation) then repeat as well; the
    caller's global state comes back afterwards. No state of any generator needs to be saved.
    """
    seed = stream_seed(*key)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield torch.Generator(device=device).manual_seed(seed)
