"""Hooks against one backward pass a group, over drawn shapes and codes."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fairclip.exceptions import FairclipWarning
from fairclip.gradients import GradientEngine, GroupGradients
from tests.gradients._models import CASES, Case, Sequence
from tests.gradients._oracle import assert_adds_up, combined, group_gradients, logits_of, norm

N_GROUPS = 4
TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-10}
EXPECTED_WARNINGS = {"tied": ".*used outside of the forward pass"}


def row_losses(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits_of(model(inputs)), targets, reduction="none")


def make(case: Case, n_rows: int, length: int, width: int) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(n_rows * 100 + length * 10 + width)
    inputs = case.inputs(n_rows, length, width)
    model = case.build(length, width)
    with torch.no_grad():
        model(inputs)  # shapes the lazy layers
    return model, inputs, torch.randint(3, (n_rows,))


def watched(
    engine: GradientEngine, model: nn.Module, inputs: Tensor, targets: Tensor, codes: Tensor
) -> GroupGradients:
    model.zero_grad()
    with engine.watch(codes):
        row_losses(model, inputs, targets).mean().backward()
    return engine.collect()


def assert_agrees(
    found: GroupGradients,
    parts: list[list[Tensor]],
    model: nn.Module,
    tolerance: float,
) -> None:
    """Norms and a recombination, relative to max(||t||, max N_k)."""
    n_groups = len(parts) - 1
    norms = [norm(part) for part in parts[:-1]]
    scale = max(norm(combined(parts, [1.0] * n_groups)), *norms, 1e-30)
    measured = np.sqrt(np.diagonal(np.asarray(found.gramian())))[:-1]
    for expected, value in zip(norms, measured.tolist(), strict=True):
        assert abs(expected - value) <= tolerance * scale
    factors = [0.5, 1.0, 0.125, 3.0][:n_groups]
    expected_sum = combined(parts, factors)
    found.recombine_(torch.tensor(factors, dtype=torch.float64))
    grads = [p.grad for p in model.parameters() if p.requires_grad]
    difference = [
        e - (torch.zeros_like(e) if g is None else g.double())
        for e, g in zip(expected_sum, grads, strict=True)
    ]
    assert norm(difference) <= tolerance * scale


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@settings(derandomize=True, deadline=None, max_examples=12)
@given(data=st.data())
def test_every_rule_agrees_with_one_backward_pass_a_group(
    case: Case, dtype: torch.dtype, data: st.DataObject
) -> None:
    n_rows = data.draw(st.integers(1, 7), label="B")
    length = data.draw(st.integers(2, 5), label="T")
    width = data.draw(st.sampled_from([2, 4, 6]), label="width")
    model, inputs, targets = make(case, n_rows, length, width)
    model.to(dtype)
    inputs = inputs if inputs.dtype == torch.int64 else inputs.to(dtype)
    batch_dim = 0 if n_rows in inputs.shape[1:] else None
    engine = GradientEngine(model, N_GROUPS, batch_dim=batch_dim)
    for step in range(2):  # the first learns and checks
        codes = torch.tensor(
            data.draw(
                st.lists(st.integers(-1, N_GROUPS - 1), min_size=n_rows, max_size=n_rows),
                label=f"codes {step}",
            )
        )
        state = torch.get_rng_state()
        with warnings.catch_warnings():
            if case.name in EXPECTED_WARNINGS:
                warnings.filterwarnings("ignore", EXPECTED_WARNINGS[case.name])
            found = watched(engine, model, inputs, targets, codes)
        torch.set_rng_state(state)  # the same dropout
        exact = copy.deepcopy(model).double()
        exact_inputs = inputs if inputs.dtype == torch.int64 else inputs.double()
        losses = row_losses(exact, exact_inputs, targets)
        parts = group_gradients(exact, losses, codes, N_GROUPS)
        assert_agrees(found, parts, model, TOLERANCES[dtype])
    engine.remove()


def test_a_position_table_is_right_where_the_batch_is_as_long_as_the_sequence() -> None:
    case = Case("square", Sequence, lambda b, t, _: torch.randint(1, 11, (b, t)))
    model, inputs, targets = make(case, 5, 5, 4)
    model.double()
    codes = torch.tensor([0, 1, 1, 2, -1])
    engine = GradientEngine(model, N_GROUPS)
    found = watched(engine, model, inputs, targets, codes)
    parts = group_gradients(model, row_losses(model, inputs, targets), codes, N_GROUPS)
    assert_agrees(found, parts, model, 1e-10)


def test_batch_norm_in_training_adds_up_and_says_what_it_is() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)).double()
    inputs, targets = torch.randn(8, 3).double(), torch.randint(3, (8,))
    codes = torch.tensor([0, 0, 0, 1, 1, 2, -1, -1])
    engine = GradientEngine(model, 3)
    statistics = copy.deepcopy(model[1].state_dict())
    with pytest.warns(FairclipWarning, match="batch statistics"):
        watched(engine, model, inputs, targets, codes)
    engine.remove()
    plain = copy.deepcopy(model)
    plain[1].load_state_dict(statistics)
    plain.zero_grad()
    row_losses(plain, inputs, targets).mean().backward()
    for name, buffer in plain.named_buffers():  # updated once, by the user's own forward
        assert torch.equal(buffer, model.get_buffer(name))
    with pytest.warns(FairclipWarning, match="batch statistics"):
        assert_adds_up(model, lambda: row_losses(model, inputs, targets), codes, 1e-10)


def test_batch_norm_is_exact_with_backward() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)).double()
    inputs, targets = torch.randn(8, 3).double(), torch.randint(3, (8,))
    codes = torch.tensor([0, 0, 0, 1, 1, 2, -1, -1])
    engine = GradientEngine(model, 3)
    engine.backward(row_losses(model, inputs, targets), codes)
    parts = group_gradients(model, row_losses(model, inputs, targets), codes, 3)
    assert_agrees(engine.collect(), parts, model, 1e-10)
