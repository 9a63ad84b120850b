"""Every layer type of torch that holds parameters, with drawn options. Shapes: B rows, T steps."""

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, TypeVar

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from transformers.pytorch_utils import Conv1D

N_IDS = 7

T = TypeVar("T")


class Draw(Protocol):
    """How a case draws its options."""

    def __call__(self, strategy: st.SearchStrategy[T], /) -> T: ...


Made = tuple[nn.Module, tuple[Tensor, ...]]
"""A model whose output has its rows first, and its inputs, which have theirs first too."""

Make = Callable[[Draw, int], Made]
"""From options and B."""


def _option(draw: Draw, *values: Any) -> Any:
    return draw(st.sampled_from(values))


def _behind_linear(draw: Draw, layer: nn.Module, inputs: Tensor) -> Made:
    """Let gradients flow through the layer, or not."""
    width = inputs.shape[-1]
    model = nn.Sequential(nn.Linear(width, width), layer) if _option(draw, True, False) else layer
    return model, (inputs,)


# ------------------------------------------------------------------ products


def _linear(draw: Draw, n_rows: int) -> Made:
    shape = _option(draw, (4,), (3, 4), (2, 3, 4))
    layer = nn.Linear(4, 5, bias=_option(draw, True, False))
    return _behind_linear(draw, layer, torch.randn(n_rows, *shape))


def _conv1d(draw: Draw, n_rows: int) -> Made:
    shape = _option(draw, (4,), (3, 4), (2, 3, 4))
    return _behind_linear(draw, Conv1D(5, 4), torch.randn(n_rows, *shape))


class _Bilinear(nn.Module):
    def __init__(self, layer: nn.Bilinear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, inputs: Tensor) -> Tensor:
        output: Tensor = self.layer(inputs[..., :3], inputs[..., 3:])
        return output


def _bilinear(draw: Draw, n_rows: int) -> Made:
    shape = _option(draw, (7,), (2, 7))
    layer = nn.Bilinear(3, 4, 2, bias=_option(draw, True, False))
    return _behind_linear(draw, _Bilinear(layer), torch.randn(n_rows, *shape))


# ------------------------------------------------------------------ convolutions


def _conv(kind: Callable[..., nn.Module], n_dims: int) -> Make:
    def make(draw: Draw, n_rows: int) -> Made:
        same = _option(draw, False, False, True)
        layer = kind(
            4,
            6,
            (3, 1, 3)[:n_dims] if same else _option(draw, 1, 2, (3, 2, 1)[:n_dims]),
            stride=1 if same else _option(draw, 1, 2, (2, 1, 3)[:n_dims]),
            padding="same" if same else _option(draw, 0, 1, (1, 0, 1)[:n_dims], "valid"),
            dilation=_option(draw, 1, 2),
            groups=_option(draw, 1, 2),
            bias=_option(draw, True, False),
            padding_mode=_option(draw, "zeros", "zeros", "reflect", "replicate", "circular"),
        )
        return _behind_linear(draw, layer, torch.randn(n_rows, 4, *(6, 5, 7)[:n_dims]))

    return make


def _depthwise(draw: Draw, n_rows: int) -> Made:
    layer = nn.Conv2d(4, 8, 3, padding=1, groups=4)
    return _behind_linear(draw, layer, torch.randn(n_rows, 4, 5, 6))


def _conv_transpose(kind: Callable[..., nn.Module], n_dims: int) -> Make:
    def make(draw: Draw, n_rows: int) -> Made:
        stride = _option(draw, 1, 2, (2, 1, 3)[:n_dims])
        layer = kind(
            4,
            6,
            _option(draw, 2, (3, 2, 2)[:n_dims]),
            stride=stride,
            padding=_option(draw, 0, 1),
            output_padding=1 if stride == 2 and _option(draw, True, False) else 0,
            groups=_option(draw, 1, 2),
            bias=_option(draw, True, False),
            dilation=_option(draw, 1, 2),
        )
        return _behind_linear(draw, layer, torch.randn(n_rows, 4, *(3, 4, 5)[:n_dims]))

    return make


# ------------------------------------------------------------------ tables


def _embedding(draw: Draw, n_rows: int) -> Made:
    layer = nn.Embedding(
        N_IDS,
        3,
        padding_idx=_option(draw, None, 0, -1),
        max_norm=_option(draw, None, 1.0),
        scale_grad_by_freq=_option(draw, False, False, True),
    )
    return layer, (torch.randint(N_IDS, (n_rows, *_option(draw, (), (3,), (2, 3)))),)


