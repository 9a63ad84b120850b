"""Codes by token, (B, T): each is a row where none sees another. Shapes: B rows, T tokens."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from fairclip import FairClipper, NormCap
from fairclip.gradients import GradientEngine
from tests.gradients._exactness import K, Losses, assert_exact, assert_next_step, seeded
from tests.gradients._inputs import N_CLASSES, N_TOKENS, W
from tests.gradients._oracle import norm
from tests.gradients._wrappers import Checkpointed


class Scale(nn.Module):
    """A parameter that only a re-run can serve."""

    def __init__(self, width: int = W) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(width) + 0.5)

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * self.scale


class Flattened(nn.Module):
    """Puts all tokens side by side on the way, and returns a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(W, 6)
        self.scale = Scale(6)
        self.head = nn.Linear(6, N_CLASSES)

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        hidden = self.scale(torch.relu(self.first(inputs.flatten(0, 1))))
        return {"logits": self.head(hidden).unflatten(0, inputs.shape[:2])}


class Bigram(nn.Module):
    """Predicts a token from the one before, with one table for both."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(N_TOKENS, W, padding_idx=0)
        self.hidden = nn.Linear(W, W)
        self.table_again = nn.Linear(W, N_TOKENS, bias=False)
        self.table_again.weight = self.table.weight

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.table_again(torch.tanh(self.hidden(self.table(ids))))
        return logits


ALONE: dict[str, Callable[[], nn.Module]] = {
    "mlp": lambda: nn.Sequential(
        nn.Linear(W, 6), nn.LayerNorm(6), nn.ReLU(inplace=True), nn.Linear(6, N_CLASSES)
    ),
    "bigram": Bigram,
    "scale": lambda: nn.Sequential(Scale(), nn.Tanh(), nn.Linear(W, N_CLASSES)),
    "dropout": lambda: nn.Sequential(nn.Dropout(0.3), Scale(), nn.Linear(W, N_CLASSES)),
    "flattened": Flattened,
    "weight_norm": lambda: nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Linear(W, 6)), nn.Tanh(), nn.Linear(6, N_CLASSES)
    ),
    "checkpointed": partial(Checkpointed, "function"),
}


def token_losses(name: str, shapes: list[tuple[int, int]]) -> Losses:
    """Return losses (B, T) of inputs that are drawn by the step's number."""

    def losses(model: nn.Module, step: int) -> Tensor:
        random = torch.Generator().manual_seed(step)
        if name == "bigram":
            ids = torch.randint(N_TOKENS, shapes[step], generator=random)
            return functional.cross_entropy(model(ids).mT, ids.roll(-1, 1), reduction="none")
        inputs = torch.randn(*shapes[step], W, generator=random, dtype=torch.float64)
        targets = torch.randint(N_CLASSES, shapes[step], generator=random)
        output = model(inputs)
        logits = output["logits"] if isinstance(output, dict) else output
        return functional.cross_entropy(logits.mT, targets, reduction="none")

    return losses


@pytest.mark.parametrize("name", ALONE)
@settings(derandomize=True, deadline=None, max_examples=8)
@given(data=st.data())
def test_tokens_agree_with_one_backward_pass_a_group(name: str, data: st.DataObject) -> None:
    shapes, codes = [], []
    for step in range(2):
        n_rows, length = data.draw(st.tuples(st.integers(1, 4), st.integers(1, 5)), label="B, T")
        flat = st.lists(st.integers(-1, K - 1), min_size=n_rows * length, max_size=n_rows * length)
        shapes.append((n_rows, length))
        codes.append(torch.tensor(data.draw(flat, label=f"codes {step}")).view(n_rows, length))
    check = data.draw(st.sampled_from(["first", True]), label="check")
    assert not assert_exact(seeded(ALONE[name]), token_losses(name, shapes), codes, check=check)


# ------------------------------------------------------------------ tokens that see each other

B, T = 3, 5
CODES = torch.tensor([[0, 1, -1, 2, 0], [1, 1, 0, 0, 2], [2, -1, -1, 0, 1]])
LOSSES = token_losses("", [(B, T)] * 2)


