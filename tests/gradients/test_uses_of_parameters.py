"""Parameters that are used where no call of their module shows it, or not at all."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fairclip.exceptions import FairclipWarning
from fairclip.gradients import GradientEngine
from tests.gradients._exactness import K, assert_exact, assert_next_step, seeded
from tests.gradients._inputs import (
    CODES,
    IDS,
    N_CLASSES,
    N_TOKENS,
    VECTORS,
    B,
    W,
    classify,
    classify_ids,
    classify_means,
    cross_entropy,
)
from tests.gradients._real_models import bert


class LayerDrop(nn.Module):
    """Skips its first layer in one step; a tied product makes the model run again."""

    def __init__(self, skipped: int) -> None:
        super().__init__()
        self.first = nn.Linear(W, W)
        self.table = nn.Embedding(3, W)
        self.hidden = nn.Linear(W, W)
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
        return cross_entropy(model(VECTORS[i], i))

    (message,) = assert_exact(seeded(lambda: LayerDrop(skipped=1)), step, CODES)
    assert "'table.weight' is used outside" in message


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Linear(W, W)
        self.head = nn.Linear(W, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.head(inputs.mean(1))
        return logits


def test_a_model_whose_first_parameter_is_not_used() -> None:
    assert not assert_exact(seeded(Unused), classify, CODES)


class Computed(nn.Module):
    """Calls a layer with a weight that it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(W, 3)
        self.delta = nn.Parameter(torch.randn(3, W))

    def forward(self, inputs: Tensor) -> Tensor:
        weights = {"weight": self.layer.weight + self.delta}
        logits: Tensor = torch.func.functional_call(self.layer, weights, (inputs.mean(1),))
        return logits


def test_a_layer_called_with_a_computed_weight() -> None:
    assert not assert_exact(seeded(Computed), classify, CODES)


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(W) + 0.5)
        self.shift = nn.Parameter(torch.rand(W))
        self.trunk = nn.Linear(W, W)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        hidden = torch.tanh(self.trunk(inputs.mean(1)))
        return hidden * self.scale, hidden + self.shift


def test_a_backward_pass_for_each_of_two_outputs() -> None:
    def step(model: nn.Module, i: int) -> Tensor:
        first, second = model(VECTORS[i])
        by_output.append(first.square().sum(1))
        by_output.append(3 * second.square().sum(1))
        return by_output[-2] + by_output[-1]

    def backward_twice(_: Tensor) -> None:
        first, second = by_output[-2:]
        first.mean().backward(retain_graph=True)
        second.mean().backward()

    by_output: list[Tensor] = []
    assert not assert_exact(seeded(TwoHeads), step, CODES, backward=backward_twice)


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(W, W)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = torch.tanh(self.encoder(inputs.mean(1))) @ self.encoder.weight.T
        return outputs


def test_a_part_that_is_called_alone_too_with_its_weight_tied_is_refused() -> None:
    def step(model: nn.Module, i: int) -> Tensor:
        alone = model.get_submodule("encoder")(VECTORS[i][:, 0])
        losses: Tensor = model(VECTORS[i]).square().sum(1) + alone.square().sum(1)
        return losses

    model = seeded(Encoder)
    engine = GradientEngine(model, K)
    remedy = r"'encoder\.weight'.*clipper\.backward"
    with pytest.raises(RuntimeError, match=remedy), engine.watch(CODES[0]):
        step(model, 0).mean().backward()
    assert_next_step(engine, model, step, CODES[0], how="backward")


