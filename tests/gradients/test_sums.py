"""Rows that are kept against sums that are worked out, and both against float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fairclip.gradients import GradientEngine, GroupGradients
from fairclip.gradients._outer import Outer
from tests.gradients._oracle import combined, group_gradients, norm

N_GROUPS = 4


def measured(
    model: nn.Module, inputs: Tensor, targets: Tensor, codes: Tensor, *, by_layer: bool = False
) -> GroupGradients:
    engine = GradientEngine(model, N_GROUPS, batch_dim=0, check=False)
    model.zero_grad()
    with engine.watch(codes):
        losses(model, inputs, targets).mean().backward()
    engine.remove()
    return engine.collect(by_layer=by_layer)


def losses(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    of_rows: Tensor = (model(inputs) - targets).square().sum(tuple(range(1, targets.ndim)))
    return of_rows


def gradients(model: nn.Module) -> list[Tensor]:
    return [p.grad for p in model.parameters() if p.grad is not None]


def norms(found: GroupGradients) -> np.ndarray:
    norms: np.ndarray = np.diagonal(found.gramian(), axis1=-2, axis2=-1) ** 0.5
    return norms


@pytest.fixture(params=[True, False], ids=["rows", "sums"])
def kept(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether linear layers keep their rows."""
    is_kept = bool(request.param)
    monkeypatch.setattr(
        Outer, "is_worth_keeping", lambda self, _: is_kept and self.weight is not None
    )
    return is_kept


@pytest.mark.parametrize("bias", [True, False])
@settings(derandomize=True, deadline=None, max_examples=20)
@given(data=st.data())
def test_rows_and_sums_agree_with_float64(bias: bool, data: st.DataObject) -> None:
    n_rows, n_tokens, width = (data.draw(st.integers(1, n)) for n in (9, 3, 6))
    codes = torch.tensor(
        data.draw(st.lists(st.integers(-1, N_GROUPS - 1), min_size=n_rows, max_size=n_rows))
    )
    torch.manual_seed(data.draw(st.integers(0, 99)))
    model = nn.Sequential(nn.Linear(5, width, bias), nn.Tanh(), nn.Linear(width, 2, bias)).double()
    inputs = torch.randn(n_rows, n_tokens, 5).double()
    targets = torch.randn(n_rows, n_tokens, 2).double()
    parts = group_gradients(model, losses(model, inputs, targets), codes, N_GROUPS)
    scale = max(norm(combined(parts, [1.0] * N_GROUPS)), *map(norm, parts))
    factors = torch.tensor([0.5, 1.0, 0.125, 3.0])
    expected = combined(parts, factors.tolist())
    flat = torch.stack([torch.cat([t.flatten() for t in part]) for part in parts])
    for is_kept in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Outer, "is_worth_keeping", lambda *_, kept=is_kept: kept)
            found = measured(model, inputs, targets, codes)
        gramian = torch.from_numpy(found.gramian())
        assert float((gramian - flat @ flat.T).abs().max()) <= 1e-12 * scale**2
        found.recombine_(factors)
        off = [g - e for g, e in zip(gradients(model), expected, strict=True)]
        assert norm(off) <= 1e-12 * scale


class Mixed(nn.Module):
    """A table, linear layers, a normalisation, and a parameter that only a re-run can serve."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 5)
        self.first = nn.Linear(5, 4)
        self.scale = nn.Parameter(torch.rand(4) + 0.5)
        self.last = nn.Sequential(nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 2))

    def forward(self, ids: Tensor) -> Tensor:
        outputs: Tensor = self.last(self.first(self.table(ids)) * self.scale)
        return outputs


def contributions(model: nn.Module, inputs: Tensor, targets: Tensor, codes: Tensor) -> Tensor:
    """Return what each group causes, and what is no group's, (K + 1, P); the losses are summed."""
    engine = GradientEngine(model, N_GROUPS, batch_dim=0)
    found = []
    for chosen in (*torch.eye(N_GROUPS), torch.zeros(N_GROUPS)):
        model.zero_grad()
        with engine.watch(codes):
            losses(model, inputs, targets).sum().backward()
        engine.collect().recombine_(chosen)
        found.append(torch.cat([grad.flatten() for grad in gradients(model)]))
    engine.remove()
    return torch.stack(found)


