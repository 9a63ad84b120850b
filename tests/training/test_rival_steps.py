"""FairBatch, FairGrad and fairret: by hand, and against the published rules written out slowly."""

import inspect
import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from fairclip.comparison import Settings
from fairclip.comparison._arms import make_arm
from fairclip.training import FairBatchStep, FairGradStep, FairretStep, Step
from tests.training._inputs import one_weight, row_products

Floats = NDArray[np.float64]
Make = Callable[[Tensor, Tensor], Step]

# Cells (group, label): two groups, two labels.
GROUPS = torch.tensor([0, 1, 1, 2, 2, 2, 3, 3, 3, 3])
LABELS = torch.tensor([0, 1, 1, 0, 0, 0, 1, 1, 1, 1])
ONES = torch.ones(2)
MAKE: dict[str, Make] = {
    "fairbatch": FairBatchStep,
    "fairgrad": FairGradStep,
    "fairret": FairretStep,
}


def entropies(outputs: Tensor, targets: Tensor) -> Tensor:
    return binary_cross_entropy_with_logits(outputs.squeeze(1), targets, reduction="none")


class Rows:
    """Rows of six cells (three groups, two labels), a few of them unknown, in small batches."""

    def __init__(self, n: int = 240, n_batches: int = 24) -> None:
        rng = np.random.default_rng(0)
        self.group = rng.choice(3, n, p=[0.6, 0.3, 0.1])
        self.y = (rng.random(n) < 0.4).astype(np.int64)
        self.x = rng.normal(size=(n, 3)) + self.y[:, None] * (self.group[:, None] - 1)
        self.cells = np.where(rng.random(n) < 0.05, -1, 2 * self.group + self.y)
        self.parts = [np.sort(part) for part in np.array_split(rng.permutation(n), n_batches)]

    def train(self, step: Step, epochs: int) -> list[Floats]:
        """Return the parameters of a linear model after each step."""
        model = nn.Linear(3, 1, bias=False, dtype=torch.float64)
        nn.init.zeros_(model.weight)
        optimizer, found = torch.optim.SGD(model.parameters(), 0.5), []
        for part in self.parts * epochs:
            optimizer.zero_grad()
            step(
                model,
                torch.from_numpy(self.x[part]),
                torch.from_numpy(self.y[part]).double(),
                torch.from_numpy(self.cells[part]),
                entropies,
            )
            optimizer.step()
            found.append(model.weight.detach().numpy()[0].copy())
        return found

    def codes(self) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(self.cells), torch.from_numpy(self.y)


def sigmoid(z: Floats) -> Floats:
    return 1 / (1 + np.exp(-z))


def test_fairbatch_worked_by_hand() -> None:
    # Shares 1/4, 3/4 of label 0 and 1/3, 2/3 of label 1. The losses are 2 and 1 for label 0, a
    # gap of 1, and 3 and 1.5 for label 1, a gap of 1.5: cell 3 gives 0.1 of its share to cell 1.
    model, step = one_weight(), FairBatchStep(GROUPS, LABELS, step_size=0.1)
    inputs = torch.tensor([2.0, 3, 3, 1, 1, 1, 1.5, 1.5, 1.5, 1.5])[:, None]
    loss = step(model, inputs, torch.ones(10), GROUPS, row_products)
    assert loss == pytest.approx(1.7)
    assert float(model.weight.grad) == pytest.approx(1.7)  # type: ignore[arg-type]
    model.weight.grad = None
    assert step(model, inputs, torch.ones(10), GROUPS, row_products) == pytest.approx(1.7)
    shares = [1 / 4, 1 / 3 + 0.1, 3 / 4, 2 / 3 - 0.1]
    assert step.shares.tolist() == pytest.approx(shares)
    # 2 + 3 for label 0; six rows of label 1 with mean losses 3 and 1.5 in the new shares.
    expected = (5 + 6 * (3 * shares[1] + 1.5 * shares[3])) / 10
    assert float(model.weight.grad) == pytest.approx(expected)  # type: ignore[arg-type]


