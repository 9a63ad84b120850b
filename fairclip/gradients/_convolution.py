"""Group sums of convolutions' gradients. Shapes: M rows sorted by S slots, C channels, L positions.

Three ways to the same sums, of which the shapes choose one. As measured on a CPU with one thread, a
call of `convolution_backward` takes 45 us and 2 ns a weight at the least.
"""

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils.rnn import pad_sequence

from fairclip.gradients._outer import Outer
from fairclip.gradients._rows import Slots

_FEW_PRODUCTS = 2**20
"""Multiply-adds of a slot, below which slots share a call: 1.4 times slower where there are more,
8 times faster where there are few."""


def convolution(
    module: nn.Module, inputs: Tensor, grads: Tensor, slots: Slots
) -> dict[str, Tensor] | Outer:
    """Return what the rows of each slot caused; a rule as those in ``_rules.py``."""
    assert isinstance(module, _ConvNd)
    inputs, padding = _padded(module, inputs.to(grads.dtype))
    rows, d = slots.gather(inputs), slots.gather(grads)
    bias = "bias" if module.bias is not None and module.bias.requires_grad else None
    n_slots, n_weights = len(slots.sizes), module.weight.numel()
    sums = {}
    if module.weight.requires_grad:
        if isinstance(module, nn.Conv2d) and _has_few_patches(module, d, n_slots):
            patches, d = _patches(module, rows, padding), _positions(d)
            return Outer(patches, d, "weight", bias, tuple(module.weight.shape))
        positions = (rows if isinstance(module, _ConvTransposeNd) else d)[0, 0].numel()
        n_products = len(rows) // len(slots.index) * max(slots.sizes) * positions * n_weights
        pieces = slots.split_gathered(rows), slots.split_gathered(d)
        if n_slots > 1 and n_products < _FEW_PRODUCTS:
            # Slots beside each other, as groups of channels; short ones are filled up with zeros.
            x, d_by_slot = [pad_sequence(list(piece)).flatten(1, 2) for piece in pieces]
            by_slot = _backward(module, x, d_by_slot, padding, n_slots)
            sums["weight"] = by_slot.view(n_slots, *module.weight.shape)
        else:
            by_piece = zip(*pieces, strict=True)
            sums["weight"] = torch.stack([_backward(module, *x_d, padding, 1) for x_d in by_piece])
    if bias:
        sums[bias] = slots.sums(d.flatten(2).sum(2))
    return sums


def _padded(module: _ConvNd, inputs: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """Return the inputs and how many zeros are to be added on each side of them."""
    if not isinstance(module.padding, str) and module.padding_mode == "zeros":
        return inputs, module.padding
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    padded = F.pad(inputs, module._reversed_padding_repeated_twice, mode)
    return padded, (0,) * len(module.kernel_size)


def _backward(
    module: _ConvNd, inputs: Tensor, grads: Tensor, padding: tuple[int, ...], n_slots: int
) -> Tensor:
    """Return the gradient of the weights of that many convolutions side by side."""
    shape = n_slots * module.weight.shape[0], *module.weight.shape[1:]
    gradient: Tensor = torch.ops.aten.convolution_backward(
        grads,
        inputs,
        grads.new_zeros(()).expand(shape),  # of which nothing but the shape is used
        None,
        list(module.stride),
        padding,
        list(module.dilation),
        isinstance(module, _ConvTransposeNd),
        list(module.output_padding),
        n_slots * module.groups,
        [False, True, False],
    )[1]
    return gradient


def _has_few_patches(module: nn.Conv2d, grads: Tensor, n_slots: int) -> bool:
    """Say whether a matrix product over copied patches costs less, at 4 ns an entry."""
    n_weights = module.weight.numel()
    n_entries = grads.numel() // module.out_channels * (n_weights // module.out_channels)
    return module.groups == 1 and n_entries < n_slots * (10_000 + n_weights // 2)


def _patches(module: nn.Conv2d, inputs: Tensor, padding: tuple[int, ...]) -> Tensor:
    """Return what the weights meet at each position, (M * L, C * kernel)."""
    patches = F.unfold(inputs, module.kernel_size, module.dilation, padding, module.stride)
    return patches.transpose(1, 2).flatten(0, 1)


def _positions(grads: Tensor) -> Tensor:
    return grads.flatten(2).transpose(1, 2).flatten(0, 1)
