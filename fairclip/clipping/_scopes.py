"""Which gradients have one norm. Shapes: n gradients, S scopes."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal, get_args

import torch
from torch import Tensor

from fairclip.clipping._gradients import Gradients, by_kind, first_nonfinite, local, norms, total
from fairclip.clipping._mode import Parameters
from fairclip.clipping._record import ByScope, ClipRecord

Scope = Literal["global", "layer", "tensor"]


def check_scope(scope: str) -> None:
    """Raise where a setting is no scope."""
    if scope not in get_args(Scope):
        raise ValueError(f"`scope` must be 'global', 'layer' or 'tensor', got {scope!r}.")


@dataclass(slots=True)
class Scopes:
    """Gradients by scope, measured and ready to be scaled.

    Attributes:
        names: One a scope.
        patterns: Of the override that applies to it, None without one.
        sizes: How many gradients are in it; 0 only where there is no gradient at all.
        values: (n) the gradients, scope by scope.
        labels: (n) the names of their parameters.
        norm_type: The order of the norms.
        devices: Of the gradients.
        each: (n,) the norms of the gradients.
        before: (S,) the norms of the scopes.
    """

    names: list[str]
    patterns: list[str | None]
    sizes: list[int]
    values: list[Tensor]
    labels: tuple[str, ...]
    norm_type: float
    devices: set[torch.device] = field(init=False)
    each: Tensor = field(init=False)
    before: Tensor = field(init=False)

    def __post_init__(self) -> None:
        kinds = by_kind(self.values)
        self.devices = {device for _, device, *_ in kinds}
        self.each = norms(self.values, self.norm_type, kinds)
        if len(self.sizes) == 1:
            self.before = total(self.each, self.norm_type).reshape(1)
        elif len(self.sizes) == len(self.values):
            self.before = self.each
        else:
            parts = self.each.split(self.sizes)
            self.before = torch.stack(torch._foreach_norm(parts, self.norm_type))

    def scale_(self, factors: Tensor) -> None:
        """Multiply the gradients of each scope by its factor, (S,)."""
        values = local(self.values)
        if len(self.sizes) == 1 and len(self.devices) == 1:
            torch._foreach_mul_(values, factors[0])
        elif values:
            by_device = {device: factors.to(device).unbind() for device in self.devices}
            own = [scope for scope, size in enumerate(self.sizes) for _ in range(size)]
            chosen = [by_device[v.device][scope] for v, scope in zip(values, own, strict=True)]
            torch._foreach_mul_(values, chosen)

    def clip_(self, mode: str, factors: Tensor, thresholds: Tensor) -> ClipRecord:
        """Scale the scopes by ``factors`` (S,); a threshold (S,) of inf leaves one as it is."""
        factors = torch.where(thresholds == math.inf, 1.0, factors)  # whatever the norm
        self.scale_(factors)
        return self.record(mode, factors, thresholds)

    def raise_if_nonfinite(self) -> None:
        """Raise where a norm is inf or NaN; waits for the device."""
        finite = self.each.isfinite()
        if not bool(finite.all()):
            name = self.labels[finite.tolist().index(False)]
            raise RuntimeError(
                f"The gradient of parameter '{name}' has a non-finite norm of order "
                f"{self.norm_type}, so it cannot be clipped. Lower the learning rate "
                "or the loss scale, or pass `error_if_nonfinite=False`."
            )

    def record(self, mode: str, factors: Tensor, thresholds: Tensor) -> ClipRecord:
        """Return what it means to have scaled the scopes by ``factors`` (S,)."""
        before, after = self.before, self.before * factors
        changed = (after != before).to(before.dtype)
        nonfinite = first_nonfinite(self.each)
        if len(self.sizes) == 1:
            cosine = after / after  # NaN without a direction
            scalars = before[0], after[0], thresholds[0], changed[0], cosine[0]
            return ClipRecord(mode, *scalars, nonfinite, self.labels)
        return ClipRecord(
            mode,
            norm_before=total(before, self.norm_type),
            norm_after=total(after, self.norm_type),
            threshold=torch.where((thresholds == thresholds[0]).all(), thresholds[0], math.nan),
            share_clipped=changed.mean(),
            cosine=_cosine(before, after) if self.norm_type == 2 else None,
            first_nonfinite=nonfinite,
            parameters=self.labels,
            scopes=ByScope(tuple(self.names), before, after, thresholds),
        )


def by_scope(
    parameters: Parameters,
    scope: Scope,
    norm_type: float = 2.0,
    overrides: Mapping[str, float] | None = None,
) -> Scopes:
    """Measure what is clipped together; a parameter that fits an override is apart.

    The first pattern that matches a name counts.
    """
    gradients = Gradients.of(parameters)
    overrides = overrides or {}
    values, labels = gradients.values, gradients.labels()
    if not overrides and scope != "layer":
        apart = scope == "tensor" and bool(values)
        each, sizes = (list(labels), [1] * len(values)) if apart else (["all"], [len(values)])
        return Scopes(each, [None] * len(sizes), sizes, values, labels, norm_type)
    names = gradients.names
    if None in [*names, *gradients.without]:
        raise ValueError(
            '`scope="layer"` and `overrides` need names: pass `model.named_parameters()`, or make '
            "the optimizer from it."
        )
    for pattern in overrides:
        if not any(fnmatchcase(name or "", pattern) for name in [*names, *gradients.without]):
            raise ValueError(f"The pattern {pattern!r} in `overrides` applies to no parameter.")
    members: dict[tuple[str, str | None], list[int]] = {}
    for i, label in enumerate(labels):
        fitting = _first_fit(label, overrides) if overrides else None
        members.setdefault((_place(label, scope), fitting), []).append(i)
    members = members or {("all", None): []}
    order = [i for chosen in members.values() for i in chosen]
    return Scopes(
        [_name(place, pattern) for place, pattern in members],
        [pattern for _, pattern in members],
        [len(chosen) for chosen in members.values()],
        [values[i] for i in order],
        tuple(labels[i] for i in order),
        norm_type,
    )


def _first_fit(label: str, patterns: Iterable[str]) -> str | None:
    return next((pattern for pattern in patterns if fnmatchcase(label, pattern)), None)


def _place(label: str, scope: Scope) -> str:
    if scope == "tensor":
        return label
    return label.rpartition(".")[0] if scope == "layer" else ""


def _name(place: str, pattern: str | None) -> str:
    if pattern is None:
        return place or "the others"
    return f"{place} ({pattern})" if place else pattern


def _cosine(before: Tensor, after: Tensor) -> Tensor:
    """Return the cosine of a gradient whose scopes went from one length to the other."""
    before, after = before.double(), after.double()  # products of norms overflow float32
    lengths = torch.linalg.vector_norm(before) * torch.linalg.vector_norm(after)
    cosine: Tensor = (before @ after / lengths).to(torch.float32)
    return cosine


def as_tensor(limits: list[float], norms: Tensor) -> Tensor:
    """Return one threshold a scope, (S,), in the dtype and on the device of their norms."""
    if len(set(limits)) == 1:
        return norms.new_full((len(limits),), limits[0])
    thresholds = torch.tensor(limits, dtype=norms.dtype)
    if norms.is_cuda:
        thresholds = thresholds.pin_memory()  # or else the copy waits
    return thresholds.to(norms.device, non_blocking=True)