def test_fairbatch_shares_end_at_0() -> None:
    step = FairBatchStep(torch.tensor([0, 1]), torch.tensor([0, 0]), step_size=0.3)
    for _ in range(4):
        step(one_weight(), torch.tensor([[1.0], [2.0]]), ONES, torch.tensor([0, 1]), row_products)
    assert step.shares.tolist() == [0, 1]


def test_fairbatch_moves_nothing_without_a_gap() -> None:
    rows, groups = torch.ones(2, 1), torch.tensor([0, 1])
    step = FairBatchStep(groups, torch.tensor([0, 0]))
    for _ in range(3):
        step(one_weight(), rows, ONES, groups, row_products)
    assert step.shares.tolist() == [0.5, 0.5]


def fairbatch_in_numpy(rows: Rows, alpha: float, epochs: int) -> tuple[list[Floats], Floats]:
    """Move the sizes of the cells in a batch, as the authors' sampler does between epochs."""
    size = np.array([(rows.cells == k).sum() for k in range(6)], dtype=float)
    m = np.array([size[[0, 2, 4]].sum(), size[[1, 3, 5]].sum()])
    share = np.array([size[k] / m[k % 2] for k in range(6)])
    theta, found = np.zeros(3), []
    for _ in range(epochs):
        losses: list[list[float]] = [[] for _ in range(6)]
        for part in rows.parts:
            gradient = np.zeros(3)
            for i in part:
                p, k = sigmoid(rows.x[i] @ theta), rows.cells[i]
                weight = 1.0 if k < 0 else share[k] * m[k % 2] / size[k]
                gradient += weight * (p - rows.y[i]) * rows.x[i] / len(part)
                if k >= 0:
                    losses[k].append(-math.log(p if rows.y[i] else 1 - p))
            theta = theta - 0.5 * gradient
            found.append(theta)
        mean = np.array([np.mean(of_cell) for of_cell in losses])
        label = int(np.ptp(mean[1::2]) > np.ptp(mean[0::2]))
        low, high = label + 2 * mean[label::2].argmin(), label + 2 * mean[label::2].argmax()
        moved = min(alpha, share[low])
        share[low] -= moved
        share[high] += moved
    return found, share


def test_fairbatch_is_the_authors_rule_over_epochs() -> None:
    rows = Rows()
    step = FairBatchStep(*rows.codes(), step_size=0.1)
    found = rows.train(step, 5)
    expected, share = fairbatch_in_numpy(rows, 0.1, 5)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    # The oracle has moved once more: after its last epoch.
    rows_of_one, one = torch.ones(1, 3, dtype=torch.float64), torch.tensor([-1])
    step(nn.Linear(3, 1).double(), rows_of_one, rows_of_one[:, 0], one, entropies)
    np.testing.assert_allclose(step.shares, share, rtol=1e-6)


def test_fairgrad_worked_by_hand() -> None:
    # Label 1 alone: half of the rows are in each cell. Cell 0 is right in 2 of 2, cell 1 in 1 of 2,
    # the label in 3 of 4: F = 1/4, -1/4. With eta = 0.4 and no slack lambda_0 = delta_1 = 0.1,
    # m = 0.1, -0.1, whose sum is 0, and w = 1 -+ 0.1 / (1/2) = 0.8, 1.2.
    groups, labels = torch.tensor([0, 0, 1, 1]), torch.ones(4, dtype=torch.int64)
    model, step = one_weight(), FairGradStep(groups, labels, step_size=0.4)
    inputs = torch.tensor([[1.0], [2.0], [3.0], [-1.0]])
    loss = step(model, inputs, torch.ones(4), groups, row_products)
    assert step.weights.tolist() == pytest.approx([0.8, 1.2])
    assert float(model.weight.grad) == pytest.approx((0.8 * 3 + 1.2 * 2) / 4)  # type: ignore[arg-type]
    assert loss == pytest.approx(5 / 4)
    # Cell 0 alone: F_0 = 0 leaves lambda_0 as it is; F_1 is still -1/4 and moves delta_1 to 0.2.
    # m = 0.1, -0.2: w_0 = 1 + (1/2 * -0.1 - 0.1) / (1/2) = 0.7, w_1 = 1 + (-0.05 + 0.2) * 2.
    step(model, inputs[:2], torch.ones(2), groups[:2], row_products)
    assert step.weights.tolist() == pytest.approx([0.7, 1.3])


