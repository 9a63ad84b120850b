"""Lagged steps where something else wraps the model or runs the backward pass."""

from collections.abc import Iterator
from typing import Any

import lightning
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader

from fairclip import FairClipper
from tests.clipper._inputs import COUNTS, EVERY, Batch, lagged, make_batches, mlp, row_losses
from tests.clipper._properties import assert_same, is_measured, parts_of, step, weighed_step
from tests.gradients._oracle import norm


@pytest.fixture
def accelerator() -> Iterator[Accelerator]:
    yield Accelerator(cpu=True)
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def train_alone(batches: list[Batch]) -> tuple[nn.Module, FairClipper]:
    model = mlp(dtype=torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    clipper = lagged(model)
    for batch in batches:
        weighed_step(clipper, model, batch)
        optimizer.step()
        optimizer.zero_grad()
    return model, clipper


def test_accelerate(accelerator: Accelerator) -> None:
    batches = make_batches(2 * EVERY + 2, dtype=torch.float32)
    alone, expected = train_alone(batches)
    model = mlp(dtype=torch.float32)
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
    clipper = lagged(model)
    for inputs, targets, codes in batches:
        losses = nn.functional.cross_entropy(model(inputs), targets, reduction="none")
        accelerator.backward(clipper.weigh(losses, codes).mean())
        clipper.clip_grad_()
        optimizer.step()
        optimizer.zero_grad()
    assert_same(model, alone)
    found, right = (c.trace.to_frame()["norm[0]"] for c in (clipper, expected))
    assert found.notna().sum() >= 2
    assert found.equals(right)


@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.`:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:.*log_every_n_steps")
def test_lightning(tmp_path: Any) -> None:
    batches = make_batches(2 * EVERY + 2, dtype=torch.float32)
    alone, expected = train_alone(batches)

    class Task(lightning.LightningModule):  # type: ignore[misc]  # it has no types
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp(dtype=torch.float32)
            self.clipper = lagged(self.net)

        def training_step(self, batch: Batch) -> Tensor:
            return self.clipper.weigh(row_losses(self.net, batch), batch[2]).mean()

        def validation_step(self, batch: Batch) -> None:
            self.clipper.weigh(row_losses(self.net, batch), batch[2])

        def configure_gradient_clipping(self, *_: Any, **__: Any) -> None:
            self.clipper.clip_grad_()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    task = Task()
    trainer = lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        val_check_interval=1,
        num_sanity_val_steps=1,
    )
    loaders: list[Any] = [
        DataLoader(some, batch_size=None)  # type: ignore[arg-type]
        for some in (batches, batches[:2])
    ]
    trainer.fit(task, *loaders)
    assert_same(task.net, alone)
    found, right = (c.trace.to_frame()["norm[0]"] for c in (task.clipper, expected))
    assert found.equals(right)


@pytest.fixture
def one_rank() -> Iterator[None]:
    store = distributed.HashStore()  # type: ignore[attr-defined]
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize("take", [step, weighed_step])
def test_one_process_of_a_group_is_as_none(take: Any) -> None:
    model = mlp()
    clipper = lagged(model)
    first, second = make_batches(2)
    take(clipper, model, first)
    model.zero_grad()
    parts = parts_of(model, second)
    record = take(clipper, model, second)
    assert is_measured(record)
    for k, part in enumerate(parts[:-1]):
        if record.counts[k]:
            assert record.group_norms[k].item() == pytest.approx(norm(part), rel=1e-9)


@pytest.mark.usefixtures("one_rank")
def test_a_sharded_model_is_refused() -> None:
    model = mlp()
    fully_shard(model)
    with pytest.raises(NotImplementedError, match="sharded"):
        FairClipper(model, group_counts=COUNTS)


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = mlp()
    clipper = lagged(model)
    batch = make_batches(1)[0]
    losses = row_losses(model, batch)
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    with pytest.raises(NotImplementedError, match="2 processes"):
        clipper.weigh(losses, batch[2])
    with pytest.raises(NotImplementedError, match="2 processes"), clipper.watch(batch[2]):
        pass
    with pytest.raises(NotImplementedError, match="2 processes"):
        FairClipper(mlp(), group_counts=COUNTS)
