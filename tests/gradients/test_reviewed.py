"""Models that a review found measured wrongly: each is exact now, or refused with a way out."""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from fairclip.exceptions import FairclipWarning
from fairclip.gradients import GradientEngine
from tests.gradients._oracle import combined, group_gradients, norm

K = 3
CODES = torch.tensor([0, 0, 0, 1, 2, -1])
B, T, WIDTH = len(CODES), 5, 4
INPUTS = torch.randn(3, B, T, WIDTH, generator=torch.Generator().manual_seed(0)).double()
TARGETS = torch.tensor([0, 2, 1, 1, 0, 2])

Step = Callable[[nn.Module, int], Tensor]
"""From a model and the number of the step to per-row losses (B,)."""


def assert_exact(
    model: nn.Module,
    step: Step,
    codes: tuple[Tensor, ...] = (CODES, CODES.roll(1)),
    *,
    tolerance: float = 1e-10,
    backward: Callable[[Tensor], None] = lambda losses: losses.mean().backward(),
    **options: Any,
) -> list[str]:
    """Compare every step with one float64 backward pass a group; return what was warned of."""
    engine = GradientEngine(model, K, **options)
    factors = [0.5, 1.0, 0.125]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for i, of_step in enumerate(codes):
            exact = copy.deepcopy(model).double()
            model.zero_grad()
            with engine.watch(of_step):
                backward(step(model, i))
            parts = group_gradients(exact, step(exact, i), of_step, K)
            norms = [norm(part) for part in parts[:-1]]
            scale = max(norm(combined(parts, [1.0] * K)), *norms)
            found = engine.collect()
            measured = np.sqrt(np.diagonal(np.asarray(found.gramian())))[:-1]
            np.testing.assert_allclose(measured, norms, rtol=0, atol=tolerance * scale)
            found.recombine_(np.array(factors))
            grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
            expected = combined(parts, factors)
            off = norm([a - b for a, b in zip(expected, grads, strict=True)])
            assert off <= tolerance * scale, f"step {i}"
    engine.remove()
    assert all(issubclass(w.category, FairclipWarning) for w in caught)
    messages = [str(w.message) for w in caught]
    assert not any("penalty" in message for message in messages)
    return messages


def assert_exact_or_refused(model: nn.Module, step: Step, *args: Any, **options: Any) -> None:
    """A refusal names the way out."""
    try:
        assert_exact(model, step, *args, **options)
    except (RuntimeError, ValueError) as error:
        assert any(word in str(error) for word in ("clipper.backward", "batch_dim", "new clipper"))  # noqa: PT017


def cross_entropy(logits: Tensor) -> Tensor:
    return functional.cross_entropy(logits, TARGETS, reduction="none")


def classify(model: nn.Module, i: int) -> Tensor:
    return cross_entropy(model(INPUTS[i]))


