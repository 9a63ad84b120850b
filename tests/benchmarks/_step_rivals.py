"""Arms of other libraries: TorchJD and Opacus. Shapes: B rows, K groups, P entries a parameter."""

from typing import Any

import torch
from opacus.grad_sample import GradSampleModule, GradSampleModuleFastGradientClipping
from opacus.validators import ModuleValidator
from torch import Tensor, nn
from torchjd.aggregation import GramianWeightedAggregator, UPGrad, Weighting
from torchjd.autojac import backward as accumulate_jacobian
from torchjd.autojac import jac_to_grad
from torchjd.linalg import PSDMatrix

from tests.benchmarks._step_arms import Backward, capped, group_losses, reference
from tests.benchmarks._step_models import Batch


class Cap(Weighting[PSDMatrix]):
    """The benchmark's cap as a TorchJD weighting: from the Gramian (K, K) to factors (K,)."""

    def __init__(self, reference: int) -> None:
        super().__init__()
        self.reference = reference

    def forward(self, gramian: Tensor, /) -> Tensor:
        """Return the factor of each group."""
        return capped(gramian.diagonal().sqrt(), self.reference)


def torchjd_cap(model: nn.Module, batch: Batch) -> Backward:
    """Make TorchJD's step with the same cap."""
    return _torchjd(model, batch, GramianWeightedAggregator(Cap(reference(batch))))


def torchjd_upgrad(model: nn.Module, batch: Batch) -> Backward:
    """Make TorchJD's step with UPGrad, another rule: it solves K quadratic programs a step."""
    return _torchjd(model, batch, UPGrad())


def _torchjd(model: nn.Module, batch: Batch, aggregator: GramianWeightedAggregator) -> Backward:
    parameters = list(model.parameters())
    rows = [batch.rows(group) for group in range(batch.n_groups)]
    # TorchJD's quicker way each time, and the one that needs less memory: all groups by vmap pays
    # on small models only, and no one matrix of all parameters pays everywhere.
    is_small = sum(p.numel() for p in parameters) < 100_000
    chunk_size = None if is_small and batch.n_groups > 2 else 1

    def backward() -> None:
        losses = group_losses(model, batch, rows)
        accumulate_jacobian(losses, inputs=parameters, parallel_chunk_size=chunk_size)
        jac_to_grad(parameters, aggregator, optimize_gramian_computation=True)

    return backward


def without_attention(model: nn.Module) -> nn.Module:
    """Replace what Opacus does not take by its own layers: MultiheadAttention."""
    fixed: nn.Module = ModuleValidator.fix(model)
    return fixed


def opacus_hooks(model: nn.Module, batch: Batch) -> Backward:
    """Make per-sample gradients by Opacus's hooks, then add them up by group."""
    wrapped = GradSampleModule(model, loss_reduction="sum")
    parameters: list[Any] = list(model.parameters())  # they carry grad_sample
    compared, is_member = reference(batch), _membership(batch)

    def backward() -> None:
        batch.losses(wrapped).mean().backward()
        sums = []  # (K, P) a parameter
        for parameter in parameters:
            rows = parameter.grad_sample.flatten(1)  # (B, P)
            sums.append(is_member.to(rows) @ rows)
            parameter.grad_sample = None
        norms = torch.stack([torch.linalg.vector_norm(s, dim=1) for s in sums]).norm(dim=0)
        factors = capped(norms, compared)
        for parameter, s in zip(parameters, sums, strict=True):
            parameter.grad = (factors @ s).view_as(parameter)

    return backward


def opacus_ghost(model: nn.Module, batch: Batch) -> Backward:
    """Make Opacus's ghost clipping: norms without gradients, then a second backward pass.

    It has the norm of each row's gradient and none of a group's. As near as it comes: a group's
    norm is taken to be the root of its rows' squares, as if their gradients were orthogonal, and
    the second pass weights each row's loss by its group's factor.
    """
    wrapped = GradSampleModuleFastGradientClipping(model, loss_reduction="sum")
    compared = reference(batch)
    is_member = _membership(batch).float()

    def backward() -> None:
        wrapped.enable_hooks()
        losses = batch.losses(wrapped)
        losses.mean().backward(retain_graph=True)
        squares = wrapped.get_norm_sample().float().square()  # (B,)
        factors = capped((is_member @ squares).sqrt(), compared)
        wrapped.zero_grad()
        wrapped.disable_hooks()
        (losses * (factors @ is_member)).mean().backward()

    return backward


def _membership(batch: Batch) -> Tensor:
    """Return whether each row is of each group, (K, B)."""
    return torch.stack([batch.groups == k for k in range(batch.n_groups)]).to(batch.inputs.device)
