"""TensorBoard: what a real event file holds afterwards."""

from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    EventAccumulator,
)
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from fairclip import FairClipper, GroupEncoder
from fairclip.integrations.tensorboard import Scalars, log_histograms
from tests.clipper._inputs import COUNTS, Batch, make_batches, mlp, row_losses

LAYERS = {"0": ["0.weight", "0.bias"], "2": ["2.weight", "2.bias"]}


def events_in(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder), {"scalars": 0, "histograms": 0}).Reload()


def backward(clipper: FairClipper, model: nn.Module, batch: Batch, scale: float = 1.0) -> None:
    with clipper.watch(batch[2]):
        (row_losses(model, batch).mean() * scale).backward()


def test_the_file_holds_each_number_of_each_logged_step(tmp_path: Path) -> None:
    names = ["a/b", "a(b), <c>=[é]", "a[b"]
    encoder = GroupEncoder().fit(names * 30)
    model = mlp()
    clipper = FairClipper(model, encoder=encoder)
    with SummaryWriter(str(tmp_path)) as writer:
        clipper.trace.log_to(Scalars(writer), every=3)
        for batch in make_batches(7):
            backward(clipper, model, batch)
            clipper.clip_grad_()
            model.zero_grad()
    events = events_in(tmp_path)
    frame = clipper.trace.to_frame().drop(columns="first_nonfinite").astype(float)
    logged = frame[frame["step"] % 3 == 0].set_index("step").dropna(axis="columns", how="all")
    assert {*events.Tags()["scalars"]} == {f"fairclip/{column}" for column in logged}
    for column in logged:
        found = {event.step: event.value for event in events.Scalars(f"fairclip/{column}")}
        assert found == pytest.approx(logged[column].dropna().to_dict(), rel=1e-6)


def test_histograms_are_of_each_layer_s_gradient_by_group(tmp_path: Path) -> None:
    model = mlp()
    clipper = FairClipper(model, group_counts=COUNTS)
    batches = make_batches(4)
    expected = {}
    with SummaryWriter(str(tmp_path)) as writer:
        for step, batch in enumerate(batches):
            backward(clipper, model, batch)
            for group, gradients in clipper.gradients_by_group().items():
                for layer, names in LAYERS.items():
                    values = torch.cat([gradients[name].flatten() for name in names])
                    expected[f"fairclip/gradient[{layer}][{group}]", step] = values
            log_histograms(writer, clipper, step)
            clipper.clip_grad_()
            model.zero_grad()
    events = events_in(tmp_path)
    tags = events.Tags()["histograms"]
    found = {(tag, e.step): e.histogram_value for tag in tags for e in events.Histograms(tag)}
    assert found.keys() == expected.keys()
    assert 0 < len(tags) <= 8
    for key, values in expected.items():
        histogram = found[key]
        assert histogram.num == len(values)
        assert histogram.min == pytest.approx(values.min().item(), rel=1e-5)
        assert histogram.max == pytest.approx(values.max().item(), rel=1e-5)
        assert histogram.sum == pytest.approx(values.sum().item(), rel=1e-4, abs=1e-6)
        # The counts by the edges that are written beside them.
        below = (values[:, None] <= torch.tensor(histogram.bucket_limit)).sum(0)
        np.testing.assert_allclose(np.cumsum(histogram.bucket), below, atol=1)


def test_a_gradient_that_is_not_finite_has_no_histogram(tmp_path: Path) -> None:
    model = mlp()
    clipper = FairClipper(model, group_counts=COUNTS)
    batch = make_batches(1)[0]
    with SummaryWriter(str(tmp_path)) as writer:
        backward(clipper, model, batch, scale=torch.inf)
        log_histograms(writer, clipper, 0)
        clipper.clip_grad_()
        model.zero_grad()
        backward(clipper, model, batch)
        log_histograms(writer, clipper, 1)
    events = events_in(tmp_path)
    for tag in events.Tags()["histograms"]:
        assert [event.step for event in events.Histograms(tag)] == [1]


def test_a_scaled_loss_has_the_histograms_of_the_loss_as_it_was(tmp_path: Path) -> None:
    model = mlp()
    clipper = FairClipper(model, group_counts=COUNTS)
    batch = make_batches(1)[0]
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    with SummaryWriter(str(tmp_path)) as writer:
        backward(clipper, model, batch)
        log_histograms(writer, clipper, 0)
        clipper.clip_grad_()
        model.zero_grad()
        backward(clipper, model, batch, scale=float(scaler.scale(torch.ones(()))))
        log_histograms(writer, clipper, 1, scaler)
    events = events_in(tmp_path)
    plain, scaled = events.Histograms("fairclip/gradient[0][0]")
    assert plain.histogram_value == scaled.histogram_value


def test_bfloat16_and_any_writer() -> None:
    writer = Mock(spec=["add_scalar", "add_histogram"])
    model = nn.Linear(4, 3, dtype=torch.bfloat16)  # a layer without a name
    clipper = FairClipper(model, group_counts=COUNTS, check=False)
    backward(clipper, model, make_batches(1, dtype=torch.bfloat16)[0])
    log_histograms(writer, clipper, 5)
    tag, values, step = writer.add_histogram.call_args_list[0].args
    assert (tag, step) == ("fairclip/gradient[][0]", 5)
    assert (values.dtype, values.shape) == (torch.float32, (15,))
