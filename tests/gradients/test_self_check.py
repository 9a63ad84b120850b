"""Faults planted in the engine and in real models: each is found, and named."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fairclip.exceptions import FairclipWarning
from fairclip.gradients import GradientEngine, _rules
from fairclip.gradients._probe import some_rows
from tests.gradients._exactness import K, assert_exact, assert_step
from tests.gradients._oracle import group_gradients
from tests.gradients._real_models import N_CLASSES, N_TOKENS, ResNet18, bert, group_norm

B, T = 6, 5
CODES = [torch.tensor([0, 0, 0, 1, 2, -1]), torch.tensor([1, 0, 2, 2, -1, 0])] * 2
_random = torch.Generator().manual_seed(0)
IDS = torch.randint(1, N_TOKENS, (4, B, T), generator=_random)
IMAGES = torch.randn(4, B, 3, 32, 32, generator=_random, dtype=torch.float64)
TARGETS = torch.randint(N_CLASSES, (B,), generator=_random)


def cross_entropy(logits: Tensor) -> Tensor:
    return functional.cross_entropy(logits, TARGETS, reduction="none")


def seeded(build: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return build().double()


def of_ids(model: nn.Module, step: int) -> Tensor:
    return cross_entropy(model(IDS[step]).logits)


# ------------------------------------------------------------------ a wrong rule

WRONG: dict[str, Callable[[Tensor], Tensor]] = {
    "half": lambda sums: sums / 2,
    "nothing": torch.zeros_like,
    "nan": lambda sums: sums * torch.nan,
    "one group's": lambda sums: sums * torch.eye(len(sums))[0].view(-1, *[1] * (sums.ndim - 1)),
}


def plant(monkeypatch: pytest.MonkeyPatch, kind: type[nn.Module], wrong: str) -> None:
    rule = _rules._RULES[kind]

    def spoiled(*args: Any) -> Any:
        sums = rule(*args)
        slots = args[-1]
        dense = sums if isinstance(sums, dict) else sums.sums(slots)
        return {name: WRONG[wrong](tensor) for name, tensor in dense.items()}

    monkeypatch.setattr(_rules, "_RULES", {**_rules._RULES, kind: spoiled})


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (nn.Linear, "bert.encoder.layer.0.attention.self.query.weight"),
        (nn.LayerNorm, "bert.embeddings.LayerNorm.weight"),
        (nn.Embedding, "bert.embeddings.word_embeddings.weight"),
    ],
)
def test_a_wrong_rule_is_named_and_not_used(
    kind: type[nn.Module], name: str, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, kind, wrong)
    check: Any = True if wrong == "half" else "first"
    (message,) = assert_exact(seeded(bert), of_ids, CODES, check=check)  # said once
    assert f"'{name}'" in message
    assert "running the model again" in message


def test_a_wrong_rule_is_found_where_the_first_step_had_one_group_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plant(monkeypatch, nn.LayerNorm, "half")
    codes = [torch.zeros(B, dtype=torch.int64), *CODES[:2]]
    messages = assert_exact(seeded(bert), of_ids, codes)
    assert any("LayerNorm" in message for message in messages)


# ------------------------------------------------------------------ wrong rows


class Around(nn.Module):
    """A model whose rows are moved before, after or on both sides."""

    def __init__(self, model: nn.Module, *, before: Any = None, after: Any = None) -> None:
        super().__init__()
        self.model = model
        self.before = before or (lambda inputs: inputs)
        self.after = after or (lambda logits: logits)

    def forward(self, inputs: Tensor) -> Tensor:
        output = self.model(self.before(inputs))
        logits: Tensor = self.after(output if isinstance(output, Tensor) else output.logits)
        return logits


ORDER = torch.tensor([3, 0, 5, 1, 4, 2])


def _by_value(logits: Tensor) -> Tensor:
    return logits[logits[:, 0].argsort()]


def _permuted(rows: Tensor) -> Tensor:
    return rows[ORDER.argsort()[ORDER.argsort() < len(rows)]]


MOVES: dict[str, Callable[[Tensor], Tensor]] = {
    "rolled": lambda rows: rows.roll(1, 0),
    "flipped": lambda rows: rows.flip(0),
    "sorted": _by_value,
    "permuted": _permuted,
    "shifted": lambda rows: torch.cat([rows[1:], rows[:1]]),
    "averaged": lambda rows: rows - rows.mean(0),
}


def of_rows(model: nn.Module, step: int) -> Tensor:
    is_text = any(isinstance(module, nn.Embedding) for module in model.modules())
    return cross_entropy(model(IDS[step] if is_text else IMAGES[step]))


@pytest.mark.parametrize("build", [bert, lambda: ResNet18(group_norm)], ids=["bert", "resnet"])
@pytest.mark.parametrize("move", MOVES)
def test_rows_that_are_moved_on_the_way_out_are_refused(
    move: str, build: Callable[[], nn.Module]
) -> None:
    model = seeded(lambda: Around(build(), after=MOVES[move]))
    engine = GradientEngine(model, K)
    with (
        pytest.raises(RuntimeError, match=r"the model.*clipper\.backward"),
        engine.watch(CODES[0]),
    ):
        of_rows(model, 0).mean().backward()
    model.zero_grad()
    losses = of_rows(model, 0)
    parts = group_gradients(model, losses, CODES[0], K)
    engine.backward(losses, CODES[0])  # the way out
    assert_step(engine, model, parts, 1e-9)


@pytest.mark.parametrize("build", [bert, lambda: ResNet18(group_norm)], ids=["bert", "resnet"])
def test_rows_that_are_moved_inside_and_put_back_are_right(build: Callable[[], nn.Module]) -> None:
    def moved() -> nn.Module:
        return Around(
            build(), before=lambda rows: rows.roll(2, 0), after=lambda rows: rows.roll(-2, 0)
        )

    assert not assert_exact(seeded(moved), of_rows, CODES)


@pytest.mark.parametrize("n_rows", range(2, 33))
def test_no_roll_or_turn_of_the_rows_looks_like_none(n_rows: int) -> None:
    """Of the rows that are run alone, in a batch of any size."""
    index = some_rows(n_rows, torch.device("cpu"))
    assert 0 < len(index) < n_rows
    rows = torch.arange(n_rows)
    for turn in (rows, rows.flip(0)):
        for by in range(n_rows):
            moved = turn.roll(by)
            alone = (index.flip(0) if turn is not rows else index).roll(by)
            if not torch.equal(moved, rows):
                assert not torch.equal(moved[index], alone), (by, turn)


# ------------------------------------------------------------------ a missed use, and a penalty


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
    (message,) = assert_exact(seeded(Beside), of_rows, CODES, check=check)
    assert "'model.bert.embeddings.word_embeddings.weight'" in message


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


def test_a_penalty_is_named_and_belongs_to_no_row() -> None:
    model = seeded(bert)
    engine = GradientEngine(model, K)
    name = "classifier.weight"
    weight = model.get_parameter(name)
    for step in range(2):
        parts = group_gradients(model, of_ids(model, step), CODES[step], K)
        position = [n for n, _ in model.named_parameters()].index(name)
        parts[-1][position] += 2 * weight.detach()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", FairclipWarning)
            with engine.watch(CODES[step]):
                (of_ids(model, step).mean() + weight.square().sum()).backward()
        messages = [str(w.message) for w in caught]
        assert len(messages) == (step == 0)
        assert all(f"'{name}' comes from no row" in message for message in messages)
        assert_step(engine, model, parts, 1e-9)
        model.zero_grad()
