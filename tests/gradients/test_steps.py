"""Steps that are unlike the first, and several forward passes in one. B rows."""

from contextlib import ExitStack

import pytest
import torch
from torch import Tensor, nn

from fairclip.exceptions import FairclipWarning
from fairclip.gradients import GradientEngine
from tests.gradients._exactness import K, assert_exact, assert_next_step, assert_step, seeded
from tests.gradients._inputs import (
    CODES,
    IDS,
    N_CLASSES,
    N_TOKENS,
    VECTORS,
    T,
    W,
    classify,
    classify_means,
    cross_entropy,
)
from tests.gradients._oracle import group_gradients
from tests.gradients._wrappers import Noisy, mlp


def test_two_forward_passes_in_one_window() -> None:
    def both(model: nn.Module, step: int) -> Tensor:
        first, second = VECTORS[step, :, 0], VECTORS[step, :, 1]
        return cross_entropy(model(first) + model(second))

    assert not assert_exact(seeded(mlp), both, CODES)


def test_forward_passes_without_gradients_are_ignored() -> None:
    model = seeded(mlp)

    def without(n_rows: int) -> None:
        with torch.no_grad():
            model(VECTORS[0, :n_rows, 0])  # of another size, for a metric

    def between(model: nn.Module, step: int) -> Tensor:
        without(5)
        return classify_means(model, step)

    def backward(losses: Tensor) -> None:
        losses.mean().backward()
        without(1)

    assert not assert_exact(model, between, CODES, backward=backward)


def test_lazy_layers_may_get_their_shapes_in_the_first_step() -> None:
    model = seeded(lambda: nn.Sequential(nn.LazyLinear(6), nn.Tanh(), nn.Linear(6, 3)))
    engine = GradientEngine(model, K)
    with engine.watch(CODES[0]):
        classify_means(model, 0).mean().backward()
    assert_step(engine, model, group_gradients(model, classify_means(model, 0), CODES[0], K))
    assert_next_step(engine, model, classify_means, CODES[1], step=1)


# ------------------------------------------------------------------ what begins later


@pytest.mark.parametrize("how", ["eval first", "rate raised"])
def test_dropout_that_begins_later_is_noticed_where_a_module_is_run_again(how: str) -> None:
    def begin(model: nn.Module, step: int) -> None:
        model.train(step > 0 or how == "rate raised")
        model.rate = 0.5 if step > 0 or how == "eval first" else 0.0  # type: ignore[assignment]

    assert not assert_exact(seeded(Noisy), classify_means, CODES, before_step=begin)