class Beside(nn.Module):
    """Scores tokens with the input table, past its module, as language models did by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.model = bert()

    def forward(self, ids: Tensor) -> Tensor:
        table = self.model.get_parameter("bert.embeddings.word_embeddings.weight")
        logits: Tensor = self.model(ids).logits
        return logits + (table[ids].mean(1) @ table.T)[:, :N_CLASSES]


@pytest.mark.parametrize("check", ["first", True])
def test_a_missed_use_of_a_parameter_is_named_and_exact(check: Any) -> None:
    (message,) = assert_exact(seeded(Beside), classify_ids, CODES, check=check)
    assert "'model.bert.embeddings.word_embeddings.weight'" in message


# ------------------------------------------------------------------ backward depends on the batch


class ByFrequency(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(B * 2, W, scale_grad_by_freq=True)
        self.head = nn.Linear(W, 3)

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.tanh(self.table(ids)).mean(1))
        return logits


REPEATED = torch.tensor([[0, 1], [0, 0], [2, 0], [2, 1], [1, 0], [3, 1]])
DISTINCT = torch.arange(B * 2).reshape(B, 2)


@pytest.mark.parametrize("first", [REPEATED, DISTINCT], ids=["repeated", "distinct"])
def test_a_table_that_divides_by_how_often_an_id_comes(first: Tensor) -> None:
    ids = (first, REPEATED)
    assert not assert_exact(seeded(ByFrequency), lambda m, i: cross_entropy(m(ids[i])), CODES[:2])


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
        self.weight = nn.Parameter(torch.rand(W) + 0.5)
        self.head = nn.Linear(W, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        scaled = _DividedByRows.apply(inputs.mean(1), self.weight)  # type: ignore[no-untyped-call]
        logits: Tensor = self.head(scaled)
        return logits


@pytest.mark.parametrize("first", [CODES[1], torch.zeros_like(CODES[0])], ids=["mixed", "alone"])
def test_a_backward_pass_of_the_users_that_divides_by_the_rows(first: Tensor) -> None:
    (message,) = assert_exact(seeded(Custom), classify, [first, CODES[0]])
    assert "'weight' is used outside of the forward pass" in message


class ZeroHead(nn.Module):
    """Ties a weight below a head that begins with zeros, where the first gradient is 0."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(W, W)
        self.head = nn.Linear(W, 3)
        nn.init.zeros_(self.head.weight)

    def forward(self, inputs: Tensor) -> Tensor:
        decoded = nn.functional.linear(torch.tanh(self.encoder(inputs)), self.encoder.weight.T)
        logits: Tensor = self.head(decoded)
        return logits


def test_a_use_that_has_no_gradient_in_the_first_step() -> None:
    def train(model: nn.Module, step: int) -> None:
        if step:
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(torch.arange(parameter.numel()).view_as(parameter).sin())

    (message,) = assert_exact(seeded(ZeroHead), classify_means, CODES, before_step=train)
    assert "'encoder.weight'" in message


class TextOrImage(nn.Module):
    """A language model with a tied table, whose batches are texts or images."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(N_TOKENS, W)
        self.patches = nn.Linear(W, W)
        self.mix = nn.Linear(W, W)
        self.head = nn.Linear(W, N_TOKENS, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids: Tensor | None = None, images: Tensor | None = None) -> Tensor:
        hidden = self.table(ids) if images is None else self.patches(images)
        logits: Tensor = self.head(torch.tanh(self.mix(hidden)))
        return logits


def test_what_is_learnt_later_does_not_replace_what_was_learnt_before() -> None:
    def losses(model: nn.Module, step: int) -> Tensor:
        step = step % 4
        kind = {"images": VECTORS[step]} if step in (1, 2) else {"ids": IDS[step]}
        return (
            nn.functional.cross_entropy(
                model(**kind).flatten(0, 1), IDS[step].flatten(), reduction="none"
            )
            .view(B, -1)
            .mean(1)
        )

    model = seeded(TextOrImage)
    engine = GradientEngine(model, K, check=False)
    assert_next_step(engine, model, losses, CODES[0], step=0)
    model.zero_grad()
    with pytest.warns(FairclipWarning, match="'patches' was called"), engine.watch(CODES[0]):
        losses(model, 1).mean().backward()
    engine.collect()
    for step in (2, 3, 0, 1):
        assert_next_step(engine, model, losses, CODES[0], step=step)