class _Bags(nn.Module):
    def __init__(self, layer: nn.EmbeddingBag, *, offsets: bool) -> None:
        super().__init__()
        self.layer = layer
        self.offsets = offsets

    def forward(self, ids: Tensor, weights: Tensor | None = None) -> Tensor:
        if not self.offsets:
            by_row: Tensor = self.layer(ids, per_sample_weights=weights)
            return by_row
        n_rows, length = ids.shape
        starts = torch.arange(0, (n_rows + self.layer.include_last_offset) * length, length)
        weights = None if weights is None else weights.flatten()
        output: Tensor = self.layer(ids.flatten(), starts, weights)
        return output


def _embedding_bag(draw: Draw, n_rows: int) -> Made:
    mode = _option(draw, "sum", "mean", "max")
    offsets = _option(draw, False, True)
    layer = nn.EmbeddingBag(
        N_IDS,
        3,
        mode=mode,
        padding_idx=_option(draw, None, 0, -1),
        scale_grad_by_freq=mode != "max" and _option(draw, False, False, True),
        include_last_offset=offsets and _option(draw, False, True),
    )
    ids = torch.randint(N_IDS, (n_rows, 4))
    weighted = mode == "sum" and not layer.scale_grad_by_freq and _option(draw, False, True)
    inputs = (ids, torch.rand(n_rows, 4)) if weighted else (ids,)
    return (_Bags(layer, offsets=offsets) if offsets or weighted else layer), inputs


# ------------------------------------------------------------------ normalisations


def _layer_norm(draw: Draw, n_rows: int) -> Made:
    inputs = torch.randn(n_rows, 2, 3, 4)
    shape = _option(draw, (4,), (3, 4), (2, 3, 4))
    return _behind_linear(draw, nn.LayerNorm(shape, bias=_option(draw, True, False)), inputs)


def _rms_norm(draw: Draw, n_rows: int) -> Made:
    inputs = torch.randn(n_rows, 2, 3, 4)
    shape = _option(draw, (4,), (3, 4), (2, 3, 4))
    return _behind_linear(draw, nn.RMSNorm(shape, eps=_option(draw, None, 0.1)), inputs)


def _group_norm(draw: Draw, n_rows: int) -> Made:
    inputs = torch.randn(n_rows, 4, *_option(draw, (3,), (2, 3), (2, 1, 3)))
    return _behind_linear(draw, nn.GroupNorm(_option(draw, 1, 2), 4), inputs)


def _instance_norm(
    kind: type[nn.InstanceNorm1d | nn.InstanceNorm2d | nn.InstanceNorm3d], n_dims: int
) -> Make:
    def make(draw: Draw, n_rows: int) -> Made:
        layer = kind(3, affine=True, track_running_stats=_option(draw, False, True))
        layer.train(_option(draw, True, False))
        return _behind_linear(draw, layer, torch.randn(n_rows, 3, *(4, 2, 3)[:n_dims]))

    return make


def _batch_norm(kind: type[nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d], n_dims: int) -> Make:
    """In evaluation: for training see `batch_norm_alone`."""

    def make(draw: Draw, n_rows: int) -> Made:
        layer = kind(3)
        layer(torch.randn(8, 3, *(4, 2, 3)[:n_dims]))  # running statistics that are not 0 and 1
        layer.eval()
        flat = n_dims == 1 and _option(draw, True, False)
        inputs = torch.randn(n_rows, 3, *(() if flat else (4, 2, 3)[:n_dims]))
        return _behind_linear(draw, layer, inputs)

    return make


def _prelu(draw: Draw, n_rows: int) -> Made:
    inputs = torch.randn(n_rows, 4, *_option(draw, (), (3,), (2, 3)))
    return _behind_linear(draw, nn.PReLU(_option(draw, 1, 4)), inputs)


# ------------------------------------------------------------------ recurrent


class _Recurrent(nn.Module):
    """Returns the outputs of all steps, or what it remembers after the last."""

    def __init__(self, layer: nn.RNNBase, *, packed: bool, state: bool) -> None:
        super().__init__()
        self.layer = layer
        self.packed = packed
        self.state = state

    def forward(self, inputs: Tensor, lengths: Tensor) -> Tensor:
        rows, steps = (0, 1) if self.layer.batch_first else (1, 0)
        steps_in = inputs if self.layer.batch_first else inputs.transpose(0, 1)
        if self.packed:
            packed = pack_padded_sequence(
                steps_in, lengths, self.layer.batch_first, enforce_sorted=False
            )
            outputs, state = self.layer(packed)
            outputs, _ = pad_packed_sequence(
                outputs, self.layer.batch_first, total_length=inputs.shape[1]
            )
        else:
            outputs, state = self.layer(steps_in)
        if self.state:
            state = torch.cat(state, 2) if isinstance(state, tuple) else state
            return state.movedim(1, 0)
        return torch.movedim(outputs, (rows, steps), (0, 1))


