"""Does what was computed for every group add up to the gradient?"""

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from fairclip.exceptions import FairclipWarning
from fairclip.gradients._call import Call, Pattern
from fairclip.gradients._compare import precision
from fairclip.gradients._layout import Shape
from fairclip.gradients._probe import Layouts
from fairclip.gradients._sums import Sums


def tolerance(calls: Sequence[Call]) -> float:
    """Return how much two ways to compute a gradient may differ: the root of the dtype's eps."""
    eps = max(precision(call, call.grads) for call in calls)
    return min(math.sqrt(eps), 2.0**-5)  # bfloat16's root would let a small use pass


def differing(totals: Mapping[str, Tensor], sums: Sums, tolerance: float) -> list[str]:
    """Return the parameters whose sums over all parts do not add up to their total.

    Differences are relative to the largest of the terms; below ``10 * tolerance**2`` (at
    most 1e-3) times the norm of the whole gradient they are rounding.
    """
    floor = min(10 * tolerance**2, 1e-3) * _norm(totals.values())
    found = []
    for name, total in totals.items():
        found_sums = sums.get(name)
        parts = () if found_sums is None else found_sums.unbind()
        difference = _norm([total - sum(parts, torch.zeros_like(total))])
        scale = max(_norm([tensor]) for tensor in (total, *parts))
        # Not >, so that nan counts as a difference unless the gradient itself is not finite.
        if not difference <= max(tolerance * scale, floor) and bool(total.isfinite().all()):
            found.append(name)
    return found


def warn_of_batch_norm(model: nn.Module) -> bool:
    """Warn where batch statistics mix the rows; say whether they do."""
    mixing = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training
    ]
    if mixing:
        warnings.warn(
            f"{_listed(mixing)} normalises by batch statistics in training, which depend on every "
            "row: the groups' contributions add up to the gradient, but are not the gradients of "
            "each group's own loss. `clipper.backward(losses, groups)` gives those.",
            FairclipWarning,
            stacklevel=2,
        )
    return bool(mixing)


def check_first_order(calls: Iterable[Call]) -> None:
    """Raise where a backward pass was differentiated: rows then cause more than a call shows."""
    for call in calls:
        if call.is_differentiated:
            raise RuntimeError(
                "`torch.autograd.grad(..., create_graph=True)` ran inside `watch`, as for a "
                f"gradient penalty: what the rows cause through {call.name} cannot be told apart. "
                "Use `clipper.backward(losses, groups)` with the penalty in each row's loss."
            )


def check_outputs(calls: Iterable[Call]) -> None:
    """Raise where a model's output was modified in place, and autograd put a new node for it."""
    for call in calls:
        if call.is_outermost and call.has_lost_outputs():
            raise RuntimeError(
                f"An output of {call.name} was modified in place (as by `logits += ...`), so its "
                "gradient cannot be seen. Use an operation that is not in place there."
            )


def is_finite(totals: Iterable[Tensor]) -> bool:
    """Say whether there is a gradient to check: where a loss scale overflowed there is none."""
    return all(bool(total.isfinite().all()) for total in totals)


def check_outermost(
    calls: Iterable[Call], layouts: Mapping[Pattern, Layouts], shape: Shape
) -> None:
    """Raise where the outputs of an outermost call hold the rows of the batch otherwise.

    A loss of such outputs has other rows than the layers inside.
    """
    is_by_token = len(shape) == 2
    for call in calls:
        if not call.is_outermost:
            continue
        of_outputs = layouts[call.pattern][len(call.inputs) :]
        for grad, layout in zip(call.grads, of_outputs, strict=True):
            if grad is None or layout is not None:
                continue
            if is_by_token:
                raise RuntimeError(
                    f"The outputs {tuple(grad.shape)} of {call.name} are not those that the same "
                    "tokens give on their own: they are mixed (as by attention, recurrence, "
                    "positions, or a loss inside of the model), and cannot be told apart. Use "
                    "`clipper.backward(losses, groups)` with one loss a token."
                )
            if shape[0] in grad.shape:
                raise RuntimeError(
                    f"The outputs {tuple(grad.shape)} of {call.name} are not those that the same "
                    "rows give on their own: rows are mixed, moved or drawn at random, and cannot "
                    "be told apart. Use `clipper.backward(losses, groups)`."
                )


def warn_of_new_calls(calls: Iterable[Call]) -> None:
    """Warn that a step goes unmeasured."""
    warnings.warn(
        f"{_listed([call.key[0] for call in calls])} was called in a way that no step before had. "
        "This step is left uncapped; such calls are measured from the next one on.",
        FairclipWarning,
        stacklevel=2,
    )


def warn_of_missed_rows(names: Sequence[str]) -> None:
    """Warn that these parameters cost more than others."""
    warnings.warn(
        f"{_listed(names)} is used outside of the forward pass of the module that holds it. Its "
        "group gradients come from running the model again, which costs more time.",
        FairclipWarning,
        stacklevel=2,
    )


def warn_of_penalty(names: Sequence[str]) -> None:
    """Warn that a part of the gradient belongs to no row."""
    warnings.warn(
        f"A part of the gradient of {_listed(names)} comes from no row of the batch, as that of a "
        "penalty on the weights does, or from rows that reach the parameter past the model's "
        "forward pass: outside of `watch`, in a method called directly, or through what a module "
        "keeps as an attribute. It is kept as it is and never capped.",
        FairclipWarning,
        stacklevel=2,
    )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def _norm(tensors: Iterable[Tensor]) -> float:
    squares = [t.detach().double().square().sum() for t in tensors]
    return float(torch.stack([s.cpu() for s in squares]).sum().sqrt())
