"""A loop of Accelerate, held against the plain loop."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from fairclip import FairClipper, NormCap, with_groups
from fairclip.integrations.accelerate import clip_grad_
from tests.integrations._text import assert_same_steps, forget_accelerators, noting_sgd

N, BATCH = 40, 8
CODES = (torch.arange(N) % 4 == 3).long()


@pytest.fixture(autouse=True)
def no_accelerator() -> Iterator[None]:
    yield
    forget_accelerators()


def make_loader() -> DataLoader[Any]:
    random = torch.Generator().manual_seed(0)
    inputs = torch.randn(N, 5, generator=random)
    targets = (inputs[:, 0] * (1 - 2 * CODES) > 0).long()  # the groups disagree
    return DataLoader(with_groups(TensorDataset(inputs, targets), CODES), batch_size=BATCH)


def make_model() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 2))


def clipper_of(model: nn.Module) -> FairClipper:
    cap = NormCap(max_ratio=0.5, floor=0.0, min_reference_rows=1)
    return FairClipper(model, cap, group_counts=CODES.bincount(), check=False)


class Run:
    """A loop of Accelerate, and what it left."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        model = make_model()
        self.clipper = clipper_of(model)
        sgd, self.steps = noting_sgd(model)
        self.model, self.optimizer, self.loader = accelerator.prepare(model, sgd, make_loader())

    def epoch(self) -> list[float]:
        losses = []
        for inputs, targets, groups in self.loader:
            with self.accelerator.accumulate(self.model):
                with self.clipper.watch(groups):
                    loss = nn.functional.cross_entropy(self.model(inputs), targets)
                    self.accelerator.backward(loss)
                record = clip_grad_(self.clipper, self.accelerator, self.optimizer)
                assert (record is not None) is self.accelerator.sync_gradients
                self.optimizer.step()
                self.optimizer.zero_grad()
            losses.append(float(loss.detach()))
        return losses


def plain_epoch(n_batches: int, *, is_low: bool = False) -> tuple[list[list[Tensor]], FairClipper]:
    model = make_model()
    clipper = clipper_of(model)
    optimizer, steps = noting_sgd(model)
    batches = list(make_loader())
    for start in range(0, len(batches), n_batches):
        for inputs, targets, groups in batches[start : start + n_batches]:
            with clipper.watch(groups):
                with torch.autocast("cpu", torch.bfloat16, enabled=is_low):
                    outputs = model(inputs)
                loss = nn.functional.cross_entropy(outputs.float(), targets)
                (loss / n_batches).backward()  # by as many in a short step, as Accelerate does
        clipper.clip_grad_()
        optimizer.step()
        optimizer.zero_grad()
    return steps, clipper


@pytest.mark.parametrize(
    ("n_batches", "precision"), [(1, "no"), (2, "no"), (1, "bf16"), (2, "bf16")]
)
def test_the_steps_are_those_of_the_plain_loop(n_batches: int, precision: str) -> None:
    accelerator = Accelerator(
        cpu=True, gradient_accumulation_steps=n_batches, mixed_precision=precision
    )
    run = Run(accelerator)
    run.epoch()
    expected, by_hand = plain_epoch(n_batches, is_low=precision == "bf16")
    assert_same_steps(run.steps, expected)
    frame = run.clipper.trace.to_frame()
    pd.testing.assert_frame_equal(frame, by_hand.trace.to_frame(), rtol=1e-4)
    assert len(frame) == -(-N // (BATCH * n_batches))
    assert (frame["factor[0]"] < 1).all()


@pytest.mark.parametrize("n_batches", [1, 2])
def test_a_scaled_loss_leaves_the_same_gradients(n_batches: int) -> None:
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=n_batches)
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)  # what fp16 does
    run = Run(accelerator)
    run.epoch()
    assert_same_steps(run.steps, plain_epoch(n_batches)[0])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("n_batches", [1, 2])
def test_fp16(n_batches: int) -> None:
    accelerator = Accelerator(mixed_precision="fp16", gradient_accumulation_steps=n_batches)
    run = Run(accelerator)
    run.epoch()
    found = [[grad.cpu() for grad in step] for step in run.steps]
    assert_same_steps(found, plain_epoch(n_batches)[0], rtol=2e-2)


def test_to_forget_it_is_an_error() -> None:
    run = Run(Accelerator(cpu=True))
    (inputs, targets, groups), *_ = run.loader
    with run.clipper.watch(groups):
        run.accelerator.backward(nn.functional.cross_entropy(run.model(inputs), targets))
    run.optimizer.step()
    with pytest.raises(RuntimeError, match="clip_grad_"), run.clipper.watch(groups):
        pass


def test_a_checkpoint_holds_the_clipper(tmp_path: Path) -> None:
    def start() -> Run:
        accelerator = Accelerator(cpu=True)
        run = Run(accelerator)
        accelerator.register_for_checkpointing(run.clipper)
        return run

    whole = start()
    whole.epoch()
    whole.accelerator.save_state(str(tmp_path))
    whole.epoch()
    forget_accelerators()
    resumed = start()
    resumed.accelerator.load_state(str(tmp_path))
    resumed.epoch()
    assert all(map(torch.equal, resumed.model.parameters(), whole.model.parameters()))
    frame = resumed.clipper.trace.to_frame()
    pd.testing.assert_frame_equal(frame, whole.clipper.trace.to_frame(), check_exact=True)
    assert len(frame) == 2 * N // BATCH
    torch.load(tmp_path / "custom_checkpoint_0.pkl", weights_only=True)  # no code in it


def test_the_loss_falls() -> None:
    run = Run(Accelerator(cpu=True, gradient_accumulation_steps=2))
    run.optimizer.param_groups[0]["lr"] = 1.0
    losses = [sum(run.epoch()) for _ in range(60)]
    assert losses[-1] < 0.8 * losses[0]
    assert run.clipper.trace.acted()["cap"] > 0.5