def seeded(build: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return build().double()


# ------------------------------------------------------------------ which parameters are used


class LayerDrop(nn.Module):
    """Skips its first layer in one step; a tied product makes the model run again."""

    def __init__(self, skipped: int) -> None:
        super().__init__()
        self.first = nn.Linear(WIDTH, WIDTH)
        self.table = nn.Embedding(3, WIDTH)
        self.hidden = nn.Linear(WIDTH, WIDTH)
        self.skipped = skipped

    def forward(self, inputs: Tensor, i: int) -> Tensor:
        hidden = inputs.mean(1)
        if i != self.skipped:
            hidden = self.first(hidden)
        ids = torch.zeros(len(inputs), dtype=torch.int64)
        bias: Tensor = self.table(ids).sum(1, keepdim=True)
        return bias + torch.tanh(self.hidden(hidden)) @ self.table.weight.T


def test_a_first_layer_that_a_later_step_skips() -> None:
    def step(model: nn.Module, i: int) -> Tensor:
        return cross_entropy(model(INPUTS[i], i))

    assert_exact(seeded(lambda: LayerDrop(skipped=1)), step, (CODES, CODES.roll(1), CODES))


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.head(inputs.mean(1))
        return logits


def test_a_model_whose_first_parameter_is_not_used() -> None:
    assert not assert_exact(seeded(Unused), classify)


class Computed(nn.Module):
    """Calls a layer with a weight that it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, 3)
        self.delta = nn.Parameter(torch.randn(3, WIDTH))

    def forward(self, inputs: Tensor) -> Tensor:
        weights = {"weight": self.layer.weight + self.delta}
        logits: Tensor = torch.func.functional_call(self.layer, weights, (inputs.mean(1),))
        return logits


def test_a_layer_called_with_a_computed_weight() -> None:
    assert_exact_or_refused(seeded(Computed), classify)


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(WIDTH) + 0.5)
        self.shift = nn.Parameter(torch.rand(WIDTH))
        self.trunk = nn.Linear(WIDTH, WIDTH)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        hidden = torch.tanh(self.trunk(inputs.mean(1)))
        return hidden * self.scale, hidden + self.shift


def test_a_backward_pass_for_each_of_two_outputs() -> None:
    def step(model: nn.Module, i: int) -> Tensor:
        first, second = model(INPUTS[i])
        by_output.append(first.square().sum(1))
        by_output.append(3 * second.square().sum(1))
        return by_output[-2] + by_output[-1]

    def backward_twice(_: Tensor) -> None:
        first, second = by_output[-2:]
        first.mean().backward(retain_graph=True)
        second.mean().backward()

    by_output: list[Tensor] = []
    assert not assert_exact(seeded(TwoHeads), step, backward=backward_twice)


# ------------------------------------------------------------------ backward depends on the batch


class ByFrequency(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(B * 2, WIDTH, scale_grad_by_freq=True)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.tanh(self.table(ids)).mean(1))
        return logits


REPEATED = torch.tensor([[0, 1], [0, 0], [2, 0], [2, 1], [1, 0], [3, 1]])
DISTINCT = torch.arange(B * 2).reshape(B, 2)


@pytest.mark.parametrize("first", [REPEATED, DISTINCT], ids=["repeated", "distinct"])
def test_a_table_that_divides_by_how_often_an_id_comes(first: Tensor) -> None:
    ids = (first, REPEATED)
    assert_exact_or_refused(seeded(ByFrequency), lambda m, i: cross_entropy(m(ids[i])))


class _DividedByRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        return inputs * weight

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        inputs, weight = ctx.saved_tensors
        return grads[0] * weight, (grads[0] * inputs).sum(0) / len(inputs)


class Custom(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(WIDTH) + 0.5)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        scaled = _DividedByRows.apply(inputs.mean(1), self.weight)  # type: ignore[no-untyped-call]
        logits: Tensor = self.head(scaled)
        return logits


@pytest.mark.parametrize("first", [CODES, torch.zeros_like(CODES)], ids=["mixed", "one group"])
def test_a_backward_pass_of_the_users_that_divides_by_the_rows(first: Tensor) -> None:
    assert_exact_or_refused(seeded(Custom), classify, (first, CODES))


class Packed(nn.Module):
    def __init__(self, *, enforce_sorted: bool = False) -> None:
        super().__init__()
        self.enforce_sorted = enforce_sorted
        self.rnn = nn.LSTM(WIDTH, WIDTH, batch_first=True)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, inputs: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(
            inputs, lengths, batch_first=True, enforce_sorted=self.enforce_sorted
        )
        padded, _ = pad_packed_sequence(self.rnn(packed)[0], batch_first=True)
        logits: Tensor = self.head(padded.mean(1))
        return logits


FULL = torch.full((B,), T)


@pytest.mark.parametrize("lengths", [[5, 5, 5, 5, 2, 2], [5, 5, 4, 5, 2, 2]], ids=["24", "23"])
@pytest.mark.parametrize("check", ["first", True])
@pytest.mark.parametrize("full_first", [True, False])
def test_packed_sequences_that_are_padded_again(
    lengths: list[int], check: Any, full_first: bool
) -> None:
    by_step = [torch.tensor(lengths), FULL]
    model = seeded(Packed)
    assert_exact_or_refused(
        model, lambda m, i: cross_entropy(m(INPUTS[i], by_step[i ^ full_first])), check=check
    )


@pytest.mark.parametrize("lengths", [[5, 4, 4, 3, 2, 1], [5, 5, 5, 2, 2, 2]])
def test_a_model_that_insists_on_rows_sorted_by_length(lengths: list[int]) -> None:
    model = seeded(lambda: Packed(enforce_sorted=True))
    by_step = [torch.tensor(lengths), torch.tensor([4, 4, 3, 3, 1, 1])]
    assert_exact(model, lambda m, i: cross_entropy(m(INPUTS[i], by_step[i])), (CODES, CODES))


class SortedByLength(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)
        self.rnn = nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, inputs: Tensor, lengths: Tensor) -> Tensor:
        order = torch.sort(lengths, descending=True, stable=True)[1]
        hidden, _ = self.rnn(torch.tanh(self.layer(inputs[order])))
        logits: Tensor = self.head(hidden[order.argsort()].mean(1))
        return logits


def test_rows_sorted_by_length_are_found_anew_in_every_checked_step() -> None:
    by_step = [FULL, torch.tensor([1, 5, 2, 3, 4, 5]), torch.tensor([3, 1, 2, 2, 4, 5])]
    assert_exact(
        seeded(SortedByLength),
        lambda m, i: cross_entropy(m(INPUTS[i], by_step[i])),
        (CODES, CODES, CODES.roll(1)),
        check=True,
    )
