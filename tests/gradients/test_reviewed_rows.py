"""Inputs and outputs whose rows a review found mistaken: found now, or refused with a way out."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fairclip.gradients import GradientEngine
from tests.gradients.test_reviewed import (
    CODES,
    INPUTS,
    WIDTH,
    B,
    K,
    T,
    assert_exact,
    assert_exact_or_refused,
    classify,
    cross_entropy,
    seeded,
)


class Turned(nn.Module):
    """Turns the rows around for its layer, and back."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.layer(inputs.flip(0)).flip(0)
        return logits


@pytest.mark.parametrize("spread", [86_400.0, 1.0], ids=["days", "seconds"])
def test_a_column_of_timestamps_does_not_hide_turned_rows(spread: float) -> None:
    inputs = INPUTS[0, :, 0].clone()
    inputs[:, 0] = 1.7e9 + torch.arange(B) * spread

    def step(model: nn.Module, _: int) -> Tensor:
        dtype = next(model.parameters()).dtype
        rounded = inputs.float().to(dtype)  # what float32 holds of them, for the oracle too
        return cross_entropy(torch.tanh(model(rounded) * 1e-10))

    assert_exact_or_refused(seeded(Turned).float(), step, tolerance=1e-4)


class TiedPositions(nn.Module):
    """A tied table, and positions that are looked up once for all rows, with ids (T,)."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, WIDTH)
        self.places = nn.Embedding(9, WIDTH)
        self.hidden = nn.Linear(WIDTH, WIDTH)

    def forward(self, ids: Tensor) -> Tensor:
        hidden = torch.tanh(self.table(ids) + self.places(torch.arange(ids.shape[1])))
        logits: Tensor = torch.tanh(self.hidden(hidden)).mean(1) @ self.table.weight.T
        return logits


@pytest.mark.parametrize("length", [T, B])
@pytest.mark.parametrize("check", ["first", True])
def test_a_tied_table_beside_positions(length: int, check: Any) -> None:
    ids = torch.randint(7, (B, length), generator=torch.Generator().manual_seed(1))
    dim = 0 if length == B else None
    messages = assert_exact(
        seeded(TiedPositions), lambda m, _: cross_entropy(m(ids)), check=check, batch_dim=dim
    )
    assert all("'table.weight' is used outside" in message for message in messages)


class Autoencoder(nn.Module):
    """One output depends on the other, and a parameter is the model's own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(WIDTH) + 0.5)
        self.encode = nn.Linear(WIDTH, WIDTH)
        self.decode = nn.Linear(WIDTH, WIDTH)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        mean = self.encode(inputs * self.scale)
        return self.decode(torch.tanh(mean)), mean


@pytest.mark.parametrize("check", ["first", True, False])
def test_an_output_that_depends_on_another(check: Any) -> None:
    def step(model: nn.Module, i: int) -> Tensor:
        inputs = INPUTS[i].mean(1)
        found, mean = model(inputs)
        losses: Tensor = (found - inputs).square().sum(1) + mean.square().sum(1)
        return losses

    assert not assert_exact(seeded(Autoencoder), step, check=check)


class OutputTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(WIDTH) + 0.5)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, inputs: Tensor) -> dict[str, Any]:
        hidden = self.head(inputs.mean(1) * self.scale)
        return {"last": hidden, "all": (hidden,)}


@pytest.mark.parametrize("used", ["last", "all", "both"])
def test_an_output_that_is_returned_twice(used: str) -> None:
    def step(model: nn.Module, i: int) -> Tensor:
        output = model(INPUTS[i])
        last, first = cross_entropy(output["last"]), cross_entropy(output["all"][0])
        return {"last": last, "all": first, "both": last + 2 * first}[used]

    assert not assert_exact(seeded(OutputTwice), step)


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(WIDTH, WIDTH)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = torch.tanh(self.encoder(inputs.mean(1))) @ self.encoder.weight.T
        return outputs


def test_a_part_that_is_called_alone_too_with_its_weight_tied() -> None:
    def step(model: nn.Module, i: int) -> Tensor:
        alone = model.get_submodule("encoder")(INPUTS[i][:, 0])
        losses: Tensor = model(INPUTS[i]).square().sum(1) + alone.square().sum(1)
        return losses

    assert_exact_or_refused(seeded(Encoder), step)


