"""Every layer type of torch against one backward pass a group, over drawn options and codes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.checkpoint import checkpoint

from fairclip.exceptions import FairclipWarning
from fairclip.gradients import GradientEngine, GroupGradients, _convolution, _measure
from fairclip.gradients._lookup import Lookup
from fairclip.gradients._outer import Outer
from fairclip.gradients._rows import BatchRows
from tests.gradients._exactness import K, assert_exact, assert_next_step
from tests.gradients._inputs import CODES
from tests.gradients._layer_cases import CASES, Made
from tests.gradients._oracle import assert_adds_up

TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-9}
BATCH_NORMS = [(nn.BatchNorm1d, (4,)), (nn.BatchNorm2d, (2, 3)), (nn.BatchNorm3d, (2, 1, 3))]


def row_losses(model: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    dtype = next(model.parameters()).dtype
    outputs = model(*[x.to(dtype) if x.is_floating_point() else x for x in inputs]).flatten(1)
    targets = torch.arange(outputs.shape[1]).cos().to(outputs.dtype)
    losses: Tensor = (outputs - targets).square().mean(1)
    return losses


def draw_codes(data: st.DataObject, n_rows: int) -> Tensor:
    code = st.integers(-1, K - 1)
    several = st.lists(code, min_size=n_rows, max_size=n_rows)
    alone = code.map(lambda k: [k] * n_rows)
    return torch.tensor(data.draw(st.one_of(several, several, alone), label="codes"))


def watched(
    engine: GradientEngine, model: nn.Module, inputs: tuple[Tensor, ...], codes: Tensor
) -> GroupGradients:
    model.zero_grad()
    with engine.watch(codes):
        row_losses(model, inputs).mean().backward()
    return engine.collect()


def assert_made_is_exact(
    made: Made, codes: list[Tensor], dtype: torch.dtype = torch.float64
) -> list[str]:
    """Compare a step for each of the codes; the first learns and checks."""
    model, inputs = made
    # A size that is B by chance fits in two ways, which is refused.
    batch_dim = 0 if any(len(codes[0]) in x.shape[1:] for x in inputs) else None
    return assert_exact(
        model.to(dtype),
        lambda model, _: row_losses(model, inputs),
        codes,
        tolerance=TOLERANCES[dtype],
        batch_dim=batch_dim,
    )


def assert_case_is_exact(name: str, dtype: torch.dtype, data: st.DataObject) -> None:
    n_rows = data.draw(st.integers(1, 7), label="B")
    torch.manual_seed(data.draw(st.integers(0, 99), label="seed"))
    made = CASES[name](data.draw, n_rows)
    assert not assert_made_is_exact(made, [draw_codes(data, n_rows) for _ in range(2)], dtype)


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_a_layer_type_agrees_with_one_backward_pass_a_group(name: str, dtype: torch.dtype) -> None:
    # The algebra is compared in float64; float32 needs to show its precision only.
    @settings(derandomize=True, deadline=None, max_examples=20 if dtype == torch.float64 else 5)
    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        assert_case_is_exact(name, dtype, data)

    check()


# Rows are kept where that costs less, which with so few weights it never does.
@pytest.mark.parametrize(
    "name", ["Linear", "Conv2d", "Embedding", "EmbeddingBag", "MultiheadAttention"]
)
def test_rows_that_are_kept_agree_as_well(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (Outer, Lookup):
        monkeypatch.setattr(kind, "is_worth_keeping", lambda outer, _: outer.weight is not None)

    @settings(derandomize=True, deadline=None, max_examples=20)
    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        assert_case_is_exact(name, torch.float64, data)

    check()


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv1d(4, 6, 3, padding=1),
        nn.Conv2d(4, 6, 3, stride=2),
        nn.Conv2d(4, 6, 3, groups=2, padding="same", padding_mode="circular", dilation=2),
        nn.Conv3d(4, 6, 2),
        nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=1, groups=2),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_the_ways_to_a_convolution_s_sums_agree(
    layer: _ConvNd, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    layer.double()
    n_dims = layer.weight.ndim - 2
    slots = BatchRows.from_codes(torch.tensor([0, 2, 1, 1, -1, 1, 0]), 3).slots(
        [0, 1, 2], torch.device("cpu")
    )
    inputs = torch.randn(7, 4, *(5, 6, 4)[:n_dims], dtype=torch.float64)
    grads = torch.randn_like(layer(inputs)).detach()
    found = []
    for few_products, few_patches in ((0, False), (2**60, False), (0, True)):
        monkeypatch.setattr(_convolution, "_FEW_PRODUCTS", few_products)
        if not (few_patches and type(layer) is nn.Conv2d and layer.groups == 1):
            monkeypatch.setattr(_convolution, "_has_few_patches", lambda *_: False)
        sums = _convolution.convolution(layer, inputs, grads, slots)
        found.append(sums.sums(slots) if isinstance(sums, Outer) else sums)
        monkeypatch.undo()
    assert isinstance(sums, Outer) == (type(layer) is nn.Conv2d and layer.groups == 1)
    for name in ("weight", "bias"):
        for other in found[1:]:
            torch.testing.assert_close(other[name], found[0][name], rtol=0, atol=1e-12)


# ------------------------------------------------------------------ attention


class SelfAttention(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True, **options)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.attention(inputs, inputs, inputs)[0]
        return outputs


class OnlyWeights(SelfAttention):
    """No gradient reaches the output, and so neither the values nor the output's projection."""

    def forward(self, inputs: Tensor) -> Tensor:
        weights: Tensor = self.attention(inputs, inputs[:, :2], inputs[:, 1:3])[1]
        return weights


