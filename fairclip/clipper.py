"""One training step: the stages in order. Shapes: B rows, K groups, L layers, N samples."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn

from fairclip.capping import NormCap
from fairclip.clipping import ClipRecord, Mode, Norm
from fairclip.gradients import Array, GradientEngine, GroupGradients, without_autocast
from fairclip.groups import GroupEncoder
from fairclip.trace import RawStep, StepRecord, Trace

__all__ = ["FairClipper"]

_VERSION = 2
_ALL_FINITE = torch.tensor(-1)

Codes = Tensor | np.ndarray | Sequence[int]


class FairClipper:
    r"""Bound each demographic group's share of every update, then clip as usual.

    It takes the place of ``torch.nn.utils.clip_grad_norm_`` in a training loop. With :math:`g_k`
    what the rows of group k cause in the batch gradient and :math:`u` what rows of no known group
    and no row cause, the step leaves

    .. math:: \text{clip}\Bigl(\sum_k f_k\, g_k + u\Bigr), \qquad f = \text{cap}(\lVert g_k \rVert)

    in ``.grad``. A cap with ``max_ratio=inf`` leaves the gradient bit for bit and only measures.
    A norm that is not finite leaves it too, so that a ``GradScaler`` skips the step.

    Wrapping the model for several processes or compiling it is refused for now.

    Args:
        model: Any module; the loss may be computed outside of it. Its forward and backward pass
            stay the user's.
        cap: The bound between groups.
        clip: A mode of `fairclip.clipping` for the combined gradient; None for none.
        encoder: A fitted `GroupEncoder`: names, counts and labels of the groups.
        n_groups: K, instead of ``encoder``; rows are then counted as they are seen.
        group_counts: (K,) rows of each group in the data, instead of ``encoder``.
        check: Compare the sum over all groups with ``.grad`` in the first step ("first"), in every
            step (True) or never (False). Where the rows are in every tensor is learnt in the first
            step and taken to stay so: a model that moves rows by their values (sorts by length,
            drops masked entries) may do so only later, which True finds, at several times the cost.
        on_nonfinite: "keep" leaves the gradient of such a step as it is; "raise" names the group
            and the layer, which waits for the device.
        batch_dim: Dimension of the model's inputs that holds the rows. None finds out in the first
            step, and raises where two fit.

    Raises:
        TypeError: If ``clip`` is no mode of gradient clipping.
        ValueError: If the model has no trainable parameters, the groups are not given in exactly
            one way, or an option is unknown.
        NotImplementedError: If the model is compiled, sharded or wrapped for several processes.

    Source:
        The definitions are fairclip's own; equalising group gradients instead of bounding them is
        PCNGD (https://arxiv.org/abs/2207.00391).

    Example:
        >>> import torch, fairclip
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> clipper = fairclip.FairClipper(model, group_counts=[60, 40])
        >>> inputs, targets = torch.randn(10, 3), torch.randn(10, 1)
        >>> groups = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 1, 1])
        >>> with clipper.watch(groups):
        ...     torch.nn.functional.mse_loss(model(inputs), targets).backward()
        >>> record = clipper.clip_grad_()
        >>> optimizer.step()
        >>> record.counts
        tensor([6, 4])
    """

    def __init__(
        self,
        model: nn.Module,
        cap: NormCap | None = None,
        clip: Mode | None = None,
        *,
        encoder: GroupEncoder | None = None,
        n_groups: int | None = None,
        group_counts: Codes | None = None,
        check: Literal["first"] | bool = "first",
        on_nonfinite: Literal["keep", "raise"] = "keep",
        batch_dim: int | None = None,
    ) -> None:
        if not isinstance(check, bool) and check != "first":
            raise ValueError(f"`check` must be 'first', True or False, got {check!r}.")
        if on_nonfinite not in ("keep", "raise"):
            raise ValueError(f"`on_nonfinite` must be 'keep' or 'raise', got {on_nonfinite!r}.")
        if sum(x is not None for x in (encoder, n_groups, group_counts)) != 1:
            raise ValueError("Pass exactly one of `encoder`, `group_counts` and `n_groups`.")
        if clip is not None and not isinstance(clip, Mode):
            raise TypeError(
                f"`clip` must be a clipping mode such as Norm(max_norm=1.0), got {clip!r}; what "
                "limits the optimizer works by `attach(optimizer)`."
            )
        cap = NormCap() if cap is None else cap
        if encoder is not None:
            if not hasattr(encoder, "names_"):
                raise ValueError("`encoder` must be fitted: call its `fit` with the training data.")
            names = encoder.names_
            cap = _resolve_reference(cap, names)
            self._cap_state = cap.init(
                encoder.counts_, encoder.strata_ if encoder.with_label else None
            )
        elif group_counts is not None:
            self._cap_state = cap.init(group_counts)
            names = [str(code) for code in range(len(group_counts))]
        else:
            self._cap_state = cap.init(n_groups=n_groups)
            names = [str(code) for code in range(n_groups or 0)]
        self.cap = cap
        self.clip = clip
        self.trace = Trace(names)
        self._names = names
        self._on_nonfinite = on_nonfinite
        self._engine = GradientEngine(model, len(names), check=check, batch_dim=batch_dim)
        self._parameters = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        self._clip_state = None if clip is None else clip.init(self._parameters)

    def watch(self, groups: Codes) -> AbstractContextManager[None]:
        """Measure whose rows cause what in the forward *and* backward pass inside.

        Several windows before one `clip_grad_` accumulate; `clip_grad_` after each window treats
        every micro-batch on its own and adds them up (not with a ``GradScaler``, which unscales
        once a step). In the first window the engine runs the model twice more, in evaluation mode,
        to find which dimension of which tensor holds the rows; it is taken to stay so. Modules that
        are called one by one must keep the order of the rows between them.

        Args:
            groups: (B,) integer codes in -1..K-1, on the CPU (elsewhere they cost one wait for the
                device); -1 is unknown: kept, never capped, never a reference. (B, T) where every
                token is a row of its own, for a model whose outputs (B, T, ...) at a token depend
                on that token alone; one that mixes tokens raises, use `backward`. Padding is -1.

        Raises:
            TypeError: If the codes are not integers.
            ValueError: If they are out of range, or not one a row.
            RuntimeError: If no backward pass ran inside, or ``.grad`` was not zero before.
        """
        return self._engine.watch(self._check_codes(groups))

    def backward(self, losses: Tensor, groups: Codes) -> None:
        """Use instead of `watch`: backward of ``losses.mean()``, and once more for each group.

        Exact for any model, batch statistics included, and K + 1 times the cost of a backward pass.

        Args:
            losses: (B,) one loss a row, as with ``reduction="none"``, or (B, T) one a token, with
                0 for padding.
            groups: (B,) or (B, T) as in `watch`; of any model.
        """
        self._engine.backward(losses, self._check_codes(groups))

    def clip_grad_(
        self,
        scaler: torch.amp.GradScaler | None = None,
        optimizer: torch.optim.Optimizer | None = None,
    ) -> StepRecord:
        """Cap, recombine and clip; ``.grad`` is final afterwards.

        Args:
            scaler: The loss scaler, if the loss was scaled: it unscales here, once.
            optimizer: Whose gradients it unscales; needed with ``scaler``.

        Returns:
            What happened, as tensors on the device; also kept in ``trace``.

        Raises:
            RuntimeError: If no window came before; with ``on_nonfinite="raise"`` if a norm is not
                finite.
            ValueError: If only one of ``scaler`` and ``optimizer`` is given.
        """
        if (scaler is None) != (optimizer is None):
            raise ValueError("Pass both `scaler` and `optimizer`, or neither.")
        self._engine.check_finished()
        scale = None
        if scaler is not None and optimizer is not None:
            self._check_covers(optimizer)
            # Asked on the device: `get_scale` would wait for it.
            scale = 1 / scaler.scale(torch.ones((), device=self._parameters[0][1].device))
            scaler.unscale_(optimizer)
        with torch.no_grad(), without_autocast(self._parameters[0][1].device):
            by_layer = self.cap.scope == "layer" or self._on_nonfinite == "raise"
            gradients = self._engine.collect(by_layer=by_layer, scale=scale)
            record = self._cap_and_clip(gradients)
        self._engine.settle()
        self.trace.append(record)
        return record

    def state_dict(self) -> dict[str, Any]:
        """Return all that a resumed run needs to go on bit for bit.

        Raises:
            RuntimeError: If a step is under way: what its windows measured would be lost.
        """
        self._engine.check_idle()
        return {
            "version": _VERSION,
            "names": list(self._names),
            "scope": self.cap.scope,
            "cap": self._cap_state.state_dict(),
            "clip": None if self._clip_state is None else self._clip_state.state_dict(),
            "trace": self.trace.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned.

        Raises:
            ValueError: If it is of another version, of other groups or of other stages.
        """
        if state.get("version") != _VERSION:
            raise ValueError(
                f"The state has version {state.get('version')!r}; this fairclip reads {_VERSION}."
            )
        if state["names"] != list(self._names):
            raise ValueError("The state is of other groups: fit the encoder as it was then.")
        has_clip = self._clip_state is not None
        if state["scope"] != self.cap.scope or (state["clip"] is not None) != has_clip:
            raise ValueError(
                "The state is of another clipper: make this one with the `scope` of the cap and "
                "the kind of clip that it was saved with."
            )
        self._cap_state.load_state_dict(state["cap"])
        if self._clip_state is not None:
            self._clip_state.load_state_dict(state["clip"])
        self.trace.load_state_dict(state["trace"])

    def remove(self) -> None:
        """Take the hooks off the model."""
        self._engine.remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def _cap_and_clip(self, gradients: GroupGradients) -> StepRecord:
        counts = gradients.row_counts()
        gramian = gradients.gramian()  # (K + 1, K + 1) or (L, K + 1, K + 1)
        if self._on_nonfinite == "raise":
            self._raise_if_nonfinite(gramian, gradients)
        by_layer = self.cap.scope == "layer"
        if gramian.ndim == 3 and not by_layer:
            gramian = gramian.sum(0)
        norms = _norms(gramian)[..., :-1]  # (K,) or (L, K), as the factors
        factors = self.cap(norms, counts, counts > 0, self._cap_state)
        if not math.isinf(self.cap.max_ratio):
            gradients.recombine_(factors)
            if self.cap.preserve_norm:
                growth = _growth(gramian, factors)
                torch._foreach_mul_(
                    gradients.totals, growth if isinstance(growth, Tensor) else float(growth)
                )
        clip = None if self.clip is None else self.clip(self._parameters, self._clip_state)
        first_nonfinite, parameters = self._first_nonfinite(gramian, clip)
        raw = RawStep(
            counts,
            gramian,
            factors,
            self._cap_state.averages,
            self._cap_state.reference,
            None if clip is None else self._norm(),
            first_nonfinite,
        )
        layers = tuple(gradients.layers or ()) if by_layer else None
        return StepRecord(raw, clip, layers, self.cap.preserve_norm, parameters)

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

    def _check_covers(self, optimizer: torch.optim.Optimizer) -> None:
        covered = {id(p) for group in optimizer.param_groups for p in group["params"]}
        for name, parameter in self._parameters:
            if parameter.grad is not None and id(parameter) not in covered:
                raise ValueError(
                    f"`optimizer` does not hold parameter '{name}', so the scaler would leave its "
                    "gradient scaled. Use one optimizer for all of the model with a scaler."
                )

    def _norm(self) -> Tensor:
        grads = [p.grad for _, p in self._parameters if p.grad is not None]
        total: Tensor = torch.nn.utils.get_total_norm(grads)
        return total

    def _raise_if_nonfinite(self, gramian: Array, gradients: GroupGradients) -> None:
        finite = torch.as_tensor(_norms(gramian)).isfinite()  # (L, K + 1)
        parts = [part for part, is_finite in enumerate(finite.all(0).tolist()) if not is_finite]
        if not parts:
            return
        # What is got by subtraction is not finite either when a held part is not.
        part = next((part for part in parts if part != gradients.rest), parts[0])
        layer = list(gradients.layers or ())[finite[:, part].tolist().index(False)]
        whose = f"group '{self._names[part]}'" if part < len(self._names) else "unknown rows"
        raise RuntimeError(
            f"The gradient of {whose} is not finite in layer '{layer}'. Lower the learning rate or "
            "the loss scale, or pass `on_nonfinite='keep'`."
        )

    def _check_codes(self, groups: Codes) -> Tensor:
        if not isinstance(groups, Tensor):
            array = np.array(groups)  # a copy: pandas hands out arrays that torch must not write to
            if array.dtype.kind not in "iufcb":
                raise TypeError(
                    f"`groups` must be integer codes, got {array.dtype}. `GroupEncoder` makes them."
                )
            groups = torch.from_numpy(array)
        codes = groups
        if codes.ndim not in (1, 2) or codes.numel() == 0:
            raise ValueError(
                f"`groups` must be (B,), or (B, T) by token, and hold something, got "
                f"{tuple(codes.shape)}."
            )
        if codes.dtype == torch.int64 and codes.device.type == "cpu":
            return codes
        if codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool:
            raise TypeError(
                f"`groups` must be integer codes, got {codes.dtype}. `GroupEncoder` makes them."
            )
        return codes.to("cpu", torch.int64)


