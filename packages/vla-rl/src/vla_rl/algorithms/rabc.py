"""Reward-aware behaviour cloning: samples count by the progress that their actions made.

Source: SARM (arXiv 2509.25358), eqs. 8 and 9.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from vla_rl.algorithms.behaviour_cloning import BehaviourCloning
from vla_rl.algorithms.settings import RABCConfig
from vla_rl.functional.sample_weights import rabc_weights
from vla_rl.observations import require, to_tensor
from vla_rl.types import ImitationBatch


class RABC(BehaviourCloning):
    """`BehaviourCloning` of samples that carry a ``progress_gain``.

    ``weights`` ``(n,)`` holds the weight of every sample. A batch of which none counts changes
    nothing.
    """

    name: ClassVar[str] = "rabc"
    _compared: ClassVar[tuple[str, ...]] = (*BehaviourCloning._compared, "progress_gain")
    config: RABCConfig

    def __init__(
        self,
        policy: nn.Module,
        samples: ImitationBatch,
        config: RABCConfig | None = None,
        *,
        out_dir: str | Path,
        fabric: Fabric | None = None,
        progress_bar: bool = True,
        data: Mapping[str, Any] | None = None,
    ) -> None:
        """Weigh the samples, by statistics over all of them, and prepare the run.

        Args:
            policy: See `BehaviourCloning` for this and all that is not described here.
            samples: With ``progress_gain`` ``(n,)``, as `vla_rl.data.make_chunks` makes them of
                episodes with ``progress``; NaN where it is not known counts in full.
            config: Defaults when None.
            out_dir: Of the run.
            fabric: Launched.
            progress_bar: Show one.
            data: What the samples were made of.

        Raises:
            ValueError: If the gains are missing or no sample has any weight.
        """
        config = config or RABCConfig()
        gain = to_tensor(require(samples, "progress_gain")).to(torch.float64)
        known = gain[~gain.isnan()]
        self.weights = torch.ones(len(gain))
        if len(known):
            mean, std = float(known.mean()), float(known.std(correction=0))
            self.weights = rabc_weights(gain, mean=mean, std=std, kappa=config.kappa).float()
        if not bool((self.weights > 0.0).any()):
            raise ValueError(
                f"Expected samples whose actions make progress, got none of {len(gain)}: the "
                f"largest `progress_gain` is {float(known.max()):.4g}."
            )
        super().__init__(
            policy,
            {**samples, "weight": self.weights},
            config,
            out_dir=out_dir,
            fabric=fabric,
            progress_bar=progress_bar,
            data=data,
        )

    def _weight(self, batch: ImitationBatch, count: Tensor) -> Tensor:
        return to_tensor(batch["weight"], count.device)
