"""Which dimension of every input and output holds the rows, and which of them do not. B rows."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from fairclip.gradients import GradientEngine
from tests.gradients._exactness import K, assert_exact, seeded
from tests.gradients._inputs import (
    CODES,
    N_CLASSES,
    VECTORS,
    B,
    Batch,
    T,
    W,
    classify_means,
    cross_entropy,
)
from tests.gradients._wrappers import Positions


class Turned(nn.Module):
    """Turns the rows around for its layer, and back."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(W, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.layer(inputs.flip(0)).flip(0)
        return logits


@pytest.mark.parametrize("spread", [86_400.0, 1.0], ids=["days", "seconds"])
def test_a_column_of_timestamps_does_not_hide_turned_rows(spread: float) -> None:
    inputs = VECTORS[0, :, 0].clone()
    inputs[:, 0] = 1.7e9 + torch.arange(B) * spread

    def step(model: nn.Module, _: int) -> Tensor:
        dtype = next(model.parameters()).dtype
        rounded = inputs.float().to(dtype)  # what float32 holds of them, for the oracle too
        return cross_entropy(torch.tanh(model(rounded) * 1e-10))

    assert not assert_exact(seeded(Turned).float(), step, CODES, tolerance=1e-4)


class TiedPositions(nn.Module):
    """A tied table, and positions that are looked up once for all rows, with ids (T,)."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, W)
        self.places = nn.Embedding(9, W)
        self.hidden = nn.Linear(W, W)

    def forward(self, ids: Tensor) -> Tensor:
        hidden = torch.tanh(self.table(ids) + self.places(torch.arange(ids.shape[1])))
        logits: Tensor = torch.tanh(self.hidden(hidden)).mean(1) @ self.table.weight.T
        return logits


@pytest.mark.parametrize("length", [T, B])
@pytest.mark.parametrize("check", ["first", True])
def test_a_tied_table_beside_positions(length: int, check: Any) -> None:
    ids = torch.randint(7, (B, length), generator=torch.Generator().manual_seed(1))
    dim = 0 if length == B else None
    (message,) = assert_exact(
        seeded(TiedPositions), lambda m, _: cross_entropy(m(ids)), CODES, check=check, batch_dim=dim
    )
    assert "'table.weight' is used outside" in message


def test_a_position_table_is_right_where_the_batch_is_as_long_as_the_sequence() -> None:
    batches = [Batch.draw(T, seed) for seed in range(2)]
    codes = [torch.tensor([0, 1, 1, 2, -1]), torch.tensor([2, 1, 0, -1, 0])]
    assert not assert_exact(
        seeded(Positions), lambda m, i: batches[i].loss(m(batches[i].ids)), codes
    )


def test_two_dimensions_that_fit_equally_well_are_refused() -> None:
    model = seeded(lambda: nn.Sequential(nn.Linear(W, 3), nn.Flatten(0, 1)))
    engine = GradientEngine(model, K)
    with pytest.raises(ValueError, match="batch_dim=0"), engine.watch(CODES[0]):
        model(torch.randn(B, B, W).double()).square().mean().backward()


class Autoencoder(nn.Module):
    """One output depends on the other, and a parameter is the model's own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(W) + 0.5)
        self.encode = nn.Linear(W, W)
        self.decode = nn.Linear(W, W)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        mean = self.encode(inputs * self.scale)
        return self.decode(torch.tanh(mean)), mean


@pytest.mark.parametrize("check", ["first", True, False])
def test_an_output_that_depends_on_another(check: Any) -> None:
    def step(model: nn.Module, i: int) -> Tensor:
        inputs = VECTORS[i].mean(1)
        found, mean = model(inputs)
        losses: Tensor = (found - inputs).square().sum(1) + mean.square().sum(1)
        return losses

    assert not assert_exact(seeded(Autoencoder), step, CODES, check=check)


class OutputTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(W) + 0.5)
        self.head = nn.Linear(W, 3)

    def forward(self, inputs: Tensor) -> dict[str, Any]:
        hidden = self.head(inputs.mean(1) * self.scale)
        return {"last": hidden, "all": (hidden,)}


@pytest.mark.parametrize("used", ["last", "all", "both"])
def test_an_output_that_is_returned_twice(used: str) -> None:
    def step(model: nn.Module, i: int) -> Tensor:
        output = model(VECTORS[i])
        last, first = cross_entropy(output["last"]), cross_entropy(output["all"][0])
        return {"last": last, "all": first, "both": last + 2 * first}[used]

    assert not assert_exact(seeded(OutputTwice), step, CODES)


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
    columns = {str(i): VECTORS[0, :, i % T, i % W] + i for i in range(12)}
    runs: list[int] = []
    hook = model.register_forward_hook(lambda *_: runs.append(1))
    engine = GradientEngine(model, K)
    with engine.watch(CODES[0]):
        cross_entropy(model(**columns)).mean().backward()
    assert len(runs) <= 6
    engine.remove()
    hook.remove()
    assert not assert_exact(model, lambda m, _: cross_entropy(m(**columns)), CODES)


class Prototypes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(W, W)

    def forward(self, inputs: Tensor, table: Tensor) -> Tensor:
        logits: Tensor = self.layer(inputs.mean(1)) @ table.T
        return logits


@pytest.mark.parametrize("batch_dim", [None, 0])
def test_a_table_of_as_many_entries_as_rows(batch_dim: int | None) -> None:
    table = VECTORS[2, :, 0]
    assert not assert_exact(
        seeded(Prototypes),
        lambda m, i: cross_entropy(m(VECTORS[i], table)),
        CODES[:2],
        batch_dim=batch_dim,
    )


class Towers(nn.Module):
    """Compares rows with the entries of a table, which pass through more layers than they."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Linear(W, W)
        self.entries = nn.Sequential(nn.Linear(W, W), nn.Tanh(), nn.Linear(W, W))

    def forward(self, inputs: Tensor, table: Tensor) -> Tensor:
        logits: Tensor = self.rows(inputs.mean(1)) @ self.entries(table).T
        return logits


@pytest.mark.parametrize("batch_dim", [None, 0])
def test_a_table_that_passes_through_more_layers_than_the_rows(batch_dim: int | None) -> None:
    table = VECTORS[2, :, 0]
    assert not assert_exact(
        seeded(Towers),
        lambda m, i: cross_entropy(m(VECTORS[i], table)),
        CODES[:2],
        batch_dim=batch_dim,
    )


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(W, W)
        self.head = nn.Linear(W, 3)

    def forward(self, inputs: Tensor, is_padding: Tensor) -> Tensor:
        hidden = torch.tanh(self.layer(inputs)).masked_fill(is_padding.bool()[..., None], 0)
        logits: Tensor = self.head(hidden.sum(1))
        return logits


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8], ids=str)
def test_a_mask_that_has_rows(dtype: torch.dtype) -> None:
    mask = torch.zeros(B, T, dtype=dtype)
    mask[1, 3:] = 1
    model = seeded(Masked)
    assert not assert_exact(model, lambda m, i: cross_entropy(m(VECTORS[i], mask)), CODES)


# ------------------------------------------------------------------ rows of several lengths


class Packed(nn.Module):
    def __init__(self, *, enforce_sorted: bool = False) -> None:
        super().__init__()
        self.enforce_sorted = enforce_sorted
        self.rnn = nn.LSTM(W, W, batch_first=True)
        self.head = nn.Linear(W, 3)

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
    assert not assert_exact(
        seeded(Packed),
        lambda m, i: cross_entropy(m(VECTORS[i], by_step[i ^ full_first])),
        CODES[:2],
        check=check,
    )


@pytest.mark.parametrize("lengths", [[5, 4, 4, 3, 2, 1], [5, 5, 5, 2, 2, 2]])
def test_a_model_that_insists_on_rows_sorted_by_length(lengths: list[int]) -> None:
    model = seeded(lambda: Packed(enforce_sorted=True))
    by_step = [torch.tensor(lengths), torch.tensor([4, 4, 3, 3, 1, 1])]
    assert not assert_exact(model, lambda m, i: cross_entropy(m(VECTORS[i], by_step[i])), CODES[:2])


class SortedByLength(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(W, W)
        self.rnn = nn.GRU(W, W, batch_first=True)
        self.head = nn.Linear(W, 3)

    def forward(self, inputs: Tensor, lengths: Tensor) -> Tensor:
        order = torch.sort(lengths, descending=True, stable=True)[1]
        hidden, _ = self.rnn(torch.tanh(self.layer(inputs[order])))
        logits: Tensor = self.head(hidden[order.argsort()].mean(1))
        return logits


def test_rows_sorted_by_length_are_found_anew_in_every_checked_step() -> None:
    by_step = [FULL, torch.tensor([1, 5, 2, 3, 4, 5]), torch.tensor([3, 1, 2, 2, 4, 5])]
    assert not assert_exact(
        seeded(SortedByLength),
        lambda m, i: cross_entropy(m(VECTORS[i], by_step[i])),
        CODES[:3],
        check=True,
    )


class OnlyInTraining(nn.Module):
    """Moves or mixes rows in training, as shuffled normalisation and mixup do."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.hidden = nn.Linear(W, W)
        self.head = nn.Linear(W, N_CLASSES)
        self.how = how

    def forward(self, inputs: Tensor) -> Tensor:
        order = torch.randperm(len(inputs)) if self.training else torch.arange(len(inputs))
        if self.how == "moved and put back":
            hidden = torch.tanh(self.hidden(inputs[order]))[order.argsort()]
        else:
            hidden = torch.tanh(self.hidden(inputs))
            hidden = 0.7 * hidden + 0.3 * hidden[order] if self.training else hidden
        logits: Tensor = self.head(hidden)
        return logits