class Columns(nn.Module):
    """Takes one keyword a column."""

    def __init__(self, n_columns: int) -> None:
        super().__init__()
        self.layer = nn.Linear(n_columns, 3)

    def forward(self, **columns: Tensor) -> Tensor:
        logits: Tensor = self.layer(torch.stack(list(columns.values()), 1))
        return logits


def test_many_inputs_need_no_more_runs_than_few() -> None:
    model = seeded(lambda: Columns(12))
    columns = {str(i): INPUTS[0, :, i % T, i % WIDTH] + i for i in range(12)}
    runs: list[int] = []
    hook = model.register_forward_hook(lambda *_: runs.append(1))
    engine = GradientEngine(model, K)
    with engine.watch(CODES):
        cross_entropy(model(**columns)).mean().backward()
    assert len(runs) <= 6
    engine.remove()
    hook.remove()
    assert not assert_exact(model, lambda m, _: cross_entropy(m(**columns)))


class Prototypes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)

    def forward(self, inputs: Tensor, table: Tensor) -> Tensor:
        logits: Tensor = self.layer(inputs.mean(1)) @ table.T
        return logits


@pytest.mark.parametrize("batch_dim", [None, 0])
def test_a_table_of_as_many_entries_as_rows(batch_dim: int | None) -> None:
    table = INPUTS[2, :, 0]
    assert not assert_exact(
        seeded(Prototypes), lambda m, i: cross_entropy(m(INPUTS[i], table)), batch_dim=batch_dim
    )


class Towers(nn.Module):
    """Compares rows with the entries of a table, which pass through more layers than they."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Linear(WIDTH, WIDTH)
        self.entries = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH))

    def forward(self, inputs: Tensor, table: Tensor) -> Tensor:
        logits: Tensor = self.rows(inputs.mean(1)) @ self.entries(table).T
        return logits


@pytest.mark.parametrize("batch_dim", [None, 0])
def test_a_table_that_passes_through_more_layers_than_the_rows(batch_dim: int | None) -> None:
    table = INPUTS[2, :, 0]
    assert_exact_or_refused(
        seeded(Towers), lambda m, i: cross_entropy(m(INPUTS[i], table)), batch_dim=batch_dim
    )


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, inputs: Tensor, is_padding: Tensor) -> Tensor:
        hidden = torch.tanh(self.layer(inputs)).masked_fill(is_padding.bool()[..., None], 0)
        logits: Tensor = self.head(hidden.sum(1))
        return logits


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8], ids=str)
def test_a_mask_that_has_rows(dtype: torch.dtype) -> None:
    mask = torch.zeros(B, T, dtype=dtype)
    mask[1, 3:] = 1
    model = seeded(Masked)
    assert not assert_exact(model, lambda m, i: cross_entropy(m(INPUTS[i], mask)))


# ------------------------------------------------------------------ what a forward pass remembers


class Remembers(nn.Module):
    """Changes its own attributes, bound anew or in place."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, 3)
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
    model = seeded(Remembers)
    engine = GradientEngine(model, K)
    for i in range(1, 3):
        with engine.watch(CODES):
            output = model(INPUTS[i])
            cross_entropy(output).mean().backward()
        engine.collect()
        model.zero_grad()
        assert model.n_runs == i
        assert torch.equal(torch.as_tensor(model.last), output.detach())


@pytest.mark.parametrize("name", ["history", "count"])
def test_what_a_forward_pass_remembers_in_place_is_as_after_one(name: str) -> None:
    model = seeded(Remembers)
    engine = GradientEngine(model, K)
    for i in range(1, 3):
        with engine.watch(CODES):
            classify(model, i).mean().backward()
        engine.collect()
        model.zero_grad()
        value: Any = getattr(model, name)
        assert (len(value) if name == "history" else int(value)) == i


class Carries(nn.Module):
    """Takes the hidden state of the batch before: rows cannot be run alone."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, 3)
        self.last: Tensor | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        before = 0 if self.last is None else self.last
        hidden: Tensor = torch.tanh(self.layer(inputs.mean(1)) + before)
        self.last = hidden.detach()
        return hidden


def test_a_state_that_is_carried_from_batch_to_batch_is_exact_or_refused_for_it() -> None:
    try:
        assert_exact(seeded(Carries), classify)
    except (RuntimeError, ValueError) as error:
        assert "no input" not in str(error)  # noqa: PT017 - the input has the rows
        assert "clipper.backward" in str(error)  # noqa: PT017
