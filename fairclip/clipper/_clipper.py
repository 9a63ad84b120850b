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
from fairclip.clipper._codes import Codes, as_codes
from fairclip.clipper._lagged import LaggedCap, check_scales
from fairclip.clipper._norms import growth, norms_of, raise_if_nonfinite
from fairclip.clipping import ClipRecord, Mode, Norm
from fairclip.gradients import (
    Array,
    GradientEngine,
    GroupGradients,
    WeighedStep,
    without_autocast,
)
from fairclip.groups import GroupEncoder
from fairclip.trace import RawStep, StepRecord, Trace

_VERSION = 3
_ALL_FINITE = torch.tensor(-1)


class FairClipper:
    r"""Bound each demographic group's share of every update, then clip as usual.

    It takes the place of ``torch.nn.utils.clip_grad_norm_`` in a training loop. With :math:`g_k`
    what the rows of group k cause in the batch gradient and :math:`u` what rows of no known group
    and no row cause, the step leaves

    .. math:: \text{clip}\Bigl(\sum_k f_k\, g_k + u\Bigr), \qquad f = \text{cap}(\lVert g_k \rVert)

    in ``.grad``. A cap with ``max_ratio=inf`` leaves the gradient bit for bit and only measures.
    A norm that is not finite leaves it too, so that a ``GradScaler`` skips the step.

    `watch` measures every step exactly; `weigh` uses factors of earlier steps, costs little and
    takes compiled models; `backward` is exact for any model and slow. Models that are sharded or
    wrapped for several processes are refused for now.

    Args:
        model: Any module; the loss may be computed outside of it. Its forward and backward pass
            stay the user's. Of a compiled model, what ``torch.compile`` returned.
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
        measure_every: Steps from one measured step to the next with `weigh`.

    Raises:
        TypeError: If ``clip`` is no mode of gradient clipping.
        ValueError: If the model has no trainable parameters, the groups are not given in exactly
            one way, or an option is unknown or out of range.
        NotImplementedError: If the model is sharded or wrapped for several processes, or there are
            several.

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
        measure_every: int = 10,
    ) -> None:
        if not isinstance(check, bool) and check != "first":
            raise ValueError(f"`check` must be 'first', True or False, got {check!r}.")
        if on_nonfinite not in ("keep", "raise"):
            raise ValueError(f"`on_nonfinite` must be 'keep' or 'raise', got {on_nonfinite!r}.")
        if not isinstance(measure_every, int) or measure_every < 1:
            raise ValueError(
                f"`measure_every` must be a number of steps, at least 1, got {measure_every!r}."
            )
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
        self._parameters = list(self._engine.parameters.items())
        self._lagged = LaggedCap(cap, self._cap_state, len(names), measure_every)
        self._weighed: WeighedStep | None = None
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
        self._begin_exact()
        return self._engine.watch(as_codes(groups))

    def backward(self, losses: Tensor, groups: Codes) -> None:
        """Use instead of `watch`: backward of ``losses.mean()``, and once more for each group.

        Exact for any model, batch statistics included, and K + 1 times the cost of a backward pass.

        Args:
            losses: (B,) one loss a row, as with ``reduction="none"``, or (B, T) one a token, with
                0 for padding.
            groups: (B,) or (B, T) as in `watch`; of any model.
        """
        self._begin_exact()
        self._engine.backward(losses, as_codes(groups))

    def weigh(self, losses: Tensor, groups: Codes) -> Tensor:
        r"""Cap before the backward pass, by the norms of earlier steps, instead of `watch`.

        The losses come back as they are. In the backward pass the gradient of row b is multiplied
        by the factor of its group, so that ``losses.mean().backward()`` leaves

        .. math:: \sum_k f_k\, g_k + u

        in ``.grad``, and `clip_grad_` only clips and records. The second step and every
        ``measure_every``-th after it are measured: hooks see its forward and backward pass, the
        norms are divided by the factors that were applied, and the cap takes them in for the steps
        to come. In the averages a measurement counts as many steps as the root of
        ``measure_every``. In all other steps nothing is on the model; their records have NaN for
        norms, and without a clip nobody looks whether their gradients are finite.

        What it trades: the factors are up to ``measure_every`` steps old, come from one batch in so
        many, and are 1 in the first two steps. On Adult they differ by less than 6 % from those of
        `watch` in the mean, with the default cap and once the first 300 steps are over. Where a cap
        must hold in the very step, as after a jump in the data, `watch` is needed.

        A compiled model runs uncompiled in measured steps, as far as gradients are recorded. Where
        another framework owns the backward pass, weigh the losses it is given and call `clip_grad_`
        where it would clip. With several processes norms would have to be added up over them, which
        is refused for now, and so are FSDP and DeepSpeed.

        Several batches of one step each need their backward pass before the next forward pass.
        Losses without gradients, as in an evaluation, are returned untouched.

        Args:
            losses: (B,) one loss a row, as with ``reduction="none"``, or (B, T) one a token.
            groups: Like the losses, as in `watch`.

        Returns:
            The losses: the same values, as a view.

        Raises:
            TypeError: If the codes are not integers.
            ValueError: If they are out of range or not one a loss; if the cap has
                ``scope="layer"``, ``preserve_norm=True`` or ``smoothing=0``.
            RuntimeError: If the step was begun with `watch` or `backward`, ``.grad`` was not zero
                before, or the model was called where hooks cannot see it.
            NotImplementedError: If there are several processes.

        Example:
            >>> import torch, fairclip
            >>> model = torch.nn.Linear(3, 2)
            >>> criterion = torch.nn.CrossEntropyLoss(reduction="none")
            >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            >>> clipper = fairclip.FairClipper(model, group_counts=[80, 40], measure_every=2)
            >>> for _ in range(4):
            ...     inputs, targets = torch.randn(6, 3), torch.tensor([0, 1, 0, 1, 0, 1])
            ...     groups = torch.tensor([0, 0, 0, 0, 1, 1])
            ...     losses = clipper.weigh(criterion(model(inputs), targets), groups)
            ...     losses.mean().backward()
            ...     record = clipper.clip_grad_()
            ...     optimizer.step()
            ...     optimizer.zero_grad()
            >>> clipper.trace.to_frame()["norm[0]"].notna().tolist()
            [False, True, False, True]
        """
        codes = as_codes(groups)
        if losses.shape != codes.shape:
            raise ValueError(
                f"`losses` must hold one loss a row, {tuple(codes.shape)}, got "
                f"{tuple(losses.shape)}. Use `reduction='none'`."
            )
        check_scales(self.cap)
        if not losses.requires_grad:
            return losses
        if self._weighed is None:
            self._engine.check_idle()
            self._weighed = WeighedStep(self._engine, len(self._names))
        try:
            return self._weighed.weigh(losses, codes, self._lagged.table(losses.dtype))
        except Exception:
            self._end_weighed()
            raise

    def clip_grad_(
        self,
        scaler: torch.amp.GradScaler | None = None,
        optimizer: torch.optim.Optimizer | None = None,
    ) -> StepRecord:
        """Cap, recombine and clip, or only clip after `weigh`; ``.grad`` is final afterwards.

        Args:
            scaler: The loss scaler, if the loss was scaled: it unscales here, once.
            optimizer: Whose gradients it unscales; needed with ``scaler``.

        Returns:
            What happened, as tensors on the device; also kept in ``trace``.

        Raises:
            RuntimeError: If no backward pass came before; with ``on_nonfinite="raise"`` if a norm
                is not finite.
            ValueError: If only one of ``scaler`` and ``optimizer`` is given.
        """
        if (scaler is None) != (optimizer is None):
            raise ValueError("Pass both `scaler` and `optimizer`, or neither.")
        if self._weighed is None:
            self._engine.check_finished()
            return self._finish(scaler, optimizer)
        self._weighed.check_reached()
        try:
            self._weighed.finish()
            return self._finish(scaler, optimizer)
        finally:
            self._end_weighed()

    def state_dict(self) -> dict[str, Any]:
        """Return all that a resumed run needs to go on bit for bit.

        Raises:
            RuntimeError: If a step is under way: what its windows measured would be lost.
        """
        self._check_idle()
        return {
            "version": _VERSION,
            "names": list(self._names),
            "scope": self.cap.scope,
            "cap": self._cap_state.state_dict(),
            "clip": None if self._clip_state is None else self._clip_state.state_dict(),
            "lagged": self._lagged.state_dict(),
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
        self._lagged.load_state_dict(state["lagged"])
        self._end_weighed()

    def remove(self) -> None:
        """Take everything off the model."""
        self._engine.remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    @property
    def _device(self) -> torch.device:
        return self._parameters[0][1].device

    @property
    def _looks_at_gradient(self) -> bool:
        """Whether a step is more than what `weigh` did: to look costs more than all the rest."""
        return self.clip is not None or self._on_nonfinite == "raise"

    def _check_idle(self) -> None:
        """Raise in the middle of a step."""
        if self._weighed is not None:
            raise RuntimeError(
                "A step is under way that `weigh` began: end it with `clip_grad_()`. A step is "
                "weighed or watched, not both."
            )
        self._engine.check_idle()

    def _begin_exact(self) -> None:
        """Make sure that this step is not weighed."""
        if self._weighed is not None:
            self._check_idle()
        if self._engine.is_armed:
            self._engine.disarm()

    def _end_weighed(self) -> None:
        """Let go of a weighed step, and get ready for the next one where it is to be measured."""
        if self._weighed is not None:
            self._weighed.abandon()
            self._weighed = None
        if self._lagged.is_due:
            self._engine.arm()
        else:
            self._engine.disarm()

    def _finish(
        self, scaler: torch.amp.GradScaler | None, optimizer: torch.optim.Optimizer | None
    ) -> StepRecord:
        scale = None
        if scaler is not None and optimizer is not None:
            self._check_covers(optimizer)
            # Asked on the device: `get_scale` would wait for it.
            scale = 1 / scaler.scale(torch.ones((), device=self._device))
            scaler.unscale_(optimizer)
        weighed = self._weighed
        if weighed is not None and not (weighed.is_measured or self._looks_at_gradient):
            record = StepRecord(self._lagged.skip(weighed.counts[1:], self._device))
        else:
            with torch.no_grad(), without_autocast(self._device):
                if weighed is None:
                    record = self._cap_and_clip(self._collect(scale))
                else:
                    record = self._clip_weighed(weighed, scale)
        self._engine.settle()
        self.trace.append(record)
        return record

    def _collect(self, scale: Tensor | None) -> GroupGradients:
        by_layer = self.cap.scope == "layer" or self._on_nonfinite == "raise"
        return self._engine.collect(by_layer=by_layer, scale=scale)

    def _gramian(self, gradients: GroupGradients) -> Array:
        """Return the dot products (K + 1, K + 1), or (L, K + 1, K + 1) for a cap by layer."""
        gramian = gradients.gramian()
        if self._on_nonfinite == "raise":
            raise_if_nonfinite(gramian, gradients, self._names)
        if gramian.ndim == 3 and self.cap.scope != "layer":
            return gramian.sum(0)
        return gramian

    def _cap_and_clip(self, gradients: GroupGradients) -> StepRecord:
        counts, gramian = gradients.row_counts(), self._gramian(gradients)
        norms = norms_of(gramian)[..., :-1]  # (K,) or (L, K), as the factors
        factors = self.cap(norms, counts, counts > 0, self._cap_state)
        if not math.isinf(self.cap.max_ratio):
            gradients.recombine_(factors)
            if self.cap.preserve_norm:
                scale = growth(gramian, factors)
                torch._foreach_mul_(
                    gradients.totals, scale if isinstance(scale, Tensor) else float(scale)
                )
        clip = self._clip()
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
        layers = tuple(gradients.layers or ()) if self.cap.scope == "layer" else None
        return StepRecord(raw, clip, layers, self.cap.preserve_norm, parameters)

    def _clip_weighed(self, weighed: WeighedStep, scale: Tensor | None) -> StepRecord:
        """Clip what was capped before the backward pass, and take in what was measured."""
        weighted = None
        if weighed.is_measured:
            gradients = self._collect(scale)
            weighted = self._gramian(gradients)
            raw = self._lagged.measure(
                weighted, gradients.row_counts(), weighed.counts[1:], self._device
            )
        else:
            raw = self._lagged.skip(weighed.counts[1:], self._device)
        clip = self._clip()
        first_nonfinite, parameters = self._first_nonfinite(weighted, clip)
        if self._on_nonfinite == "raise" and (place := int(first_nonfinite)) >= 0:
            raise RuntimeError(
                f"The gradient is not finite in parameter '{parameters[place]}'. Lower the "
                "learning rate or the loss scale, or pass `on_nonfinite='keep'`."
            )
        norm = None if clip is None else self._norm()
        raw = replace(raw, norm_clipped=norm, first_nonfinite=first_nonfinite)
        return StepRecord(raw, clip, parameters=parameters)

    def _clip(self) -> ClipRecord | None:
        return None if self.clip is None else self.clip(self._parameters, self._clip_state)

    def _first_nonfinite(
        self, gramian: Array | None, clip: ClipRecord | None
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
