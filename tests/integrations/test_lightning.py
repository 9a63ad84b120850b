"""Lightning trains as the plain loop does: bit for bit, in each of its modes."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning
import pandas as pd
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, TensorDataset

from fairclip import FairClipper, GroupBatchSampler, NormCap, clipping, with_groups
from fairclip.integrations.lightning import FairClipCallback
from tests.clipper._inputs import COUNTS, Batch, lagged, make_batches, mlp, row_losses
from tests.clipper._properties import assert_same

pytestmark = [
    # Lightning on this torch.
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.`:FutureWarning"),
    # Meant for training that is long.
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*log_every_n_steps"),
]

CAP = NormCap(max_ratio=0.5, floor=0.0)
N_BATCHES = 5


def batches_of(seed: int = 0) -> list[Batch]:
    return make_batches(N_BATCHES, seed=seed, dtype=torch.float32)


def make_clipper(model: nn.Module, **options: Any) -> FairClipper:
    return FairClipper(model, CAP, group_counts=COUNTS, **options)


class Task(lightning.LightningModule):  # type: ignore[misc]  # it has no types
    """As users write it, but for the list of the gradients that its optimizer was left with."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(dtype=torch.float32)
        self.gradients: list[list[Tensor]] = []

    def loss(self, batch: Batch) -> Tensor:
        return row_losses(self.net, batch).mean()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.loss(batch)

    def configure_optimizers(self) -> Any:
        return sgd(self.net, self.gradients)


def sgd(model: nn.Module, seen: list[list[Tensor]]) -> Optimizer:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def note(*_: Any) -> None:
        seen.append([p.grad.clone() for p in model.parameters() if p.grad is not None])

    optimizer.register_step_post_hook(note)
    return optimizer


class Manual(Task):
    """Accumulates ``n`` batches, as users do by hand."""

    def __init__(self, n: int = 1) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.n = n
        self.clipper = make_clipper(self)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer = self.optimizers()
        with self.clipper.watch(batch[2]):
            self.manual_backward(self.loss(batch) / self.n)
        if (batch_idx + 1) % self.n == 0 or batch_idx + 1 == N_BATCHES:
            optimizer.step()
            optimizer.zero_grad()


def loader_of(batches: Sequence[Any]) -> DataLoader[Any]:
    return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]


def make_trainer(*callbacks: lightning.Callback, **options: Any) -> lightning.Trainer:
    quiet = {
        "max_epochs": 2,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return lightning.Trainer(**{**quiet, **options}, accelerator="cpu", callbacks=[*callbacks])


def fit(task: Task, batches: Sequence[Any] | None = None, **options: Any) -> FairClipper:
    """Train with the callback; return the clipper."""
    groups = options.pop("groups", -1)
    clipper = getattr(task, "clipper", None) or make_clipper(task, **options.pop("clipper", {}))
    trainer = make_trainer(FairClipCallback(clipper, groups=groups), **options)
    trainer.fit(task, loader_of(batches_of() if batches is None else batches))
    return clipper


class Plain:
    """The loop without Lightning."""

    def __init__(
        self,
        *,
        dtype: torch.dtype | None = None,
        half: torch.dtype | None = None,
        scaler: torch.amp.GradScaler | None = None,
        n: int = 1,
        n_epochs: int = 2,
        then: Callable[[Any], Any] = list,
        batches: Sequence[Batch] | None = None,
        **options: Any,
    ) -> None:
        self.net = mlp(dtype=torch.float32)
        self.clipper = make_clipper(self.net, **options)
        self.net.to(dtype)
        self.gradients: list[list[Tensor]] = []
        optimizer = sgd(self.net, self.gradients)
        batches = batches_of() if batches is None else batches
        for i, (inputs, targets, codes) in enumerate([*batches] * n_epochs):
            batch = inputs.to(dtype), targets, codes
            place = i % len(batches) + 1
            autocast = torch.autocast("cpu", half) if half is not None else nullcontext()
            with self.clipper.watch(codes):
                with autocast:
                    loss = row_losses(self.net, batch).mean()
                loss = loss / n
                (loss if scaler is None else scaler.scale(loss)).backward()
            if place % n and place < len(batches):
                continue
            self.clipper.clip_grad_(scaler, None if scaler is None else optimizer)
            then(self.net.parameters())
            if scaler is None:
                optimizer.step()
            else:
                scaler.step(optimizer)
                scaler.update()
            optimizer.zero_grad()


def assert_trained_alike(task: Task, clipper: FairClipper, plain: Any) -> None:
    assert_same(task.net, plain.net)
    assert len(task.gradients) == len(plain.gradients) > 0
    for found, expected in zip(task.gradients, plain.gradients, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert_same_trace(clipper, plain.clipper)


def assert_same_trace(found: FairClipper, expected: FairClipper) -> None:
    frames = [
        clipper.trace.to_frame().drop(columns="first_nonfinite") for clipper in (found, expected)
    ]
    assert frames[0].equals(frames[1])
    acted = found.trace.acted()
    assert acted["n_steps"] > 0
    assert acted["cap"] > 0.5


SCALE = 2.0**22  # too large at first: steps are skipped, and the scale falls
PRECISIONS: dict[str, dict[str, Any]] = {
    "32-true": {},
    "bf16-true": {"dtype": torch.bfloat16},
    "16-true": {"dtype": torch.float16},
    "bf16-mixed": {"half": torch.bfloat16},
    "16-mixed": {"half": torch.float16},
}


def options_of(precision: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what makes the Trainer, and what makes the plain loop."""
    if precision != "16-mixed":
        return {"precision": precision}, PRECISIONS[precision]
    scalers = [torch.amp.GradScaler("cpu", init_scale=SCALE) for _ in range(2)]
    plugin = MixedPrecision("16-mixed", "cpu", scalers[0])
    return {"plugins": [plugin]}, {**PRECISIONS[precision], "scaler": scalers[1]}


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_automatic(precision: str, n: int) -> None:
    options, plain = options_of(precision)
    task = Task()
    clipper = fit(task, accumulate_grad_batches=n, **options)
    assert_trained_alike(task, clipper, Plain(n=n, **plain))


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_manual(precision: str, n: int) -> None:
    options, plain = options_of(precision)
    task = Manual(n)
    clipper = fit(task, **options)
    assert_trained_alike(task, clipper, Plain(n=n, **plain))


def test_16_mixed_skips_steps_and_takes_others() -> None:
    task = Task()
    clipper = fit(task, **options_of("16-mixed")[0])
    assert 0 < len(task.gradients) < 2 * N_BATCHES
    assert clipper.trace.to_frame()["nonfinite"].sum() == 2 * N_BATCHES - len(task.gradients)