class Later(nn.Module):
    """Calls a layer twice from some step on."""

    twice = False

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(W, W)
        self.last = nn.Linear(W, N_CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.tanh(self.first(inputs))
        if self.twice:
            hidden = self.first(hidden)
        logits: Tensor = self.last(hidden)
        return logits


def test_a_call_that_begins_later_is_exact() -> None:
    def begin(model: nn.Module, step: int) -> None:
        model.twice = step > 0  # type: ignore[assignment]

    assert not assert_exact(seeded(Later), classify_means, CODES, before_step=begin)


def test_sequences_of_another_length_that_are_put_side_by_side_are_refused() -> None:
    class Flattened(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(W, 6)
            self.head = nn.Linear(6, 3)

        def forward(self, inputs: Tensor) -> Tensor:
            rows, length, width = inputs.shape
            hidden = self.layer(inputs.reshape(rows * length, width)).tanh()
            logits: Tensor = self.head(hidden.reshape(rows, length, 6).mean(1))
            return logits

    model = Flattened().double()
    engine = GradientEngine(model, K)
    with engine.watch(CODES[0]):
        cross_entropy(model(VECTORS[0][:, :1])).mean().backward()
    engine.collect()
    model.zero_grad()
    # Whose entry is whose cannot be known from the first step.
    with pytest.raises(ValueError, match="make a new clipper"), engine.watch(CODES[0]):
        classify(model, 0).mean().backward()


class Auxiliary(nn.Module):
    """Returns a term beside its logits that mixes all rows, as a balance of experts does."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(T) + 0.5)
        self.head = nn.Linear(T, N_CLASSES)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        hidden = ids.double() / N_TOKENS * self.scale
        return self.head(hidden), hidden.mean(0).square().sum()


def test_an_output_that_mixes_rows_and_is_used_from_some_step_on_is_refused() -> None:
    model = seeded(Auxiliary)
    engine = GradientEngine(model, K)
    with engine.watch(CODES[0]):
        cross_entropy(model(IDS[0])[0]).mean().backward()
    engine.collect()
    model.zero_grad()
    remedy = r"no step before used.*clipper\.backward"
    with pytest.raises(RuntimeError, match=remedy), engine.watch(CODES[1]):
        sum(output.mean() for output in model(IDS[1])).backward()


# ------------------------------------------------------------------ what a forward pass remembers


class Remembers(nn.Module):
    """Changes its own attributes, bound anew or in place."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(W, 3)
        self.scale = nn.Parameter(torch.ones(3))  # makes the model run again
        self.n_runs = 0
        self.last: Tensor | None = None
        self.history: list[Tensor] = []
        self.count = torch.zeros(())

    def forward(self, inputs: Tensor) -> Tensor:
        hidden: Tensor = self.layer(inputs.mean(1)) * self.scale
        self.n_runs += 1
        self.last = hidden.detach()
        self.history.append(self.last)
        self.count += 1
        return hidden


def test_what_a_forward_pass_remembers_is_as_after_one() -> None:
    model = Remembers().double()
    engine = GradientEngine(model, K)
    for step in range(1, 3):
        with engine.watch(CODES[0]):
            output = model(VECTORS[step])
            cross_entropy(output).mean().backward()
        engine.collect()
        model.zero_grad()
        assert model.n_runs == len(model.history) == int(model.count) == step
        assert torch.equal(torch.as_tensor(model.last), output.detach())


class Carries(nn.Module):
    """Takes the hidden state of the batch before: rows cannot be run alone."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(W, 3)
        self.last: Tensor | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        before = 0 if self.last is None else self.last
        hidden: Tensor = torch.tanh(self.layer(inputs.mean(1)) + before)
        self.last = hidden.detach()
        return hidden


def test_a_state_that_is_carried_from_batch_to_batch_is_refused() -> None:
    model = seeded(Carries)
    engine = GradientEngine(model, K)
    remedy = r"cannot be run through the model without the others.*clipper\.backward"
    with pytest.raises(RuntimeError, match=remedy), engine.watch(CODES[0]):
        classify(model, 0).mean().backward()


def test_one_row_tells_nothing_about_the_next_batches() -> None:
    """Everything fits to one row: a model that mixes rows is found when more of them come."""

    class Centred(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(W, 3)

        def forward(self, inputs: Tensor) -> Tensor:
            logits: Tensor = self.layer(inputs)
            return logits - logits.mean(0)

    def mean(model: nn.Module, n_rows: int) -> Tensor:
        logits: Tensor = model(VECTORS[0].mean(1)[:n_rows])
        return logits.square().mean()

    for model in (seeded(mlp), seeded(Centred)):
        engine = GradientEngine(model, K, check=False)
        for n_rows in (1, 1, 6):
            with ExitStack() as stack:
                if n_rows > 1:
                    stack.enter_context(pytest.warns(FairclipWarning, match="no step before"))
                stack.enter_context(engine.watch(CODES[0][:n_rows]))
                mean(model, n_rows).backward()
            engine.collect()
            model.zero_grad()
        if isinstance(model, Centred):
            with pytest.raises(RuntimeError, match="rows are mixed"), engine.watch(CODES[0]):
                mean(model, 6).backward()
        else:
            assert_next_step(engine, model, classify_means, CODES[1], step=1)


def test_batch_norm_that_trains_later_is_named_in_the_next_step_that_is_checked() -> None:
    normalisation = nn.BatchNorm1d(6).eval()
    model = seeded(lambda: mlp(normalisation))
    engine = GradientEngine(model, K)
    for step in range(4):
        with ExitStack() as stack:
            if step == 2:
                normalisation.train()
            if step == 3:
                stack.enter_context(pytest.warns(FairclipWarning, match="batch statistics"))
            stack.enter_context(engine.watch(CODES[0]))
            classify_means(model, step).mean().backward()
        engine.collect()
        model.zero_grad()