@pytest.mark.parametrize("check", ["first", True])
def test_rows_that_training_moves_and_puts_back(check: Any) -> None:
    model = seeded(lambda: OnlyInTraining("moved and put back"))
    assert not assert_exact(model, classify_means, CODES, check=check)


def test_rows_that_training_mixes_are_refused() -> None:
    model = seeded(lambda: OnlyInTraining("mixed"))
    engine = GradientEngine(model, K)
    with pytest.raises(RuntimeError, match="rows are mixed"), engine.watch(CODES[0]):
        classify_means(model, 0).mean().backward()


class OtherInTraining(nn.Module):
    """Returns in training what it does not return in evaluation."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(W))
        self.head, self.auxiliary = nn.Linear(W, N_CLASSES), nn.Linear(W, N_CLASSES)
        self.how = how

    def forward(self, inputs: Tensor) -> Any:
        logits = self.head(inputs * self.scale)  # (B, T, C)
        if not self.training:
            return logits
        if self.how == "flat":
            return logits.flatten(0, 1)
        if self.how == "time first":
            return logits.transpose(0, 1)
        return logits, self.auxiliary(inputs * self.scale)


@pytest.mark.parametrize("how", ["flat", "time first", "with an auxiliary head"])
def test_outputs_that_training_alone_has(how: str) -> None:
    def losses(model: nn.Module, step: int) -> Tensor:
        outputs = model(VECTORS[step])
        if how == "flat":
            outputs = outputs.view(B, T, -1)
        elif how == "time first":
            outputs = outputs.transpose(0, 1)
        else:
            outputs = torch.cat(outputs, 2)
        loss: Tensor = (outputs - 1).square().mean((1, 2))
        return loss

    assert not assert_exact(seeded(lambda: OtherInTraining(how)), losses, CODES)