class CheckpointedAttention(SelfAttention):
    n_runs = 0

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = checkpoint(self.attend, inputs, use_reentrant=False)
        return outputs

    def attend(self, inputs: Tensor) -> Tensor:
        self.n_runs += 1
        return super().forward(inputs)


class Windows(SelfAttention):
    """Attention inside of windows: each row is several rows of its batch."""

    def forward(self, inputs: Tensor) -> Tensor:
        windows = inputs.reshape(-1, 2, 4)
        return super().forward(windows).reshape(inputs.shape)


def partly_frozen() -> nn.Module:
    model = SelfAttention()
    model.attention.in_proj_weight.requires_grad_(False)
    return model


def lent_projection() -> nn.Module:
    """The output's projection is called as a module too."""

    class Lent(SelfAttention):
        def forward(self, inputs: Tensor) -> Tensor:
            outputs: Tensor = self.attention.out_proj(super().forward(inputs).tanh())
            return outputs

    return Lent()


@pytest.mark.parametrize(
    "build",
    [OnlyWeights, CheckpointedAttention, Windows, partly_frozen, lent_projection],
    ids=lambda build: build.__name__,
)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_an_attention_that_is_used_otherwise(build: Any, dropout: float) -> None:
    torch.manual_seed(0)
    model = build()
    model.attention.dropout = dropout
    messages = assert_made_is_exact((model, (torch.randn(6, 4, 4),)), CODES)
    is_lent = build is lent_projection
    assert ["used outside of the forward pass" in message for message in messages] == [
        True
    ] * is_lent


