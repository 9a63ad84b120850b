"""The end of every step: unscale, clip, and look whether all is finite. Shapes: K groups."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fairclip._arrays import Array
from fairclip.clipper._scaling import is_unscaled
from fairclip.clipping import ClipRecord, Mode, Norm
from fairclip.gradients import GroupGradients, norms_of
from fairclip.trace import RawStep, StepRecord

_ALL_FINITE = torch.tensor(-1)
_REMEDY = "Lower the learning rate or the loss scale, or pass `on_nonfinite='keep'`."


class Ending:
    """What happens to a gradient after its groups are capped.

    Args:
        parameters: The trainable ones, with their names.
        clip: A mode, None for none.
        on_nonfinite: As of `FairClipper`.

    Attributes:
        state: Of the clip.
    """

    def __init__(
        self,
        parameters: Sequence[tuple[str, nn.Parameter]],
        clip: Mode | None,
        on_nonfinite: Literal["keep", "raise"],
    ) -> None:
        if on_nonfinite not in ("keep", "raise"):
            raise ValueError(f"`on_nonfinite` must be 'keep' or 'raise', got {on_nonfinite!r}.")
        if clip is not None and not isinstance(clip, Mode):
            raise TypeError(
                f"`clip` must be a clipping mode such as Norm(max_norm=1.0), got {clip!r}; what "
                "limits the optimizer works by `attach(optimizer)`."
            )
        self.clip = clip
        self.state = None if clip is None else clip.init(parameters)
        self.raises = on_nonfinite == "raise"
        self._parameters = parameters

    def with_clip(self, clip: Mode | None) -> "Ending":
        """Return one that differs in the clip."""
        return Ending(self._parameters, clip, "raise" if self.raises else "keep")

    @property
    def looks_at_gradient(self) -> bool:
        """Whether it does more than unscale: to look costs more than all the rest of `weigh`."""
        return self.clip is not None or self.raises

    def unscale(
        self, scaler: torch.amp.GradScaler | None, optimizers: Sequence[Optimizer]
    ) -> Tensor | None:
        """Unscale ``.grad``; return what it was multiplied by, None without a scaler.

        Raises:
            ValueError: If the optimizers do not hold all parameters.
        """
        if scaler is None:
            return None
        self._check_covers(optimizers)
        # Asked on the device: `get_scale` would wait for it.
        one = torch.ones((), device=self._parameters[0][1].device)
        scale: Tensor = 1 / scaler.scale(one)
        for optimizer in optimizers:
            if not is_unscaled(scaler, optimizer):
                scaler.unscale_(optimizer)
        return scale

    @contextmanager
    def scaled_again(self, scaler: torch.amp.GradScaler) -> Iterator[None]:
        """Undo an unscaling inside, for what was measured before it."""
        grads = [p.grad.data for _, p in self._parameters if p.grad is not None]
        scale = scaler.scale(torch.ones((), device=self._parameters[0][1].device))
        for grad in grads:
            grad.mul_(scale)
        yield
        for grad in grads:
            grad.div_(scale)

    def clip_(
        self, raw: RawStep, layers: tuple[str, ...] | None = None, *, preserve_norm: bool = False
    ) -> StepRecord:
        """Clip ``.grad``, and complete the record of the step.

        Raises:
            RuntimeError: If the gradient is not finite and that is to raise.
        """
        clip = None if self.clip is None else self.clip(self._parameters, self.state)
        first_nonfinite, names = self._first_nonfinite(raw.gramian, clip)
        if self.raises and (place := int(first_nonfinite)) >= 0:
            raise RuntimeError(
                f"The gradient is not finite in parameter '{names[place]}'. {_REMEDY}"
            )
        norm = None if clip is None else self._norm()
        raw = replace(raw, norm_clipped=norm, first_nonfinite=first_nonfinite)
        return StepRecord(raw, clip, layers, preserve_norm, names)

    def _first_nonfinite(
        self, gramian: Array, clip: ClipRecord | None
    ) -> tuple[Tensor, tuple[str, ...]]:
        """Return where the gradient is not finite: a capped gradient is so where its parts are."""
        if clip is None or clip.first_nonfinite is None:
            if isinstance(gramian, np.ndarray) and np.isfinite(gramian).all():
                return _ALL_FINITE, ()
            clip = Norm(math.inf)(self._parameters)
        assert clip.first_nonfinite is not None
        return clip.first_nonfinite, clip.parameters

    def _check_covers(self, optimizers: Sequence[Optimizer]) -> None:
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        covered = {id(p) for group in groups for p in group["params"]}
        for name, parameter in self._parameters:
            if parameter.grad is not None and id(parameter) not in covered:
                raise ValueError(
                    f"`optimizer` does not hold parameter '{name}', so the scaler would leave its "
                    "gradient scaled. Pass all optimizers of the model, as a list."
                )

    def _norm(self) -> Tensor:
        grads = [p.grad for _, p in self._parameters if p.grad is not None]
        total: Tensor = torch.nn.utils.get_total_norm(grads)
        return total


def raise_if_nonfinite(gramian: Array, gradients: GroupGradients, names: Sequence[str]) -> None:
    """Raise where a part of the gradient (L, K + 1, K + 1) is not finite; waits for the device."""
    finite = torch.as_tensor(norms_of(gramian)).isfinite()  # (L, K + 1)
    parts = [part for part, is_finite in enumerate(finite.all(0).tolist()) if not is_finite]
    if not parts:
        return
    # What is got by subtraction is not finite either when a held part is not.
    part = next((part for part in parts if part != gradients.rest), parts[0])
    layer = list(gradients.layers or ())[finite[:, part].tolist().index(False)]
    whose = f"group '{names[part]}'" if part < len(names) else "unknown rows"
    raise RuntimeError(f"The gradient of {whose} is not finite in layer '{layer}'. {_REMEDY}")