def _namespace(array: Array) -> Any:
    """Return the module whose functions take it: all that is used here is in both."""
    return torch if isinstance(array, Tensor) else np


def _norms(gramian: Array) -> Array:
    """Return the norm of each part, (..., K + 1)."""
    if gramian.ndim == 2:
        return gramian.diagonal() ** 0.5
    norms: Array = _namespace(gramian).einsum("...kk->...k", gramian) ** 0.5
    return norms


def _growth(gramian: Array, factors: Array) -> Array:
    """Return the norm of the total before the cap over that after it; 1 if either is no number."""
    xp = _namespace(gramian)
    weights = xp.concatenate((factors, xp.ones_like(factors[..., :1])), -1)
    before = gramian.sum()
    after = (weights[..., None, :] @ gramian @ weights[..., None]).sum()
    with np.errstate(all="ignore"):
        growth = (before / after) ** 0.5
    # Nothing capped: exactly 1, whatever the two sums round to.
    is_needed = xp.isfinite(growth) & (factors != 1.0).any()
    needed: Array = xp.where(is_needed, growth, 1.0)
    return needed


def _resolve_reference(cap: NormCap, names: Sequence[str]) -> NormCap:
    """Return the cap with a reference given by name replaced by codes."""
    if not isinstance(cap.reference, str) or cap.reference in ("minority", "smallest_norm"):
        return cap
    levels = f"{cap.reference}, y="
    codes = tuple(
        code for code, name in enumerate(names) if name == cap.reference or name.startswith(levels)
    )
    if not codes:
        raise ValueError(
            f"`reference` {cap.reference!r} is not a group; the groups are {', '.join(names)}."
        )
    return replace(cap, reference=codes)
