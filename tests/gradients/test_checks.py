"""Planted faults: whatever a model does to its rows, the result is right, or it is said."""

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fairclip import FairClipper, NormCap
from fairclip.exceptions import FairclipWarning
from tests.gradients._oracle import combined, group_gradients, logits_of, norm

COUNTS = [600, 250, 150]
K = len(COUNTS)
CAP = NormCap.per_step(0.3)
CODES = torch.tensor([0, 0, 1, 0, 2, -1, 0, 1, 0, 0, 2, 1])
B = len(CODES)


def make_inputs(seed: int = 0) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    inputs = torch.randn(B, 4, generator=random).double() * (K - CODES[:, None])
    return inputs, torch.randint(3, (B,), generator=random)


def row_losses(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(logits_of(model(inputs)), targets, reduction="none")


def watch(
    clipper: FairClipper,
    model: nn.Module,
    seed: int = 0,
    penalty: float = 0.0,
    codes: Tensor = CODES,
) -> None:
    inputs, targets = make_inputs(seed)
    with clipper.watch(codes):
        loss = row_losses(model, inputs, targets).mean()
        if penalty:
            loss = loss + penalty * sum(p.square().sum() for p in model.parameters())
        loss.backward()


def assert_exact(
    clipper: FairClipper, model: nn.Module, seed: int = 0, penalty: float = 0.0
) -> None:
    """Compare a step with one backward pass a group; the penalty is never capped."""
    exact = copy.deepcopy(model)
    state = torch.get_rng_state()
    losses = row_losses(exact, *make_inputs(seed))  # the same dropout
    torch.set_rng_state(state)
    parts = group_gradients(exact, losses, CODES, K)
    unknown = parts[-1]
    for tensor, parameter in zip(unknown, model.parameters(), strict=True):
        tensor += 2 * penalty * parameter.detach()
    norms = [norm(part) for part in parts[:-1]]
    factors = [min(1.0, 0.3 * norms[2] / norms[k]) for k in range(K - 1)] + [1.0]
    assert min(factors) < 0.9  # else nothing is tested
    watch(clipper, model, seed, penalty)
    record = clipper.clip_grad_()
    assert record.group_norms.tolist() == pytest.approx(norms, rel=1e-9)
    assert record.factors.tolist() == pytest.approx(factors, rel=1e-9)
    found = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
    expected = combined(parts, factors)
    difference = norm([a - b for a, b in zip(found, expected, strict=True)])
    assert difference <= 1e-10 * norm(expected)
    model.zero_grad()


def mlp(*between: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), *between, nn.Linear(6, 3)).double()


class Shuffled(nn.Module):
    """Runs its layers on shuffled rows, and puts them back."""

    def __init__(self, order: str) -> None:
        super().__init__()
        self.order = order
        self.layers = mlp()

    def forward(self, inputs: Tensor) -> Tensor:
        n = len(inputs)
        if self.order == "fixed":
            order = torch.randperm(n, generator=torch.Generator().manual_seed(n))
        elif self.order == "reversed":
            order = torch.arange(n).flip(0)
        else:
            order = inputs[:, 0].argsort()
        logits: Tensor = self.layers(inputs[order])[order.argsort()]
        return logits


class Roll(nn.Module):
    def __init__(self, by: int) -> None:
        super().__init__()
        self.by = by

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.roll(self.by, 0)