def test_fairgrad_leaves_what_is_within_the_slack() -> None:
    groups, labels = torch.tensor([0, 0, 1, 1]), torch.ones(4, dtype=torch.int64)
    step = FairGradStep(groups, labels, step_size=0.4, slack=0.25)
    inputs = torch.tensor([[1.0], [2.0], [3.0], [-1.0]])
    step(one_weight(), inputs, torch.ones(4), groups, row_products)
    assert step.weights.tolist() == [1, 1]


def fairgrad_in_numpy(rows: Rows, eta: float, eps: float, epochs: int) -> list[Floats]:
    """Follow the library's update: its matrix C, its P, its cumulative fairness."""
    known = rows.cells >= 0
    y, s = rows.y[known], rows.group[known]
    pairs = [(label, group) for label in range(2) for group in range(3)]
    C = np.array([[(s[y == b] == t).mean() * (a == b) for b, t in pairs] for a, _ in pairs])
    C -= np.eye(6)
    P = np.array([((y == label) & (s == group)).mean() for label, group in pairs])
    cumulative, last, theta, found = np.zeros((2, 6)), np.zeros(6), np.zeros(3), []
    for part in rows.parts * epochs:
        x, target, group, cell = rows.x[part], rows.y[part], rows.group[part], rows.cells[part]
        p = sigmoid(x @ theta)
        right = (p >= 0.5) == target
        fairness = last.copy()
        for k, (label, g) in enumerate(pairs):
            of_label = (target == label) & (cell >= 0)
            if (of_label & (group == g)).any():
                fairness[k] = right[of_label & (group == g)].mean() - right[of_label].mean()
        last = fairness
        cumulative = np.clip(
            cumulative + eta * np.stack([fairness - eps, -(fairness + eps)]), 0, None
        )
        weights = 1 + C.T @ (cumulative[0] - cumulative[1]) / P
        of_rows = np.where(cell < 0, 1, weights[3 * target + group])
        theta = theta - 0.5 * (of_rows * (p - target)) @ x / len(part)
        found.append(theta)
    return found


@pytest.mark.parametrize("slack", [0.0, 0.05])
def test_fairgrad_is_the_librarys_update_over_many_steps(slack: float) -> None:
    rows = Rows()
    step = FairGradStep(*rows.codes(), step_size=0.03, slack=slack)
    found = rows.train(step, 4)
    np.testing.assert_allclose(found, fairgrad_in_numpy(rows, 0.03, slack, 4), rtol=1e-4)
    if not slack:
        assert float(step.weights.min()) < 0  # negative weights are part of the rule


@pytest.mark.parametrize(
    ("step", "kind"), [(FairBatchStep, "fairbatch"), (FairGradStep, "fairgrad")]
)
def test_a_step_has_the_dial_of_its_arm_unless_told(step: Any, kind: str) -> None:
    arm: Any = make_arm(kind, Settings())
    assert inspect.signature(step).parameters["step_size"].default == arm.step_size


def test_fairgrad_reads_one_logit_and_one_for_each_class_alike() -> None:
    inputs = torch.randn(10, 1, generator=torch.Generator().manual_seed(0))
    one, both = FairGradStep(GROUPS, LABELS), FairGradStep(GROUPS, LABELS)
    one(one_weight(), inputs, torch.ones(10), GROUPS, row_products)
    model = nn.Linear(1, 2, bias=False)
    model.weight.data = torch.tensor([[0.0], [1.0]])
    both(model, inputs, torch.ones(10), GROUPS, lambda outputs, _: outputs.sum(1))
    assert one.weights.tolist() == both.weights.tolist()
    assert one.weights.tolist() != [1, 1, 1, 1]