def _recurrent(kind: type[nn.LSTM | nn.GRU | nn.RNN]) -> Make:
    def make(draw: Draw, n_rows: int) -> Made:
        projected = {"proj_size": 2} if kind is nn.LSTM and _option(draw, False, True) else {}
        n_layers = _option(draw, 1, 2)
        layer = kind(
            3,
            4,
            n_layers,
            bias=_option(draw, True, False),
            batch_first=_option(draw, True, False),
            dropout=0.0 if n_layers == 1 else _option(draw, 0.0, 0.3),
            bidirectional=_option(draw, False, True),
            **projected,
        )
        lengths = torch.tensor(draw(st.lists(st.integers(1, 4), min_size=n_rows, max_size=n_rows)))
        model = _Recurrent(
            layer, packed=_option(draw, False, True), state=_option(draw, False, True)
        )
        return model, (torch.randn(n_rows, 4, 3), lengths)

    return make


class _Stepped(nn.Module):
    """A cell that is called once a step."""

    def __init__(self, cell: nn.RNNCellBase) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, inputs: Tensor) -> Tensor:
        state = None
        outputs = []
        for step in inputs.unbind(1):
            state = self.cell(step, state)
            outputs.append(state[0] if isinstance(state, tuple) else state)
        return torch.stack(outputs, 1)


def _cell(kind: type[nn.LSTMCell | nn.GRUCell | nn.RNNCell]) -> Make:
    def make(draw: Draw, n_rows: int) -> Made:
        layer = _Stepped(kind(3, 4, bias=_option(draw, True, False)))
        return _behind_linear(draw, layer, torch.randn(n_rows, _option(draw, 1, 3), 3))

    return make


# ------------------------------------------------------------------ attention


class _Attention(nn.Module):
    """Self or cross attention; masks by position and by row; may return its weights too."""

    def __init__(self, layer: nn.MultiheadAttention, mask: str, **options: bool) -> None:
        super().__init__()
        self.layer = layer
        self.mask = mask
        self.uses_weights = options.pop("uses_weights")
        self.options = options

    def forward(
        self, query: Tensor, key: Tensor | None = None, value: Tensor | None = None
    ) -> Tensor:
        given = [t for t in (query, key, value) if t is not None]
        if not self.layer.batch_first:
            given = [t.transpose(0, 1) for t in given]
        query, key, value = (given * 3)[:3] if len(given) == 1 else (*given, given[1])[:3]
        masks = self.masks(query, key)
        outputs, weights = self.layer(query, key, value, **masks, **self.options)
        outputs = outputs if self.layer.batch_first else outputs.transpose(0, 1)
        if self.uses_weights and weights is not None:
            outputs = torch.cat([outputs.flatten(1), 10 * weights.flatten(1)], 1)
        result: Tensor = outputs
        return result

    def masks(self, query: Tensor, key: Tensor) -> dict[str, Tensor | bool]:
        rows, steps = (0, 1) if self.layer.batch_first else (1, 0)
        n_queries, n_keys = query.shape[steps], key.shape[steps]
        causal = torch.ones(n_queries, n_keys, dtype=torch.bool).triu(1)
        hidden = (key.movedim(rows, 0)[..., 0] > 0.5) & (torch.arange(n_keys) > 0)  # (B, S)
        if self.mask == "causal":
            return {"attn_mask": causal, "is_causal": n_queries == n_keys}
        if self.mask == "additive":
            return {"attn_mask": torch.zeros(n_queries, n_keys).to(query).masked_fill(causal, -2)}
        if self.mask == "padding":
            return {"key_padding_mask": hidden}
        if self.mask == "both":
            return {"attn_mask": causal, "key_padding_mask": hidden}
        if self.mask == "by_head":
            heads = self.layer.num_heads
            by_row = hidden[:, None, None, :].expand(-1, heads, n_queries, -1)
            return {"attn_mask": by_row.flatten(0, 1)}
        return {}


def _attention(draw: Draw, n_rows: int, *, n_inputs: int, kdim: int = 4, vdim: int = 4) -> Made:
    uses_weights = _option(draw, False, True)
    layer = nn.MultiheadAttention(
        4,
        _option(draw, 1, 2),
        dropout=_option(draw, 0.0, 0.3),
        bias=_option(draw, True, False),
        add_bias_kv=_option(draw, False, False, True),
        add_zero_attn=_option(draw, False, False, True),
        kdim=kdim,
        vdim=vdim,
        batch_first=_option(draw, True, False),
    )
    layer.train(_option(draw, True, False))
    model = _Attention(
        layer,
        _option(draw, "none", "causal", "additive", "padding", "both", "by_head"),
        need_weights=uses_weights or _option(draw, True, False),
        average_attn_weights=_option(draw, True, False),
        uses_weights=uses_weights,
    )
    query = torch.randn(n_rows, 3, 4)
    if n_inputs == 1:
        return _behind_linear(draw, model, query)
    if n_inputs == 2:
        return model, (query, torch.randn(n_rows, 5, 4))
    return model, (query, torch.randn(n_rows, 5, kdim), torch.randn(n_rows, 5, vdim))


