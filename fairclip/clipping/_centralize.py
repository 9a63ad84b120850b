"""Take the mean out of the gradient of every unit. Shapes: n gradients in a piece, R units."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fairclip.clipping._gradients import Gradients, local, locate_nonfinite, norms, plain, total
from fairclip.clipping._mode import Mode, Parameters
from fairclip.clipping._record import ClipRecord
from fairclip.clipping._units import fan_in, own, pieces, rows, write_back


@dataclass(frozen=True, slots=True)
class Centralize(Mode):
    r"""Subtract the mean over the fan-in from the gradient of every unit.

    .. math:: g_i \leftarrow g_i - \frac{1}{n} \sum_{j=1}^{n} g_{ij}

    A unit is what feeds one output: a row of a matrix, a filter of a convolution, in general an
    index of dimension 0. Vectors and scalars are left alone. This is a projection: no gradient gets
    longer. Where the fan-in is 1 nothing remains of a gradient, and its weights no longer learn. A
    NaN makes its unit NaN; an inf becomes NaN and the others in its unit an inf of the opposite
    sign. float16 and bfloat16 are computed in float32. Nothing waits for the device.

    Shape:
        - ``parameters``: tensors, or (name, tensor) pairs.

    Returns:
        A :class:`ClipRecord`: 2-norms of all gradients together, and as ``share_clipped`` the share
        of tensors with more than one dimension in which a mean was not 0. ``threshold`` is NaN.

    Raises:
        TypeError: If a gradient is sparse.

    Source:
        Yong, H., Huang, J., Hua, X. and Zhang, L. (2020). Gradient centralization: a new
        optimization technique for deep neural networks, equation 1,
        https://arxiv.org/abs/2004.01461.

    Example:
        >>> import torch
        >>> from fairclip.clipping import Centralize
        >>> weight = torch.zeros(2, 2)
        >>> weight.grad = torch.tensor([[1.0, 3.0], [2.0, 2.0]])
        >>> record = Centralize()([weight])
        >>> weight.grad
        tensor([[-1.,  1.],
                [ 0.,  0.]])
    """

    @torch.no_grad()
    def __call__(
        self,
        parameters: Parameters,
        state: Any = None,  # noqa: ARG002  nothing to remember
    ) -> ClipRecord:
        """Centralize every ``.grad`` in place."""
        found = Gradients.of(parameters, dense_only="Centralize")
        device = found.values[0].device if found.values else None
        units = [value for value in found.values if value.ndim > 1]
        others = norms([value for value in found.values if value.ndim <= 1], 2.0)
        rest = total(others.to(device, torch.float64), 2.0)
        measured = [torch.stack([rest, rest, torch.zeros_like(rest)])]
        for piece in pieces(units):
            values = [units[place] for place in piece]
            gradient = rows(values)
            numbers = _centralize_(gradient, len(values))
            write_back(gradient, values)
            measured.append(numbers.to(device, torch.float64))
        befores, afters, n_changed = torch.stack(measured).unbind(1)
        before, after = total(befores, 2.0), total(afters, 2.0)
        return ClipRecord(
            name="Centralize",
            norm_before=before,
            norm_after=after,
            threshold=before.new_full((), math.nan),
            share_clipped=n_changed.sum() / max(len(units), 1),
            cosine=after / before,  # of a projection
            first_nonfinite=locate_nonfinite(before, found.values),
            parameters=found.labels(),
        )


def _centralize_(units: Tensor, n_tensors: int) -> Tensor:
    """Take out the means; return the norms before and after and how many tensors had any, (3,)."""
    dtype = torch.float32 if units.dtype.itemsize < 4 else units.dtype
    before = torch.linalg.vector_norm(units, dtype=dtype)
    mean = units.mean(dim=fan_in(units), keepdim=True, dtype=dtype)  # (R, 1), or with more 1s
    local([units])[0].sub_(own(mean, units))
    after = torch.linalg.vector_norm(units, dtype=dtype)
    n_changed = plain(mean).reshape(n_tensors, -1).any(1).sum(dtype=dtype)
    return torch.stack([plain(before), plain(after), n_changed])