def test_fairret_worked_by_hand() -> None:
    # Probabilities 1/2 and 3/4 of two cells of label 1, one row each: the rate of both is 5/8 and
    # the violations are |4/5 - 1| and |6/5 - 1|. With p = sigmoid(w x), w = log 3, x = 0 and 1, the
    # penalty is 2 * (p1 - 1/2) / (p1 + 1/2), and its slope in p1 is 2 / (p1 + 1/2)^2 = 32/25, in w
    # 32/25 * 3/16 = 6/25.
    model = one_weight(math.log(3))
    groups, labels = torch.tensor([0, 1]), torch.ones(2, dtype=torch.int64)
    step = FairretStep(groups, labels, strength=0.5)
    inputs = torch.tensor([[0.0], [1.0]])
    loss = step(model, inputs, 4 * torch.ones(2), groups, row_products)
    assert loss == pytest.approx(2 * math.log(3))  # of the losses alone
    assert float(model.weight.grad) == pytest.approx(2 + 0.5 * 6 / 25)  # type: ignore[arg-type]


def penalty_in_numpy(rows: Rows, part: NDArray[np.int64], theta: Floats) -> float:
    p, total = sigmoid(rows.x[part] @ theta), 0.0
    for label in range(2):
        of_label = (rows.y[part] == label) & (rows.cells[part] >= 0)
        for group in range(3):
            of_cell = of_label & (rows.group[part] == group)
            if of_cell.any():
                total += abs(p[of_cell].mean() / p[of_label].mean() - 1)
    return total


def test_fairret_is_the_slope_of_the_penalty_on_the_cells_that_are_present() -> None:
    rows, h, n_present = Rows(), 1e-6, set()
    step = FairretStep(*rows.codes(), strength=0.7)
    theta = np.array([0.3, -0.5, 0.8])
    for part in rows.parts:
        model = nn.Linear(3, 1, bias=False, dtype=torch.float64)
        model.weight.data[0] = torch.from_numpy(theta)
        x, y, cells = (torch.from_numpy(v[part]) for v in (rows.x, rows.y, rows.cells))
        step(model, x, y, cells, lambda outputs, _: 0 * outputs[:, 0])
        assert model.weight.grad is not None
        expected = [
            (penalty_in_numpy(rows, part, theta + e) - penalty_in_numpy(rows, part, theta - e))
            / (2 * h)
            for e in h * np.eye(3)
        ]
        np.testing.assert_allclose(
            model.weight.grad.numpy()[0], 0.7 * np.array(expected), rtol=1e-5
        )
        n_present.add(len(np.unique(rows.cells[part][rows.cells[part] >= 0])))
    assert len(n_present) > 1  # batches with and without all cells


def test_fairret_takes_batches_without_a_known_row_and_logits_without_a_rate() -> None:
    step = FairretStep(GROUPS, LABELS)
    for inputs, groups in [
        (torch.ones(3, 1), torch.full((3,), -1)),
        (torch.full((3, 1), -300.0), torch.tensor([0, 2, 2])),
    ]:
        model = one_weight()
        step(model, inputs, torch.ones(3), groups, row_products)
        assert float(model.weight.grad) == pytest.approx(float(inputs[0]))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", MAKE)
def test_unknown_rows_weigh_1(name: str) -> None:
    rows, nowhere = torch.tensor([[1.0], [2.0]]), torch.tensor([-1, -1])
    model, step = one_weight(), MAKE[name](GROUPS, LABELS)
    step(model, torch.arange(10.0)[:, None], torch.ones(10), GROUPS, row_products)  # an epoch
    model.weight.grad = None
    loss = step(model, rows, torch.ones(2), nowhere, row_products)
    assert float(model.weight.grad) == 1.5  # type: ignore[arg-type]
    assert loss == 1.5
    assert not loss.requires_grad