class Through(nn.Module):
    """Any function of the tensor."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, inputs: Tensor) -> Tensor:
        return self.function(inputs)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(W, N_CLASSES, batch_first=True)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.rnn(inputs)[0]
        return outputs


class Positions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(1, T, W))
        self.head = nn.Linear(W, N_CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.head(inputs + self.positions[:, : inputs.shape[1]])
        return logits


class Convolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(W, N_CLASSES, 3, padding=1)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.conv(inputs.mT).mT
        return outputs


def after_a_linear(function: Callable[[Tensor], Tensor]) -> nn.Module:
    return nn.Sequential(nn.Linear(W, N_CLASSES), Through(function))


MIXING: dict[str, Callable[[], nn.Module]] = {
    "attention": lambda: nn.Sequential(
        nn.TransformerEncoderLayer(W, 2, 8, 0.0, batch_first=True), nn.Linear(W, N_CLASSES)
    ),
    "recurrence": Recurrent,
    "positions": Positions,
    "convolution": Convolution,
    "centred": lambda: after_a_linear(lambda x: x - x.mean(1, keepdim=True)),
    "summed": lambda: after_a_linear(lambda x: x.cumsum(1)),
    "rolled": lambda: after_a_linear(lambda x: x.roll(1, 1)),
    "rows rolled": lambda: after_a_linear(lambda x: x.roll(1, 0)),
    "sorted": lambda: after_a_linear(lambda x: x.gather(1, x.argsort(1))),
    "sizes": lambda: after_a_linear(lambda x: x / x.shape[1]),
}


@pytest.mark.parametrize("name", MIXING)
def test_tokens_that_see_others_are_refused_and_have_a_way_out(name: str) -> None:
    model = seeded(MIXING[name])
    engine = GradientEngine(model, K)
    remedy = r"clipper\.backward\(losses, groups\)"
    with pytest.raises(RuntimeError, match=remedy), engine.watch(CODES):
        LOSSES(model, 0).mean().backward()
    for step in range(2):
        assert_next_step(engine, model, LOSSES, CODES, step=step, how="backward")


@pytest.mark.parametrize("function", [lambda x: x.mean(1), lambda x: x.mean()], ids=["B", "loss"])
def test_outputs_that_are_not_by_token_are_refused(function: Callable[[Tensor], Tensor]) -> None:
    model = seeded(lambda: after_a_linear(function))
    engine = GradientEngine(model, K)
    with pytest.raises(RuntimeError, match=r"clipper\.backward"), engine.watch(CODES):
        model(torch.randn(B, T, W).double()).square().sum().backward()


# ------------------------------------------------------------------ the clipper


def test_padding_is_unknown_and_the_cap_counts_tokens() -> None:
    """As in tagging: the loss ignores padded tokens, whose code is -1."""
    cap = NormCap.per_step(0.3)
    model = seeded(ALONE["mlp"])
    clipper = FairClipper(model, cap, group_counts=[600, 250, 150])
    other = seeded(ALONE["mlp"])
    by_loss = FairClipper(other, cap, group_counts=[600, 250, 150])
    for step in range(2):
        inputs = torch.randn(B, T, W, generator=torch.Generator().manual_seed(step)).double()
        targets = torch.where(CODES == -1, -100, CODES.flip(1) % N_CLASSES)
        with clipper.watch(CODES):
            functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten()).backward()
        record = clipper.clip_grad_()
        assert record.counts.tolist() == CODES[CODES >= 0].bincount().tolist()
        assert float(record.factors.min()) < 0.9  # else nothing is tested
        unpadded = functional.cross_entropy(other(inputs).mT, targets, reduction="none")
        by_loss.backward(unpadded * (B * T / int((CODES >= 0).sum())), CODES)
        expected = by_loss.clip_grad_()
        np.testing.assert_allclose(record.group_norms, expected.group_norms, rtol=1e-9)
        np.testing.assert_allclose(record.factors, expected.factors, rtol=1e-9)
        grads = [[p.grad for p in m.parameters() if p.grad is not None] for m in (model, other)]
        off = norm([a - b for a, b in zip(*grads, strict=True)])
        assert off <= 1e-9 * norm(grads[0])
        model.zero_grad()
        other.zero_grad()


@pytest.mark.parametrize("shape", [(T, B), (B, T + 1), (1, T), (B, 1)])
@pytest.mark.parametrize("first", [True, False], ids=["first", "later"])
def test_codes_of_another_shape_are_refused(shape: tuple[int, int], first: bool) -> None:
    model = seeded(ALONE["scale"])
    clipper = FairClipper(model, n_groups=K)
    inputs = torch.randn(B, T, W).double()
    for codes in [] if first else [CODES]:
        with clipper.watch(codes):
            model(inputs).square().mean().backward()
        clipper.clip_grad_()
        model.zero_grad()
    size = rf"\({shape[0]}, {shape[1]}\)"
    wrong = torch.zeros(shape, dtype=torch.int64)
    with pytest.raises(ValueError, match=size), clipper.watch(wrong):
        model(inputs).square().mean().backward()


@pytest.mark.parametrize("order", [(CODES, CODES[:, 0]), (CODES[:, 0], CODES)])
def test_rows_and_tokens_are_not_mixed(order: tuple[Tensor, Tensor]) -> None:
    model = seeded(ALONE["mlp"])
    clipper = FairClipper(model, n_groups=K)
    inputs = torch.randn(B, T, W).double()
    with clipper.watch(order[0]):
        model(inputs).square().mean().backward()
    clipper.clip_grad_()
    model.zero_grad()
    with pytest.raises(ValueError, match="new clipper"), clipper.watch(order[1]):
        model(inputs).square().mean().backward()


def test_a_transposed_batch_with_codes_of_the_same_size_is_refused() -> None:
    """(T, B) holds as many tokens as (B, T), in another order."""
    model = seeded(ALONE["mlp"])
    clipper = FairClipper(model, n_groups=K)
    inputs = torch.randn(B, T, W).double()
    with clipper.watch(CODES):
        model(inputs).square().mean().backward()
    clipper.clip_grad_()
    model.zero_grad()
    with pytest.raises(ValueError, match=r"\(3, 5\).*\(5, 3, \d\)"), clipper.watch(CODES):
        model(inputs.transpose(0, 1)).square().mean().backward()


def test_windows_of_tokens_accumulate() -> None:
    model, other = seeded(ALONE["scale"]), seeded(ALONE["scale"])
    clipper, whole = (FairClipper(m, n_groups=K) for m in (model, other))
    inputs = torch.randn(2 * B, T, W, generator=torch.Generator().manual_seed(0)).double()
    codes = torch.cat([CODES, CODES.flip(0, 1)])
    for _ in range(2):
        for chosen in (slice(B), slice(B, None)):
            with clipper.watch(codes[chosen]):
                model(inputs[chosen]).square().sum().backward()
        with whole.watch(codes):
            other(inputs).square().sum().backward()
        records: list[Any] = [clipper.clip_grad_(), whole.clip_grad_()]
        np.testing.assert_allclose(records[0].group_norms, records[1].group_norms, rtol=1e-9)
        assert records[0].counts.tolist() == records[1].counts.tolist()
        model.zero_grad()
        other.zero_grad()