def test_a_checkpointed_attention_is_recomputed_once() -> None:
    checkpointed = CheckpointedAttention()
    model = nn.Sequential(nn.Linear(4, 4), checkpointed)
    engine = GradientEngine(model, K)
    for codes in CODES:
        checkpointed.n_runs = 0
        watched(engine, model, (torch.randn(6, 3, 4),), codes)
    assert checkpointed.n_runs == 2


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_a_transformer_is_never_run_again(
    autocast: bool, batch_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerDecoderLayer(4, 2, 8, dropout=0.3, batch_first=batch_first)
    model = nn.TransformerDecoder(layer, 2)
    shapes = [(6, 4, 4), (6, 5, 4)] if batch_first else [(4, 6, 4), (5, 6, 4)]
    inputs = tuple(torch.randn(shape) for shape in shapes)
    engine = GradientEngine(model, K)
    monkeypatch.delattr(_measure, "rerun")
    for codes in CODES:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            found = watched(engine, model, inputs, codes)
        # Every group computed on its own, the first step has compared their sum with `.grad`.
        assert np.isfinite(np.asarray(found.gramian())).all()


# ------------------------------------------------------------------ batch statistics


@pytest.mark.parametrize(("kind", "sizes"), BATCH_NORMS)
def test_batch_norm_in_training_splits_its_own_parameters_exactly(
    kind: type[nn.BatchNorm2d], sizes: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    (message,) = assert_made_is_exact((kind(3), (torch.randn(6, 3, *sizes),)), CODES)
    assert "batch statistics" in message


def behind_a_linear(kind: type[nn.BatchNorm2d], sizes: tuple[int, ...]) -> Made:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(sizes[-1], 3), kind(3), nn.Linear(3, 2)).double()
    return model, (torch.randn(6, 3, *sizes),)


@pytest.mark.parametrize(("kind", "sizes"), BATCH_NORMS)
def test_batch_norm_in_training_is_exact_from_losses(
    kind: type[nn.BatchNorm2d], sizes: tuple[int, ...]
) -> None:
    model, inputs = behind_a_linear(kind, sizes)
    engine = GradientEngine(model, K)
    assert_next_step(engine, model, lambda m, _: row_losses(m, inputs), CODES[0], how="backward")


@pytest.mark.parametrize(("kind", "sizes"), BATCH_NORMS)
def test_batch_norm_in_training_adds_up_before_it(
    kind: type[nn.BatchNorm2d], sizes: tuple[int, ...]
) -> None:
    model, inputs = behind_a_linear(kind, sizes)
    codes = torch.tensor([0, 2, 1, 1, 3, -1])
    with pytest.warns(FairclipWarning, match="batch statistics"):
        assert_adds_up(model, lambda: row_losses(model, inputs), codes, 1e-9)


@pytest.mark.parametrize("affine", [True, False])
def test_batch_statistics_are_named_with_and_without_weights(affine: bool) -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, affine=affine))
    engine = GradientEngine(model, K)
    with pytest.warns(FairclipWarning, match="'1' normalises by batch statistics"):
        watched(engine, model, (torch.randn(6, 4),), CODES[0])


# ------------------------------------------------------------------ what cannot be told apart


@pytest.mark.filterwarnings("ignore:.*batch statistics:fairclip.FairclipWarning")
def test_batch_statistics_without_running_ones_are_refused() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3, track_running_stats=False))
    engine = GradientEngine(model, K)
    with pytest.raises(RuntimeError, match=r"the model.*clipper\.backward\(losses, groups\)"):
        watched(engine, model, (torch.randn(6, 3),), CODES[0])


def test_bags_of_several_sizes_in_a_row_are_refused() -> None:
    model = nn.EmbeddingBag(7, 3)
    engine = GradientEngine(model, K)
    ids, starts = torch.randint(7, (14,)), torch.tensor([0, 2, 3, 7, 9, 12])
    with pytest.raises(RuntimeError, match=r"the model.*clipper\.backward\(losses, groups\)"):
        watched(engine, model, (ids, starts), CODES[0])


def test_a_packed_sequence_as_the_model_s_input_is_refused() -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.GRU(3, 4)

        def forward(self, inputs: Any) -> Tensor:
            last: Tensor = self.layer(inputs)[1][0]
            return last

    model = Last()
    engine = GradientEngine(model, K)
    packed = pack_padded_sequence(torch.randn(5, 6, 3), torch.tensor([5, 4, 4, 2, 1, 1]))
    no_rows = "no input of the model has that many rows"
    with pytest.raises(ValueError, match=no_rows), engine.watch(CODES[0]):
        model(packed).square().mean().backward()


def test_a_packed_sequence_as_the_model_s_output_is_refused() -> None:
    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.GRU(3, 4, batch_first=True)

        def forward(self, inputs: Tensor, lengths: Tensor) -> Any:
            packed = pack_padded_sequence(inputs, lengths, batch_first=True)
            return self.layer(packed)[0]

    model = Packed()
    engine = GradientEngine(model, K)
    lengths = torch.tensor([5, 4, 4, 2, 1, 1])
    with pytest.raises(RuntimeError, match="padded if they are packed"), engine.watch(CODES[0]):
        model(torch.randn(6, 5, 3), lengths).data.square().mean().backward()
