"""Training steps that ideas are built from. Shapes: B rows, K groups, P parameters, flattened."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from fairclip import FairClipper, GroupEncoder, NormCap, TargetCap

RowLosses: TypeAlias = Callable[[Tensor, Tensor], Tensor]
# How well each row is predicted, in [0, 1], from logits (B,) and targets (B,).
Rates: TypeAlias = Callable[[Tensor, Tensor], Tensor]
# What a target's cap is told instead of the hits (K,), from these and the rows (K,).
Adjust: TypeAlias = Callable[[Tensor, Tensor], Tensor]
# What is kept of the factors' logarithms before each observation, from the number of the step.
Keep: TypeAlias = Callable[[int], float]


def hits(logits: Tensor, targets: Tensor) -> Tensor:
    """Return 1 for a right prediction at the cut 0.5."""
    return ((logits > 0) == (targets > 0.5)).double()


class ObservedStep:
    """Weigh rows by a `TargetCap` that is told ``adjust`` of the sums of ``rates``.

    Before each observation it keeps ``keep`` of the logarithms of its factors.
    """

    def __init__(
        self,
        cap: TargetCap,
        encoder: GroupEncoder,
        rates: Rates = hits,
        adjust: Adjust = lambda hits, rows: hits,
        keep: Keep = lambda step: 1.0,
    ) -> None:
        self._cap, self._rates, self._adjust, self._keep = cap, rates, adjust, keep
        self._n_steps = 0
        self.state = cap.init(encoder.counts_, encoder.strata_)

    def __call__(
        self, model: nn.Module, inputs: Tensor, targets: Tensor, groups: Tensor, loss_fn: RowLosses
    ) -> Tensor:
        """Fill ``.grad`` from one batch and return its mean loss."""
        outputs = model(inputs)
        losses = loss_fn(outputs, targets)  # (B,)
        rates = self._rates(outputs.detach().squeeze(1), targets)  # (B,)
        weights = self.observe(rates, groups)[groups]  # (B,)
        (weights * losses).mean().backward()
        return losses.detach().mean()

    def observe(self, rates: Tensor, groups: Tensor) -> Tensor:
        """Return the factors, and 1 for the code -1, (K + 1,) float32."""
        n_groups = len(self.state.counts)
        member = (groups == torch.arange(n_groups)[:, None]).double()  # (K, B)
        rows = member.sum(1)
        self.state.log_factors = self.state.log_factors * self._keep(self._n_steps)
        self._n_steps += 1
        factors = self._cap(self._adjust(member @ rates, rows), rows, self.state)
        return torch.cat((factors, torch.ones(1))).float()


@dataclass(frozen=True)
class Contributions:
    """One batch: what each group caused, and what was predicted.

    Attributes:
        gradients: (K, P), 0 for a group without rows.
        total: (P,) the gradient of the mean loss.
        counts: (K,) rows of each group.
        logits: (B,).
        targets: (B,).
        losses: (B,).
        groups: (B,).
    """

    gradients: Tensor
    total: Tensor
    counts: Tensor
    logits: Tensor
    targets: Tensor
    losses: Tensor
    groups: Tensor

    def cap(self, cap: NormCap, norms: Tensor, state: object) -> Tensor:
        """Return the factors (K,) of a cap that sees ``norms`` (K,)."""
        return cap(norms, self.counts, self.counts > 0, state)  # type: ignore[arg-type]


# The factors, (K,) or (K, P).
Factors: TypeAlias = Callable[[Contributions], Tensor]


class MixedStep:
    """Recombine the groups' contributions by any factors of theirs."""

    def __init__(self, model: nn.Module, encoder: GroupEncoder, factors: Factors) -> None:
        self._names = encoder.names_
        self._clipper = FairClipper(model, NormCap(max_ratio=float("inf")), encoder=encoder)
        self._factors = factors

    def __call__(
        self, model: nn.Module, inputs: Tensor, targets: Tensor, groups: Tensor, loss_fn: RowLosses
    ) -> Tensor:
        """Fill ``.grad`` from one batch and return its mean loss."""
        with self._clipper.watch(groups):
            outputs = model(inputs)
            losses = loss_fn(outputs, targets)  # (B,)
            losses.mean().backward()
        parts = self._clipper.gradients_by_group()
        self._clipper.clip_grad_()  # which measures only
        parameters = list(self._clipper.parameters.items())
        total = torch.cat([p.grad.flatten() for _, p in parameters if p.grad is not None])
        gradients = torch.zeros(len(self._names), len(total))
        for k, name in enumerate(self._names):
            if name in parts:
                gradients[k] = torch.cat([parts[name][n].flatten() for n, _ in parameters])
        counts = torch.bincount(groups[groups >= 0], minlength=len(self._names))
        logits = outputs.detach().squeeze(1)
        factors = self._factors(
            Contributions(gradients, total, counts, logits, targets, losses.detach(), groups)
        )
        factors = factors if factors.ndim == 2 else factors[:, None]
        combined = total + ((factors - 1).float() * gradients).sum(0)
        for (_, p), part in zip(
            parameters, combined.split([p.numel() for _, p in parameters]), strict=True
        ):
            p.grad = part.view_as(p)
        return losses.detach().mean()
