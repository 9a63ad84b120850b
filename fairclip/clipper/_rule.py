"""What a clipper asks of its cap, of whatever kind. Shapes: K groups, L layers."""

from typing import Any, Protocol

import numpy as np
import torch

from fairclip._arrays import Array
from fairclip.capping import NormCap, TargetCap
from fairclip.clipper._codes import Codes
from fairclip.clipper._predictions import Predicted
from fairclip.gradients import GroupGradients
from fairclip.trace import RawStep


class CapRule(Protocol):
    """A cap with its state, in the steps of a `FairClipper`.

    Attributes:
        scope: "global", one factor a group; "layer", one a layer and group.
        preserve_norm: Whether `cap_` keeps the norm of the total.
    """

    scope: str
    preserve_norm: bool

    @property
    def cap(self) -> NormCap | TargetCap:
        """The bound."""

    @property
    def is_due(self) -> bool:
        """Whether the weighed step that comes next is to be measured."""

    def cap_(self, gradients: GroupGradients, gramian: Array) -> RawStep:
        """Make the total what the cap leaves of it, and record the step.

        Args:
            gradients: The groups' contributions.
            gramian: Of the contributions, (K + 1, K + 1), or (L, K + 1, K + 1) for scope "layer".
        """

    def begin_weighed(self) -> None:
        """Settle the factors of a weighed step; raise where the cap cannot be known beforehand."""

    @property
    def table(self) -> Array:
        """What the losses' gradients are multiplied by in a weighed step, (K + 1,)."""

    def skip(self, counts: np.ndarray[Any, Any], device: torch.device) -> RawStep:
        """Record a weighed step that is not measured.

        Args:
            counts: (K,) rows of each group.
            device: Where the gradients are.
        """

    def measure(
        self,
        weighted: Array,
        seen: Array,
        counts: np.ndarray[Any, Any],
        device: torch.device,
        /,
    ) -> RawStep:
        """Record a measured step, and let its norms decide the factors of the next ones.

        Args:
            weighted: (K + 1, K + 1) dot products between the contributions as they were scaled.
            seen: (K,) rows of each group of which it knows.
            counts: As in `skip`.
            device: As in `skip`.

        Raises:
            TypeError: If no step of this cap is ever due.
        """

    def observe(self, predicted: Predicted, targets: Codes, groups: Codes, /) -> None:
        """Take in how rows were predicted; as `FairClipper.observe`.

        Raises:
            TypeError: If the cap looks at no predictions.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned, saved on any device."""
