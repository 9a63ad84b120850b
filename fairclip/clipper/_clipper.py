"""One training step: the stages in order. Shapes: B rows, K groups, L layers, N samples."""

import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fairclip._arrays import Array
from fairclip.capping import NormCap, TargetCap
from fairclip.clipper._begin import begin_rule
from fairclip.clipper._codes import Codes, as_codes
from fairclip.clipper._ending import Ending, raise_if_nonfinite
from fairclip.clipper._predictions import Predicted
from fairclip.clipper._scaling import has_unscaled, is_unscaled, optimizers_of
from fairclip.clipping import Mode
from fairclip.exceptions import FairclipWarning
from fairclip.gradients import (
    GradientEngine,
    GroupGradients,
    WeighedStep,
    check_losses,
    without_autocast,
)
from fairclip.groups import GroupEncoder
from fairclip.trace import StepRecord, Trace

_VERSION = 4


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
        cap: The bound between groups: a `NormCap`, whose ``max_ratio=inf`` only measures; or a
            `TargetCap`, whose factors come from `observe`. None: `NormCap()`, which caps.
        clip: A mode of `fairclip.clipping` for the combined gradient; None for none.
        encoder: A fitted `GroupEncoder`: names, counts and labels of the groups.
        n_groups: K, instead of ``encoder``; rows are then counted as they are seen.
        group_counts: (K,) rows of each group in the data, instead of ``encoder``.
        check: Compare the sum over all groups with ``.grad`` in the first step and in steps 2, 4,
            8, ... ("first"), in every step (True) or never (False). A parameter that misses rows
            is then got by running the model again; what comes from no row is kept uncapped; both
            with a warning. Where the rows are in every tensor is learnt in the first step and taken
            to stay so: a model that moves rows by their values (sorts by length, drops masked
            entries) may do so only later, which True finds, at several times the cost.
        on_nonfinite: "keep" leaves the gradient of such a step as it is; "raise" names the group
            and the layer, which waits for the device.
        batch_dim: Dimension of the model's inputs that holds the rows. None finds out in the first
            step, and raises where two fit.
        measure_every: With `weigh`, steps from one measured step to the next, at least 1: more cost
            less, and make the factors older.

    Raises:
        TypeError: If ``cap`` is no cap, or ``clip`` no mode of gradient clipping.
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
        cap: NormCap | TargetCap | None = None,
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
        self._rule, self._names = begin_rule(
            NormCap() if cap is None else cap, encoder, n_groups, group_counts, measure_every
        )
        self.trace = Trace(self._names)
        n_groups = len(self._names)
        self._engine = GradientEngine(model, n_groups, check=check, batch_dim=batch_dim)
        self._ending = Ending(list(self._engine.parameters.items()), clip, on_nonfinite)
        self._weighed: WeighedStep | None = None

    @property
    def cap(self) -> NormCap | TargetCap:
        """The bound between groups; a reference by name is replaced by codes."""
        return self._rule.cap

    @property
    def clip(self) -> Mode | None:
        """The mode for the combined gradient; another may be set, which begins with no memory.

        Raises:
            TypeError: If it is no mode of gradient clipping.
        """
        return self._ending.clip

    @clip.setter
    def clip(self, mode: Mode | None) -> None:
        self._ending = self._ending.with_clip(mode)

    @property
    def is_in_step(self) -> bool:
        """Whether a step was begun that `clip_grad_` has not ended."""
        return self._weighed is not None or self._engine.is_in_step

    @property
    def parameters(self) -> Mapping[str, nn.Parameter]:
        """The parameters whose gradients it caps, by name."""
        return self._engine.parameters

    def watch(self, groups: Codes) -> AbstractContextManager[None]:
        """Measure whose rows cause what in the forward *and* backward pass inside.

        Several windows before one `clip_grad_` accumulate; `clip_grad_` after each window treats
        every micro-batch on its own and adds them up (not with a ``GradScaler``, which unscales
        once a step). In the first window the engine runs the model twice more, in evaluation mode,
        to find which dimension of which tensor holds the rows; it is taken to stay so. Modules that
        are called one by one must keep the order of the rows between them. What a row causes is
        what comes back through its own outputs: batch statistics in training, and losses that
        compare rows (contrastive ones), make that another split than `backward` gives, with the
        same sum.

        Args:
            groups: (B,) integer codes in -1..K-1, on the CPU (elsewhere they cost one wait for the
                device); -1 is unknown: kept, never capped, never a reference. (B, T) where every
                token is a row of its own, for a model whose outputs (B, T, ...) at a token depend
                on that token alone; one that mixes tokens raises, use `backward`. Padding is -1.

        Raises:
            TypeError: If the codes are not integers.
            ValueError: If they are out of range, or not one a row; like most errors when the window
                closes, as is the next.
            RuntimeError: If no backward pass ran inside, ``.grad`` was not zero before, an
                optimizer stepped before `clip_grad_`, or rows cannot be told apart.
            NotImplementedError: If the model is compiled, or there are several processes.
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

        Raises:
            TypeError: If the codes are not integers.
            ValueError: If they are out of range, or not one a loss.
            RuntimeError: As in `watch`.
            NotImplementedError: As in `watch`.
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
        many, and are 1 in the first two steps. On Adult, with the default cap and once the first
        300 steps are over, they are less than 7 % off those of `watch` in the mean where the cap
        acts, and 95 of 100 less than 18 %. Where a cap must hold in the very step, as after a jump
        in the data, `watch` is needed. Batch statistics are no obstacle to the weights, but the
        norms are those of `watch`.

        With a `TargetCap` no step is measured and nothing is ever on the model: the factors are
        those that `observe` made before the step.

        A compiled model runs uncompiled in measured steps, as far as gradients are recorded, and
        then needs the memory that it needs uncompiled. Where
        another framework owns the backward pass, weigh the losses it is given and call `clip_grad_`
        where it would clip. With several processes norms would have to be added up over them, which
        is refused for now, and so are FSDP and DeepSpeed.

        Several batches of one step each need their backward pass before the next forward pass.
        Losses without gradients, as in an evaluation, are returned untouched.

        Args:
            losses: (B,) one loss a row, as with ``reduction="none"``, or (B, T) one a token.
            groups: Like the losses, as in `watch`.

        Returns:
            The losses as they are, as a view.

        Raises:
            TypeError: If the codes are not integers.
            ValueError: If they are out of range or not one a loss; if a `NormCap` has
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
        check_losses(losses, codes)
        if not losses.requires_grad:
            return losses
        if self._weighed is None:
            self._rule.begin_weighed()
            self._engine.check_idle()
            self._weighed = WeighedStep(self._engine, len(self._names))
        try:
            return self._weighed.weigh(losses, codes, self._rule.table)
        except Exception:
            self._end_weighed()
            raise

    def observe(self, predicted: Predicted, targets: Codes, groups: Codes) -> None:
        """Tell a `TargetCap` how rows were predicted: its recalls and factors move once.

        They may be training rows or held-back ones, in each step or now and then. The factors hold
        from the next step on: to have them in this one, call it before `weigh`, or before
        `clip_grad_` in a step of `watch` or `backward`. What is on a device stays there.

        A row counts as predicted right by the probability of its true class; with class codes that
        is 1 or 0. Probabilities make smoother recalls: with codes a row that moves towards the cut
        counts only once it is over it.

        Args:
            predicted: (B,) class codes, integers or booleans, coded as the targets are; or floating
                numbers, (B,) the probability of class 1 or (B, C) those of all classes. NaN counts
                as 0.
            targets: (B,) class codes, also as floating numbers; with probabilities 0 to C - 1.
            groups: (B,) codes as in `watch`.

        Raises:
            TypeError: If the cap is no `TargetCap`, or ``groups`` are no codes.
            ValueError: If shapes do not fit, or groups are out of range; of what is in the host's
                memory also if a probability is outside of [0, 1], or a target is none of the
                classes.

        Example:
            >>> import torch, fairclip
            >>> model = torch.nn.Linear(3, 2)
            >>> criterion = torch.nn.CrossEntropyLoss(reduction="none")
            >>> cap = fairclip.TargetCap("worst_cell", gap=0.05)
            >>> clipper = fairclip.FairClipper(model, cap, group_counts=[60, 40])
            >>> inputs, targets, groups = torch.randn(4, 3), [0, 1, 0, 1], [0, 0, 1, 1]
            >>> outputs = model(inputs)
            >>> clipper.observe(outputs.argmax(1), targets, groups)
            >>> losses = clipper.weigh(criterion(outputs, torch.tensor(targets)), groups)
            >>> losses.mean().backward()
            >>> record = clipper.clip_grad_()
        """
        self._rule.observe(predicted, targets, groups)

    def gradients_by_group(
        self, scaler: torch.amp.GradScaler | None = None
    ) -> dict[str, dict[str, Tensor]]:
        """Return what each group caused in this step, between the backward pass and `clip_grad_`.

        For histograms and the like: it copies K gradients of the model. What `clip_grad_` does
        afterwards is the same as without it, bit for bit.

        Args:
            scaler: The loss scaler, if the loss was scaled and it has not unscaled yet, which it
                does in `clip_grad_`: the tensors are of the loss as it was.

        Returns:
            By the group's name and then the parameter's, tensors like ``.grad``, to which they add
            up. A group without rows is not in it. ``"unknown"`` is what rows of no known group and
            no row caused; it is there if there are such rows, or if it was got by subtraction.

        Raises:
            RuntimeError: If no backward pass came before, the step was begun with `weigh`, which
                holds no such tensors, the scaler has unscaled, or as in `clip_grad_`.

        Example:
            >>> import torch, fairclip
            >>> model = torch.nn.Linear(3, 1)
            >>> clipper = fairclip.FairClipper(model, group_counts=[60, 40])
            >>> with clipper.watch([0, 0, 0, 1]):
            ...     model(torch.randn(4, 3)).mean().backward()
            >>> gradients = clipper.gradients_by_group()
            >>> gradients["0"]["bias"], gradients["1"]["bias"]
            (tensor([0.7500]), tensor([0.2500]))
        """
        self._check_not_weighed()
        if scaler is not None and has_unscaled(scaler):
            raise RuntimeError("`scaler` has unscaled: call `gradients_by_group` before it does.")
        parts = self._engine.parts("gradients_by_group")
        if scaler is not None:
            scale = 1 / scaler.scale(torch.ones((), device=self._engine.device))
            for gradients in parts.values():
                torch._foreach_mul_(list(gradients.values()), scale)
        return {[*self._names, "unknown"][part]: gradients for part, gradients in parts.items()}

    def clip_grad_(
        self,
        scaler: torch.amp.GradScaler | None = None,
        optimizer: Optimizer | Sequence[Optimizer] | None = None,
    ) -> StepRecord:
        """Cap, recombine and clip, or only clip after `weigh`; ``.grad`` is final afterwards.

        Args:
            scaler: The loss scaler, if the loss was scaled: it unscales here, unless it has already
                done so, as in Lightning. One that is not enabled is as none.
            optimizer: Whose gradients it unscales, all of them where there are several; needed with
                ``scaler``. Those of Lightning and Accelerate are taken for torch's own in them.

        Returns:
            What happened, as tensors on the device; also kept in ``trace``.

        Raises:
            RuntimeError: If no backward pass came before, ``.grad`` was changed or an optimizer
                stepped since; with ``on_nonfinite="raise"`` if a norm is not finite.
            TypeError: If ``scaler`` or ``optimizer`` is none.
            ValueError: If only one of ``scaler`` and ``optimizer`` is given, or the optimizers do
                not hold all parameters that have a gradient.
        """
        optimizers = optimizers_of(scaler, optimizer)
        if scaler is not None and not scaler.is_enabled():
            scaler = None
        again: AbstractContextManager[None] = nullcontext()
        if scaler is not None and any(is_unscaled(scaler, one) for one in optimizers):
            self._engine.allow_unscaling()
            again = self._ending.scaled_again(scaler)
        if self._weighed is None:
            self._engine.check_finished()
            return self._finish(scaler, optimizers)
        self._weighed.check_reached()
        try:
            self._engine.check_not_stepped()
            with again:
                self._weighed.finish()
            return self._finish(scaler, optimizers)
        finally:
            self._end_weighed()

    def state_dict(self) -> dict[str, Any]:
        """Return all that a resumed run needs to go on bit for bit from the last finished step.

        Of a step that is under way nothing is in it, as nothing of ``.grad`` is in other states; a
        FairclipWarning says so.
        """
        if self.is_in_step:
            warnings.warn(
                "A step is under way: its windows are not in the state. Save after `clip_grad_()`.",
                FairclipWarning,
                stacklevel=2,
            )
        clip = self._ending.state
        return {
            "version": _VERSION,
            "names": list(self._names),
            "kind": type(self.cap).__name__,
            "scope": self._rule.scope,
            **self._rule.state_dict(),
            "clip": None if clip is None else clip.state_dict(),
            "trace": self.trace.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned.

        Raises:
            RuntimeError: If a step is under way.
            ValueError: If it is of another version, of other groups or of other stages.
        """
        self._check_not_weighed()
        self._engine.check_idle()
        if state.get("version") != _VERSION:
            raise ValueError(
                f"The state has version {state.get('version')!r}; this fairclip reads {_VERSION}."
            )
        if state["names"] != list(self._names):
            raise ValueError("The state is of other groups: fit the encoder as it was then.")
        clip = self._ending.state
        kind = state.get("kind", "NormCap")  # the only one once
        if kind != type(self.cap).__name__:
            raise ValueError(f"The state is of a {kind}, and the cap is {self.cap!r}.")
        if state["scope"] != self._rule.scope or (state["clip"] is None) != (clip is None):
            raise ValueError(
                "The state is of another clipper: make this one with the `scope` of the cap and "
                "the kind of clip that it was saved with."
            )
        self._rule.load_state_dict(state)
        if clip is not None:
            clip.load_state_dict(state["clip"])
        self.trace.load_state_dict(state["trace"])
        self._end_weighed()

    def remove(self) -> None:
        """Take everything off the model."""
        self._engine.remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def _check_not_weighed(self) -> None:
        """Raise in a step that `weigh` began."""
        if self._weighed is not None:
            raise RuntimeError(
                "A step is under way that `weigh` began: end it with `clip_grad_()`. A step is "
                "weighed or watched, not both."
            )

    def _begin_exact(self) -> None:
        """Make sure that this step is not weighed."""
        self._check_not_weighed()
        if self._engine.is_armed:
            self._engine.disarm()

    def _end_weighed(self) -> None:
        """Let go of a weighed step, and get ready for the next one where it is to be measured."""
        if self._weighed is not None:
            self._weighed.abandon()
            self._weighed = None
        if self._rule.is_due:
            self._engine.arm()
        else:
            self._engine.disarm()

    def _finish(
        self, scaler: torch.amp.GradScaler | None, optimizers: Sequence[Optimizer]
    ) -> StepRecord:
        scale = self._ending.unscale(scaler, optimizers)
        weighed, device = self._weighed, self._engine.device
        if weighed is not None and not (weighed.is_measured or self._ending.looks_at_gradient):
            record = StepRecord(self._rule.skip(weighed.counts[:-1], device))
        else:
            with torch.no_grad(), without_autocast(device):
                if weighed is None:
                    record = self._cap_and_clip(self._collect(scale))
                else:
                    record = self._clip_weighed(weighed, scale)
        self._engine.settle()
        self.trace.append(record)
        return record

    def _collect(self, scale: Tensor | None) -> GroupGradients:
        by_layer = self._rule.scope == "layer" or self._ending.raises
        return self._engine.collect(by_layer=by_layer, scale=scale)

    def _gramian(self, gradients: GroupGradients) -> Array:
        """Return the dot products (K + 1, K + 1), or (L, K + 1, K + 1) for a cap by layer."""
        gramian = gradients.gramian()
        if self._ending.raises:
            raise_if_nonfinite(gramian, gradients, self._names)
        if gramian.ndim == 3 and self._rule.scope != "layer":
            return gramian.sum(0)
        return gramian

    def _cap_and_clip(self, gradients: GroupGradients) -> StepRecord:
        raw = self._rule.cap_(gradients, self._gramian(gradients))
        layers = tuple(gradients.layers or ()) if self._rule.scope == "layer" else None
        return self._ending.clip_(raw, layers, preserve_norm=self._rule.preserve_norm)

    def _clip_weighed(self, weighed: WeighedStep, scale: Tensor | None) -> StepRecord:
        """Clip what was capped before the backward pass, and take in what was measured."""
        counts, device = weighed.counts[:-1], self._engine.device
        if not weighed.is_measured:
            return self._ending.clip_(self._rule.skip(counts, device))
        gradients = self._collect(scale)
        weighted, seen = self._gramian(gradients), gradients.row_counts()
        return self._ending.clip_(self._rule.measure(weighted, seen, counts, device))
