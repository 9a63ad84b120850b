"""Saving, resuming, and states that do not fit."""

import io
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn

from fairclip import FairClipper, FairclipWarning, NormCap
from fairclip.clipping import Norm
from tests.clipper._inputs import COUNTS, EVERY, LAGGED_CAP, Batch, K, make_batches, mlp, row_losses
from tests.clipper._properties import assert_same, grads, step, weighed_step
from tests.gradients._oracle import norm
from tests.training._properties import assert_same_states


@pytest.mark.parametrize(
    ("take", "cap", "n_before"),
    [(step, NormCap(0.5), 4), (weighed_step, LAGGED_CAP, 3), (weighed_step, LAGGED_CAP, 4)],
    ids=["watched", "weighed, not measured next", "weighed, measured next"],
)
def test_a_resumed_run_goes_on_bit_for_bit(take: Any, cap: NormCap, n_before: int) -> None:
    batches = make_batches(11, dtype=torch.float32)

    def build() -> tuple[Any, ...]:
        model = mlp(dtype=torch.float32)
        model.insert(2, nn.Dropout(0.3))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
        clipper = FairClipper(model, cap, Norm(0.1), n_groups=K, measure_every=EVERY)
        return model, optimizer, clipper

    def run(parts: tuple[Any, ...], chosen: list[Batch]) -> None:
        model, optimizer, clipper = parts
        for batch in chosen:
            take(clipper, model, batch)
            optimizer.step()
            optimizer.zero_grad()

    whole = build()
    run(whole, batches[:n_before])
    saved = io.BytesIO()
    torch.save({"states": [p.state_dict() for p in whole], "rng": torch.get_rng_state()}, saved)
    run(whole, batches[n_before:])

    saved.seek(0)
    loaded = torch.load(saved, weights_only=True)
    resumed = build()
    for part, state in zip(resumed, loaded["states"], strict=True):
        part.load_state_dict(state)
    torch.set_rng_state(loaded["rng"])
    run(resumed, batches[n_before:])
    assert_same(resumed[0], whole[0])
    pd.testing.assert_frame_equal(
        resumed[2].trace.to_frame(), whole[2].trace.to_frame(), check_exact=True
    )


def test_a_state_of_another_version_or_of_other_groups_is_refused() -> None:
    clipper = FairClipper(mlp(), group_counts=COUNTS)
    state = clipper.state_dict()
    with pytest.raises(ValueError, match="version 99"):
        clipper.load_state_dict({**state, "version": 99})
    with pytest.raises(ValueError, match="version None"):
        clipper.load_state_dict({})
    with pytest.raises(ValueError, match="other groups"):
        clipper.load_state_dict({**state, "names": ["a", "b", "c"]})
    with pytest.raises(ValueError, match="row counts"):
        FairClipper(mlp(), group_counts=[600, 250, 151]).load_state_dict(state)
    with pytest.raises(ValueError, match="scope"):
        FairClipper(mlp(), NormCap(scope="layer"), group_counts=COUNTS).load_state_dict(state)


def test_another_clip_may_be_set_between_two_steps() -> None:
    model = mlp()
    clipper = FairClipper(model, NormCap(0.5), group_counts=COUNTS)
    first, second = make_batches(2)
    assert step(clipper, model, first).clip is None
    model.zero_grad()
    clipper.clip = Norm(0.01)
    record = step(clipper, model, second)
    assert record.clip is not None
    assert norm(grads(model)) <= 0.01 * (1 + 1e-6)
    assert not clipper.is_in_step
    with pytest.raises(TypeError, match="must be a clipping mode"):
        clipper.clip = 1.0  # type: ignore[assignment]


def test_the_state_in_the_middle_of_a_step_is_that_before_it() -> None:
    model = mlp()
    clipper = FairClipper(model, group_counts=COUNTS)
    first, second = make_batches(2)
    step(clipper, model, first)
    model.zero_grad()
    before = clipper.state_dict()
    with clipper.watch(second[2]):
        row_losses(model, second).mean().backward()
        with pytest.warns(FairclipWarning, match="under way"):
            clipper.state_dict()
    with pytest.warns(FairclipWarning, match="under way"):
        in_step = clipper.state_dict()
    assert_same_states(in_step, before)
    with pytest.raises(RuntimeError, match=r"under way.*clip_grad_"):
        clipper.load_state_dict(before)
    clipper.clip_grad_()
    clipper.load_state_dict(clipper.state_dict())