class _Encoder(nn.Module):
    def __init__(self, layers: nn.Module, mask: str, *, batch_first: bool) -> None:
        super().__init__()
        self.layers = layers
        self.mask = mask
        self.batch_first = batch_first

    def forward(self, inputs: Tensor) -> Tensor:
        length = inputs.shape[1]
        masks: dict[str, Tensor | bool] = {}
        by_layer = "src_mask" if isinstance(self.layers, nn.TransformerEncoderLayer) else "mask"
        if self.mask in ("causal", "both"):
            masks[by_layer] = torch.ones(length, length, dtype=torch.bool).triu(1)
            masks["is_causal"] = self.mask == "causal"
        if self.mask in ("padding", "both"):
            masks["src_key_padding_mask"] = (inputs[..., 0] > 0.5) & (torch.arange(length) > 0)
        outputs: Tensor = self.layers(
            inputs if self.batch_first else inputs.transpose(0, 1), **masks
        )
        return outputs if self.batch_first else outputs.transpose(0, 1)


def _encoder(*, stacked: bool) -> Make:
    def make(draw: Draw, n_rows: int) -> Made:
        batch_first = _option(draw, True, False)
        layer = nn.TransformerEncoderLayer(
            4,
            2,
            dim_feedforward=6,
            dropout=_option(draw, 0.0, 0.2),
            activation=_option(draw, "relu", "gelu"),
            batch_first=batch_first,
            norm_first=_option(draw, False, True),
            bias=_option(draw, True, False),
        )
        layers: nn.Module = layer
        if stacked:
            norm = _option(draw, None, nn.LayerNorm(4))
            layers = nn.TransformerEncoder(layer, 2, norm=norm, enable_nested_tensor=False)
        layers.train(_option(draw, True, False))
        mask = _option(draw, "none", "causal", "padding", "both")
        model = _Encoder(layers, mask, batch_first=batch_first)
        return _behind_linear(draw, model, torch.randn(n_rows, 3, 4))

    return make


CASES: dict[str, Make] = {
    "Linear": _linear,
    "Conv1D_of_transformers": _conv1d,
    "Bilinear": _bilinear,
    "Conv1d": _conv(nn.Conv1d, 1),
    "Conv2d": _conv(nn.Conv2d, 2),
    "Conv3d": _conv(nn.Conv3d, 3),
    "Conv2d_depthwise": _depthwise,
    "ConvTranspose1d": _conv_transpose(nn.ConvTranspose1d, 1),
    "ConvTranspose2d": _conv_transpose(nn.ConvTranspose2d, 2),
    "ConvTranspose3d": _conv_transpose(nn.ConvTranspose3d, 3),
    "Embedding": _embedding,
    "EmbeddingBag": _embedding_bag,
    "LayerNorm": _layer_norm,
    "RMSNorm": _rms_norm,
    "GroupNorm": _group_norm,
    "InstanceNorm1d": _instance_norm(nn.InstanceNorm1d, 1),
    "InstanceNorm2d": _instance_norm(nn.InstanceNorm2d, 2),
    "InstanceNorm3d": _instance_norm(nn.InstanceNorm3d, 3),
    "BatchNorm1d": _batch_norm(nn.BatchNorm1d, 1),
    "BatchNorm2d": _batch_norm(nn.BatchNorm2d, 2),
    "BatchNorm3d": _batch_norm(nn.BatchNorm3d, 3),
    "PReLU": _prelu,
    "LSTM": _recurrent(nn.LSTM),
    "GRU": _recurrent(nn.GRU),
    "RNN": _recurrent(nn.RNN),
    "LSTMCell": _cell(nn.LSTMCell),
    "GRUCell": _cell(nn.GRUCell),
    "RNNCell": _cell(nn.RNNCell),
    "MultiheadAttention": partial(_attention, n_inputs=1),
    "MultiheadAttention_of_memory": partial(_attention, n_inputs=2),
    "MultiheadAttention_of_three": partial(_attention, n_inputs=3),
    "MultiheadAttention_of_widths": partial(_attention, n_inputs=3, kdim=3, vdim=5),
    "TransformerEncoderLayer": _encoder(stacked=False),
    "TransformerEncoder": _encoder(stacked=True),
}