@pytest.mark.parametrize("is_kept", [True, False], ids=["rows", "sums"])
@settings(derandomize=True, deadline=None, max_examples=8)
@given(
    codes=st.lists(st.integers(-1, N_GROUPS - 1), min_size=9, max_size=9).map(torch.tensor),
    cut=st.integers(1, 8),
)
def test_what_halves_of_the_rows_cause_adds_up(is_kept: bool, codes: Tensor, cut: int) -> None:
    """All that is kept for a group is a sum over rows, which could be added up over processes."""
    torch.manual_seed(0)
    model = Mixed().double()
    inputs, targets = torch.randint(7, (9, 3)), torch.randn(9, 3, 2).double()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Outer, "is_worth_keeping", lambda *_: is_kept)
        whole, first, second = (
            contributions(model, inputs[rows], targets[rows], codes[rows])
            for rows in (slice(None), slice(cut), slice(cut, None))
        )
    torch.testing.assert_close(first + second, whole, rtol=0, atol=1e-12 * float(whole.norm()))


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_largest_group_that_causes_nothing_has_no_norm(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = nn.Linear(20, 10).to(dtype)
    inputs, codes = torch.randn(64, 20).to(dtype), torch.tensor([0] * 40 + [1] * 16 + [2] * 8)
    with torch.no_grad():
        targets = model(inputs)
    targets[40:] += torch.randn(24, 10).to(dtype)
    found = measured(model, inputs, targets, codes)
    assert norms(found)[0] <= 10 * torch.finfo(dtype).eps * norms(found)[1]


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize("size", [1e-1, 1e-2, 1e-3, 1e-4])
def test_rows_that_cancel_leave_an_accurate_norm(size: float) -> None:
    torch.manual_seed(0)
    model = nn.Linear(30, 10)
    half, noise = torch.randn(20, 30), torch.randn(20, 10)
    inputs = torch.cat([half, half, torch.randn(60, 30)])
    codes = torch.tensor([1] * 40 + [0] * 60)
    with torch.no_grad():
        targets = model(inputs)
        targets[:20] += noise
        targets[20:40] -= noise * (1 + size)
        targets[40:] += size * torch.randn(60, 10)
    exact = nn.Linear(30, 10).double()
    exact.load_state_dict(model.state_dict())
    parts = group_gradients(
        exact, losses(exact, inputs.double(), targets.double()), codes, N_GROUPS
    )
    found = norms(measured(model, inputs, targets, codes))
    # Of the rows' own gradients, which are 1 / size times larger than their sum.
    terms = norm(parts[1]) / size
    assert abs(found[1] - norm(parts[1])) <= 1e-6 * terms
    assert abs(found[0] - norm(parts[0])) <= 1e-6 * terms


@pytest.mark.usefixtures("kept")
def test_the_group_that_is_not_finite_is_told_apart() -> None:
    torch.manual_seed(0)
    model = nn.Linear(6, 3)
    inputs, targets = torch.randn(12, 6), torch.randn(12, 3)
    codes = torch.tensor([0] * 6 + [1] * 3 + [2] * 3)
    engine = GradientEngine(model, N_GROUPS)
    for last in (0.0, torch.inf):  # the first window learns
        model.zero_grad()
        with engine.watch(codes):
            of_rows = losses(model, inputs, targets)
            (of_rows * torch.tensor([1.0] * 11 + [1.0 + last])).mean().backward()
        found = norms(engine.collect())
    assert np.isfinite(found).tolist() == [False, True, False, True, True]


@pytest.mark.usefixtures("kept")
def test_layers_are_told_apart() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    inputs, targets = torch.randn(9, 5).double(), torch.randn(9, 2).double()
    codes = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2, -1])
    parts = group_gradients(model, losses(model, inputs, targets), codes, N_GROUPS)
    found = measured(model, inputs, targets, codes, by_layer=True)
    for layer, tensors in enumerate((slice(0, 2), slice(2, 4))):
        expected = [norm(part[tensors]) for part in parts]
        assert np.allclose(norms(found)[layer], expected, rtol=1e-12, atol=1e-12)
    factors = torch.tensor([[0.5, 1.0, 2.0, 1.0], [1.0, 0.25, 1.0, 1.0]])
    expected_sum = [
        *combined([part[:2] for part in parts], factors[0].tolist()),
        *combined([part[2:] for part in parts], factors[1].tolist()),
    ]
    found.recombine_(factors)
    off = [g - e for g, e in zip(gradients(model), expected_sum, strict=True)]
    assert norm(off) <= 1e-12 * norm(expected_sum)


def test_norms_of_a_large_layer() -> None:
    torch.manual_seed(0)
    size = 2000
    model = nn.Linear(size, size, bias=False)
    inputs = torch.rand(32, size) + 1
    codes = torch.tensor([0] * 20 + [1] * 8 + [-1] * 4)
    engine = GradientEngine(model, 2, check=False)
    with engine.watch(codes):
        model(inputs).mean().backward()
    squares = torch.as_tensor(engine.collect().gramian()).diagonal()[:2]
    exact = nn.Linear(size, 1, bias=False).double()  # every row of the weight has this gradient
    parts = group_gradients(exact, exact(inputs.double()).mean(1), codes, 2)
    expected = [norm(part) / size**0.5 for part in parts[:2]]
    assert squares.sqrt().tolist() == pytest.approx(expected, rel=1e-6)