class Beside(nn.Module):
    """Uses a weight by its module and beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.drop = nn.Dropout(0.0)
        self.last = nn.Linear(6, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.tanh(self.first(inputs)) + functional.linear(inputs, self.first.weight)
        logits: Tensor = self.last(self.drop(hidden))
        return logits


@pytest.mark.parametrize("order", ["fixed", "reversed", "sorted"])
def test_rows_that_are_shuffled_and_put_back(order: str) -> None:
    torch.manual_seed(0)
    model = Shuffled(order).double()
    clipper = FairClipper(model, CAP, group_counts=COUNTS)
    for seed in range(3):
        assert_exact(clipper, model, seed)


def test_rows_that_are_rolled_and_rolled_back() -> None:
    model = mlp(Roll(1), nn.Linear(6, 6), Roll(-1))
    clipper = FairClipper(model, CAP, group_counts=COUNTS)
    for seed in range(3):
        assert_exact(clipper, model, seed)


@pytest.mark.parametrize("by", [1, -2])
def test_rows_that_are_rolled_and_left_so_are_refused(by: int) -> None:
    model = mlp(Roll(by))
    clipper = FairClipper(model, CAP, group_counts=COUNTS)
    with pytest.raises(RuntimeError, match="cannot be told apart"):
        watch(clipper, model)


def test_rows_that_are_rolled_after_the_last_layer_are_refused() -> None:
    model = mlp()
    model.append(Roll(1))
    clipper = FairClipper(model, CAP, group_counts=COUNTS)
    with pytest.raises(RuntimeError, match="cannot be told apart"):
        watch(clipper, model)


def test_a_model_that_centres_its_batch_is_refused_or_named() -> None:
    """As BatchNorm does, but in evaluation too: a row's loss depends on every row."""

    class Centre(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return inputs - inputs.mean(0)

    model = mlp(Centre())
    clipper = FairClipper(model, CAP, group_counts=COUNTS)
    with pytest.raises(RuntimeError, match="cannot be told apart"):
        watch(clipper, model)


@pytest.mark.parametrize("affine", [True, False])
def test_batch_statistics_are_named_with_and_without_weights(affine: bool) -> None:
    model = mlp(nn.BatchNorm1d(6, affine=affine).double())
    clipper = FairClipper(model, CAP, group_counts=COUNTS)
    with pytest.warns(FairclipWarning, match="'2' normalises by batch statistics"):
        watch(clipper, model)


def test_a_weight_that_is_used_beside_its_module_is_named_and_exact() -> None:
    torch.manual_seed(0)
    model = Beside().double()
    clipper = FairClipper(model, CAP, group_counts=COUNTS)
    with pytest.warns(FairclipWarning, match=r"'first\.weight' is used outside"):
        assert_exact(clipper, model)
    for seed in (1, 2):
        assert_exact(clipper, model, seed)


def test_a_weight_beside_its_module_is_exact_with_dropout_too() -> None:
    torch.manual_seed(0)
    model = Beside().double()
    model.drop.p = 0.4
    clipper = FairClipper(model, CAP, group_counts=COUNTS)
    with pytest.warns(FairclipWarning, match=r"'first\.weight' is used outside"):
        assert_exact(clipper, model)
    for seed in (1, 2):
        assert_exact(clipper, model, seed)


@pytest.mark.parametrize("check", ["first", True])
def test_a_penalty_is_named_and_never_capped(check: Any) -> None:
    model = mlp()
    clipper = FairClipper(model, CAP, group_counts=COUNTS, check=check)
    with pytest.warns(FairclipWarning, match="no row"):
        assert_exact(clipper, model, penalty=0.1)
    for seed in (1, 2):  # and is not named again
        assert_exact(clipper, model, seed, penalty=0.1)


def test_a_penalty_beside_dropout_is_named_and_never_capped() -> None:
    model = mlp(nn.Dropout(0.4))
    clipper = FairClipper(model, CAP, group_counts=COUNTS)
    with pytest.warns(FairclipWarning, match="no row"):
        assert_exact(clipper, model, penalty=0.1)
    assert_exact(clipper, model, 1, penalty=0.1)


@pytest.mark.parametrize("drop", [0.0, 0.4], ids=["plain", "dropout"])
def test_a_later_penalty_is_found_by_checking_every_step(drop: float) -> None:
    model = mlp(nn.Dropout(drop))
    clipper = FairClipper(model, CAP, group_counts=COUNTS, check=True)
    for seed in range(2):
        assert_exact(clipper, model, seed)
    with pytest.warns(FairclipWarning, match="no row") as caught:
        assert_exact(clipper, model, 2, penalty=0.1)
    assert not [w for w in caught if "used outside" in str(w.message)]
    assert_exact(clipper, model, 3, penalty=0.1)


def test_without_checks_a_penalty_is_not_looked_for() -> None:
    model, plain = mlp(), mlp()
    clipper = FairClipper(model, CAP, group_counts=COUNTS, check=False)
    watch(clipper, model, penalty=0.1)  # warnings are errors
    record = clipper.clip_grad_()
    checked = FairClipper(plain, CAP, group_counts=COUNTS)
    with pytest.warns(FairclipWarning, match="no row"):
        watch(checked, plain, penalty=0.1)
    expected = checked.clip_grad_()
    assert float(record.group_norms[1]) == pytest.approx(float(expected.group_norms[1]))
    assert abs(float(record.group_norms[0] - expected.group_norms[0])) > 1e-3  # the largest


def test_checking_the_first_step_only_leaves_later_steps_alone() -> None:
    model = mlp()
    clipper = FairClipper(model, CAP, group_counts=COUNTS)
    watch(clipper, model)
    clipper.clip_grad_()
    model.zero_grad()
    watch(clipper, model, penalty=0.1)  # warnings are errors
    clipper.clip_grad_()


def test_a_penalty_on_the_input_gradient_is_refused_and_has_a_way_out() -> None:
    """Differentiating a backward pass: rows cause more than the layers' calls show."""
    model = mlp()
    clipper = FairClipper(model, CAP, group_counts=COUNTS)
    inputs, targets = make_inputs()
    inputs.requires_grad_()

    def penalised() -> Tensor:
        logits = model(inputs)
        (slope,) = torch.autograd.grad(logits.sum(), inputs, create_graph=True)
        losses = functional.cross_entropy(logits, targets, reduction="none")
        return losses + 0.1 * slope.square().sum(1)

    with pytest.raises(RuntimeError, match="create_graph"), clipper.watch(CODES):
        penalised().mean().backward()
    model.zero_grad()
    parts = group_gradients(model, penalised(), CODES, K)
    clipper.backward(penalised(), CODES)
    record = clipper.clip_grad_()
    assert record.group_norms.tolist() == pytest.approx([norm(p) for p in parts[:-1]], rel=1e-9)


def test_an_input_gradient_that_is_only_looked_at_changes_nothing() -> None:
    model = mlp()
    clipper = FairClipper(model, CAP, group_counts=COUNTS)
    inputs, targets = make_inputs()
    norms = [norm(p) for p in group_gradients(model, row_losses(model, inputs, targets), CODES, K)]
    inputs.requires_grad_()
    for _ in range(2):
        with clipper.watch(CODES):
            logits = model(inputs)
            torch.autograd.grad(logits.sum(), inputs, retain_graph=True)  # a saliency map, say
            functional.cross_entropy(logits, targets).backward()
        record = clipper.clip_grad_()
        assert record.group_norms.tolist() == pytest.approx(norms[:-1], rel=1e-9)
        model.zero_grad()


class Scaled(nn.Module):
    """A parameter of the module's own, so that it is run again; dropout as it is set."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(4) + 0.5)
        self.drop = nn.Dropout(0.0)
        self.head = nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.head(self.drop(inputs * self.scale))
        return logits


@pytest.mark.parametrize("how", ["eval first", "rate raised"])
def test_dropout_that_begins_later_is_noticed_where_a_module_is_run_again(how: str) -> None:
    torch.manual_seed(0)
    model = Scaled().double()
    clipper = FairClipper(model, CAP, group_counts=COUNTS)
    if how == "eval first":
        model.drop.p = 0.5
        model.eval()
    assert_exact(clipper, model, 0)
    model.train()
    model.drop.p = 0.5
    for seed in (1, 2):
        assert_exact(clipper, model, seed)


def test_a_use_that_begins_later_is_exact() -> None:
    """As of a layer that is used outside of its module from some step on."""

    class Later(Beside):
        beside = False

        def forward(self, inputs: Tensor) -> Tensor:
            hidden = torch.tanh(self.first(inputs))
            if self.beside:
                hidden = self.first(hidden[:, :4])
            logits: Tensor = self.last(hidden)
            return logits

    torch.manual_seed(0)
    model = Later().double()
    clipper = FairClipper(model, CAP, group_counts=COUNTS)
    assert_exact(clipper, model, 0)
    model.beside = True
    learn_anew(clipper, model)
    for seed in (1, 2):
        assert_exact(clipper, model, seed)


def learn_anew(clipper: FairClipper, model: nn.Module) -> None:
    """A step that is unlike those before may go uncapped, if it says so."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*no step before")
        watch(clipper, model)
    clipper.clip_grad_()
    model.zero_grad()


def test_sequences_of_other_lengths_come_later() -> None:
    class Flattened(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 6)
            self.head = nn.Linear(6, 3)

        def forward(self, inputs: Tensor) -> Tensor:
            rows, length, width = inputs.shape
            hidden = self.layer(inputs.reshape(rows * length, width)).tanh()
            logits: Tensor = self.head(hidden.reshape(rows, length, 6).mean(1))
            return logits

    torch.manual_seed(0)
    model = Flattened().double()
    clipper = FairClipper(model, CAP, group_counts=COUNTS)
    _, targets = make_inputs()
    inputs = torch.randn(B, 1, 4).double()
    with clipper.watch(CODES):
        row_losses(model, inputs, targets).mean().backward()
    clipper.clip_grad_()
    model.zero_grad()
    inputs = torch.randn(B, 3, 4).double()  # whose entry is whose cannot be known from the first
    with pytest.raises(ValueError, match="make a new clipper"), clipper.watch(CODES):
        row_losses(model, inputs, targets).mean().backward()
