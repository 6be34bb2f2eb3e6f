"""The policy that a run must not stray from, and how much straying costs."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn

from vla_rl.functional.policy_losses import adapt_kl_coefficient
from vla_rl.observations import num_rows
from vla_rl.sharding import share_of
from vla_rl.types import Policy


class KLPenalty:
    """KL to the policy that a run started from, with a weight that may adapt.

    Kept are the first values of what is trained, the critic apart: of a policy with adapters that
    is the adapters, and no second copy of the model.

    Args:
        policy: Before the first update.
        coefficient: Weight at first, positive.
        target: KL to hold; None leaves the weight alone.
        whole_weights: Block in which the policy may act; see `vla_rl.sharding.whole_weights`. Only
            a strategy that shares weights out needs one.
    """

    def __init__(
        self,
        policy: nn.Module,
        *,
        coefficient: float,
        target: float | None,
        whole_weights: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self.coefficient, self._target, self._policy = coefficient, target, policy
        self._whole_weights = whole_weights
        self._start = {
            name: parameter.detach().clone()
            for name, parameter in policy.named_parameters()
            if parameter.requires_grad and not name.startswith("value_head.")
        }

    @torch.no_grad()
    def log_prob(self, replay: Mapping[str, Tensor], *, batch_size: int) -> Tensor:
        """Return the reference's log-probabilities ``(d, k, a)`` of past decisions, on the CPU."""
        parts = []
        with self._as_at_the_start():
            for start in range(0, num_rows(replay), batch_size):
                part = {key: value[start : start + batch_size] for key, value in replay.items()}
                parts.append(cast(Policy, self._policy).evaluate(part).log_prob.cpu())
        return torch.cat(parts)

    def adapt(self, kl: float) -> None:
        """Choose the weight of the next update from the KL of this one."""
        if self._target is not None:
            self.coefficient = adapt_kl_coefficient(self.coefficient, kl, target=self._target)

    def state_dict(self) -> dict[str, Any]:
        """Return the weight and the first values."""
        return {"coefficient": self.coefficient, "start": self._start}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        self.coefficient = state["coefficient"]
        for name, kept in self._start.items():
            kept.copy_(share_of(state["start"][name], kept))

    @contextmanager
    def _as_at_the_start(self) -> Iterator[None]:
        self._swap()
        try:
            with self._whole_weights():
                yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        now = dict(self._policy.named_parameters())
        for name, kept in self._start.items():
            # Copied: a strategy may hold on to the memory of the parameters it has shared out.
            present = now[name].detach().clone()
            now[name].copy_(kept)
            kept.copy_(present)