@pytest.mark.parametrize("name", MAKE)
def test_unknown_rows_move_nothing(name: str) -> None:
    inputs = torch.tensor([[1.0], [-2.0], [3.0], [1.0], [-1.0], [2.0], [-3.0], [1.0], [2.0], [4.0]])
    gradients = []
    for n_unknown in (0, 5):
        model, step = one_weight(), MAKE[name](GROUPS, LABELS)
        groups = torch.cat([GROUPS, torch.full((n_unknown,), -1)])
        rows = torch.cat([inputs, torch.zeros(n_unknown, 1)])  # no gradient of their own
        for _ in range(3):
            model.weight.grad = None
            step(model, rows, torch.zeros(len(rows)), groups, lambda outputs, _: outputs[:, 0] ** 2)
        assert model.weight.grad is not None
        gradients.append(float(model.weight.grad))
        if not isinstance(step, FairretStep):  # a mean over more rows
            gradients[-1] *= len(rows)
    known, all_rows = gradients
    if name == "fairret":
        penalty = known - 2 * float(inputs.square().mean())
        all_rows += 2 * float(inputs.square().mean() - inputs.square().sum() / 15)
        assert abs(penalty) > 1e-3
    assert all_rows == pytest.approx(known, rel=1e-5)


@pytest.mark.parametrize("name", MAKE)
def test_a_step_needs_one_loss_per_row(name: str) -> None:
    rows = torch.ones(10, 1)
    with pytest.raises(ValueError, match=r"one loss per row, shape \(10,\), got \(10, 1\)"):
        MAKE[name](GROUPS, LABELS)(one_weight(), rows, rows, GROUPS, lambda o, t: o - t)


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize(
    ("groups", "labels", "message"),
    [
        ([0, 2], [0, 0], r"rows of every code from 0 up, got \[1, 0, 1\] rows"),
        ([-1, -1], [0, 0], "rows of every code"),
        ([0, 0], [0, 1], r"Each code of `groups` must have one label"),
    ],
)
def test_groups_that_are_no_cells_are_refused(
    name: str, groups: list[int], labels: list[int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        MAKE[name](torch.tensor(groups), torch.tensor(labels))


@pytest.mark.parametrize(
    ("make", "value", "message"),
    [
        (FairBatchStep, 0.0, "`step_size` must be in"),
        (FairBatchStep, 1.1, "`step_size` must be in"),
        (FairBatchStep, math.nan, "`step_size` must be in"),
        (FairGradStep, 0.0, "`step_size` must be positive"),
        (FairGradStep, math.inf, "`step_size` must be positive"),
        (FairretStep, -0.1, "`strength` must be finite"),
        (FairretStep, math.nan, "`strength` must be finite"),
    ],
)
def test_dials_out_of_range_are_refused(
    make: Callable[[Tensor, Tensor, float], Step], value: float, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make(GROUPS, LABELS, value)


@pytest.mark.parametrize("slack", [-0.1, 1.5, math.nan])
def test_a_slack_out_of_range_is_refused(slack: float) -> None:
    with pytest.raises(ValueError, match="`slack` must be in"):
        FairGradStep(GROUPS, LABELS, slack=slack)


def test_fairret_needs_two_labels_and_one_logit() -> None:
    with pytest.raises(ValueError, match=r"`labels` must be 0 or 1, got \[0, 2\]"):
        FairretStep(torch.tensor([0, 1]), torch.tensor([0, 2]))
    with pytest.raises(ValueError, match=r"one logit per row, shape \(10, 1\), got \(10, 2\)"):
        FairretStep(GROUPS, LABELS)(
            nn.Linear(1, 2), torch.ones(10, 1), torch.ones(10), GROUPS, lambda outputs, _: outputs
        )


def test_a_missing_fairret_is_one_line_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fairret.loss", None)
    monkeypatch.setitem(sys.modules, "fairret", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "fairclip\[baselines\]"'):
        FairretStep(GROUPS, LABELS)
