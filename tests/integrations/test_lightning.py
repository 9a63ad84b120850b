"""Lightning trains as the plain loop does: bit for bit, in each of its modes."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, TensorDataset

from fairclip import FairClipper, FairclipWarning, GroupBatchSampler, NormCap, clipping, with_groups
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

    def training_step(self, batch: Any, _: int) -> Any:
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
    assert acted["cap"] > 0.25


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


CLIPS: dict[str, Callable[[Any], Any]] = {
    "norm": lambda parameters: nn.utils.clip_grad_norm_(parameters, 0.1),
    "value": lambda parameters: nn.utils.clip_grad_value_(parameters, 0.1),
}


@pytest.mark.parametrize("precision", ["32-true", "16-mixed"])
@pytest.mark.parametrize("algorithm", CLIPS)
def test_lightning_clips_after_the_cap(algorithm: str, precision: str) -> None:
    options, plain = options_of(precision)
    task = Task()
    options |= {"gradient_clip_val": 0.1, "gradient_clip_algorithm": algorithm}
    clipper = fit(task, **options)
    expected = Plain(then=CLIPS[algorithm], **plain)
    assert_trained_alike(task, clipper, expected)
    assert clipper.trace.acted()["clip"] == 0.0


def test_the_clip_of_the_clipper() -> None:
    clip = clipping.Norm(max_norm=0.1)
    task = Task()
    clipper = fit(task, clipper={"clip": clip})
    assert_trained_alike(task, clipper, Plain(clip=clip))
    assert clipper.trace.acted()["clip"] > 0.5


def test_two_clips_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`gradient_clip_val` of the Trainer is 0\.1, and"):
        fit(Task(), clipper={"clip": clipping.Norm(max_norm=0.1)}, gradient_clip_val=0.1)


# ------------------------------------------------------------------ batches


class Keyed(Task):
    def training_step(self, batch: Any, _: int) -> Tensor:
        return self.loss((batch["inputs"], batch["targets"], batch["groups"]))


def test_groups_of_a_mapping() -> None:
    task = Keyed()
    names = ("inputs", "targets", "groups")
    clipper = fit(task, [dict(zip(names, batch, strict=True)) for batch in batches_of()])
    assert_trained_alike(task, clipper, Plain())


class First(Task):
    def training_step(self, batch: Any, _: int) -> Tensor:
        return self.loss((batch[1], batch[2], batch[0]))


class OnTheHost(First):
    def on_before_batch_transfer(self, batch: Any, _: int) -> Any:
        return (batch[0].numpy(), *batch[1:])

    def training_step(self, batch: Any, _: int) -> Tensor:
        assert isinstance(batch[0], np.ndarray)
        return super().training_step(batch, 0)


@pytest.mark.parametrize("kind", [First, OnTheHost])
def test_groups_of_another_place(kind: type[Task]) -> None:
    task = kind()
    found = [(codes, inputs, targets) for inputs, targets, codes in batches_of()]
    assert_trained_alike(task, fit(task, found, groups=0), Plain())


class Other(Task):
    def training_step(self, batch: Any, _: int) -> Tensor:
        return self.loss((batch["inputs"], batch["targets"], batch["sex"]))


def test_groups_of_another_key() -> None:
    task = Other()
    names = ("inputs", "targets", "sex")
    found = [dict(zip(names, batch, strict=True)) for batch in batches_of()]
    assert_trained_alike(task, fit(task, found, groups="sex"), Plain())


@pytest.mark.parametrize(
    ("batch", "groups", "message"),
    [
        ({"inputs": torch.ones(2, 4)}, -1, r"no groups at 'groups', it is \['inputs'\]"),
        ({"inputs": torch.ones(2, 4)}, "sex", r"no groups at 'sex', it is \['inputs'\]"),
        (torch.ones(2, 4), -1, "no groups at -1, it is a Tensor"),
        ([torch.ones(2, 4)], 1, "no groups at 1, it is a list"),
        ([torch.ones(2, 4), torch.ones(2)], -1, "two parts, whose last are the targets"),
        ([torch.ones(2, 4)], "groups", "no groups at 'groups', it is a list"),
    ],
)
def test_a_batch_without_groups_is_refused(batch: Any, groups: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"{message}.*with_groups"):
        fit(Task(), [batch], groups=groups)


def test_a_batch_sampler() -> None:
    inputs, targets, codes = (torch.cat(column) for column in zip(*batches_of(), strict=True))
    data = with_groups(TensorDataset(inputs, targets), codes)

    def make_loader() -> DataLoader[Any]:
        return DataLoader(data, batch_sampler=GroupBatchSampler(codes, batch_size=16))

    task = Task()
    clipper = make_clipper(task)
    make_trainer(FairClipCallback(clipper), max_epochs=1).fit(task, make_loader())
    assert_trained_alike(task, clipper, Plain(batches=[*make_loader()], n_epochs=1))


class Evaluated(Task):
    def validation_step(self, batch: Any) -> None:
        self.loss(batch)

    test_step = validation_step


def test_validation_and_tests_are_not_watched() -> None:
    task = Evaluated()
    clipper = make_clipper(task)
    trainer = make_trainer(FairClipCallback(clipper), val_check_interval=2, num_sanity_val_steps=2)
    trainer.fit(task, loader_of(batches_of()), loader_of(batches_of(seed=1)))
    trainer.test(task, loader_of(batches_of(seed=1)), verbose=False)
    assert_trained_alike(task, clipper, Plain())


# ------------------------------------------------------------------ what training steps do


class Skipping(Task):
    def __init__(self, *skipped: int) -> None:
        super().__init__()
        self.skipped = skipped

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        loss = self.loss(batch)
        return None if batch_idx in self.skipped else loss


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
@pytest.mark.parametrize("precision", ["32-true", "16-mixed"])
def test_a_batch_without_a_loss_is_left_out(precision: str) -> None:
    options, plain = options_of(precision)
    task = Skipping(1, 4)
    clipper = fit(task, **options)
    kept = [batch for i, batch in enumerate(batches_of()) if i not in task.skipped]
    expected = Plain(batches=kept, **plain)
    assert_same(task.net, expected.net)
    assert_same_trace(clipper, expected.clipper)


def halve(parameters: Any) -> None:
    for parameter in parameters:
        parameter.grad.div_(2)


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_the_first_batch_of_an_accumulation_may_have_no_loss() -> None:
    task = Skipping(0, 2)
    fit(task, accumulate_grad_batches=2)
    kept = [batch for i, batch in enumerate(batches_of()) if i not in task.skipped]
    # As Lightning has it, which divides by two all the same.
    assert_same(task.net, Plain(batches=kept, then=halve).net)


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
@pytest.mark.parametrize(("skipped", "n"), [(1, 2), (1, 3)])
def test_a_later_one_is_refused(skipped: int, n: int) -> None:
    with pytest.raises(RuntimeError, match="returned None after other batches of the same"):
        fit(Skipping(skipped), accumulate_grad_batches=n)


class Failing(Task):
    fails = True

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        if self.fails and batch_idx == 1:
            raise ArithmeticError
        return loss


@pytest.mark.parametrize("n", [1, 2])
def test_an_error_leaves_nothing_open(n: int) -> None:
    task = Failing()
    callback = FairClipCallback(make_clipper(task))
    with pytest.raises(ArithmeticError):
        make_trainer(callback, accumulate_grad_batches=n).fit(task, loader_of(batches_of()))
    callback.state_dict()
    task.fails = False
    make_trainer(callback, accumulate_grad_batches=n).fit(task, loader_of(batches_of()))
    n_before = 1 if n == 1 else 0
    assert len(callback.clipper.trace) == n_before + 2 * -(-N_BATCHES // n)


class Ending(Task):
    """Ends every epoch before the batch ``at``."""

    at = 3

    def on_train_batch_start(self, _: Any, batch_idx: int) -> int | None:
        return -1 if batch_idx == self.at else None


@pytest.mark.parametrize("n", [1, 2])
def test_an_epoch_may_end_early(n: int) -> None:
    task = Ending()
    clipper = fit(task, accumulate_grad_batches=n)
    clipper.state_dict()
    n_used = task.at - task.at % n  # Lightning throws the rest away
    assert_trained_alike(task, clipper, Plain(n=n, batches=batches_of()[:n_used]))


class EndingAndSkipping(Ending):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        return None if self.current_epoch and batch_idx == 0 else super().loss(batch)


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_nothing_is_left_of_an_accumulation_that_ended_early() -> None:
    clipper = fit(EndingAndSkipping(), accumulate_grad_batches=2)
    assert clipper.trace.to_frame().filter(like="n[").sum(axis=1).max() <= 2 * 16
    assert len(clipper.trace) == 2


class SecondOrder(Task):
    def configure_optimizers(self) -> Any:
        return torch.optim.LBFGS(self.net.parameters(), lr=0.1, max_iter=3)


class ManualSecondOrder(SecondOrder):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.clipper = make_clipper(self)

    def training_step(self, batch: Any, _: int) -> None:
        optimizer = self.optimizers()

        def closure() -> Tensor:
            optimizer.zero_grad()
            with self.clipper.watch(batch[2]):
                loss = self.loss(batch)
                self.manual_backward(loss)
            return loss

        optimizer.step(closure)


def test_optimizers_that_call_the_training_step_again() -> None:
    with pytest.raises(RuntimeError, match=r"second backward pass .* Use manual optimization"):
        fit(SecondOrder())
    task = ManualSecondOrder()
    fit(task, max_epochs=1)
    net = mlp(dtype=torch.float32)
    clipper = make_clipper(net)
    optimizer = torch.optim.LBFGS(net.parameters(), lr=0.1, max_iter=3)
    for batch in batches_of():

        def closure(batch: Batch = batch) -> Tensor:
            optimizer.zero_grad()
            with clipper.watch(batch[2]):
                loss = row_losses(net, batch).mean()
                loss.backward()
            clipper.clip_grad_()
            return loss

        optimizer.step(closure)
    assert_same(task.net, net)
    assert_same_trace(task.clipper, clipper)


class TwoOptimizers(Task):
    """The halves of the network have an optimizer each; a critic that is not capped has another."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.critic = nn.Linear(3, 1)
        self.clipper = make_clipper(self.net)

    def training_step(self, batch: Any, _: int) -> None:
        *halves, of_critic = self.optimizers()
        self.manual_backward(self.critic(self.net(batch[0]).detach()).square().mean())
        of_critic.step()
        with self.clipper.watch(batch[2]):
            self.manual_backward(self.loss(batch))
        for optimizer in halves:
            optimizer.step()
        for optimizer in (*halves, of_critic):
            optimizer.zero_grad()

    def configure_optimizers(self) -> Any:
        parts = (self.net[0], self.net[2], self.critic)
        return [torch.optim.SGD(part.parameters(), lr=0.1) for part in parts]


def test_several_optimizers() -> None:
    task = TwoOptimizers()
    clipper = fit(task)
    expected = Plain()
    assert_same(task.net, expected.net)
    assert_same_trace(clipper, expected.clipper)


def test_several_optimizers_of_the_model_are_refused_with_a_scaler() -> None:
    with pytest.raises(ValueError, match="does not hold parameter"):
        fit(TwoOptimizers(), **options_of("16-mixed")[0])


class Unwatched(Manual):
    def training_step(self, batch: Any, _: int) -> None:
        self.manual_backward(self.loss(batch))
        self.optimizers().step()


def test_manual_optimization_without_a_window_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"inside `watch\(groups\)`"):
        fit(Unwatched())


class Weighing(Task):
    def __init__(self) -> None:
        super().__init__()
        self.clipper = lagged(self.net)

    def training_step(self, batch: Any, _: int) -> Tensor:
        return self.clipper.weigh(row_losses(self.net, batch), batch[2]).mean()


def test_weighed_losses() -> None:
    task = Weighing()
    fit(task, groups=None)
    net = mlp(dtype=torch.float32)
    clipper = lagged(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for batch in batches_of() * 2:
        clipper.weigh(row_losses(net, batch), batch[2]).mean().backward()
        clipper.clip_grad_()
        optimizer.step()
        optimizer.zero_grad()
    assert_same(task.net, net)
    assert_same_trace(task.clipper, clipper)


# ------------------------------------------------------------------ checkpoints


class Resumable(DataLoader[Any]):
    """Goes on in the middle of an epoch, as Lightning asks of a loader."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        super().__init__(batches, batch_size=None)  # type: ignore[arg-type]
        self.done = 0
        self.start = 0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        start, self.start = self.start, 0
        for place in range(start, len(self)):
            self.done = place + 1
            yield self.dataset[place]

    def state_dict(self) -> dict[str, int]:
        return {"done": self.done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.start = state["done"]


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* is not empty")
@pytest.mark.parametrize("n_steps", [N_BATCHES, 2, N_BATCHES + 1])
@pytest.mark.parametrize("precision", ["32-true", "16-mixed"])
def test_a_resumed_run_ends_as_one_that_was_not_stopped(
    precision: str, n_steps: int, tmp_path: Path
) -> None:
    def train(folder: str, max_steps: int, **options: Any) -> tuple[Task, FairClipper]:
        task = Task()
        clipper = make_clipper(task, clip=clipping.Percentile())
        trainer = make_trainer(
            FairClipCallback(clipper),
            ModelCheckpoint(tmp_path / folder, filename="last", every_n_train_steps=n_steps),
            **{**options_of(precision)[0], "enable_checkpointing": True},
            max_epochs=-1,
            max_steps=max_steps,
        )
        trainer.fit(task, Resumable(batches_of()), **options)
        return task, clipper

    whole, expected = train("whole", 2 * N_BATCHES)
    train("first", n_steps)
    path = tmp_path / "first" / "last.ckpt"
    resumed, clipper = train("first", 2 * N_BATCHES, ckpt_path=path, weights_only=True)
    assert_same(resumed.net, whole.net)
    assert_same_trace(clipper, expected)
    assert len(clipper.trace) == 2 * N_BATCHES


def test_a_checkpoint_in_the_middle_of_an_accumulation_holds_the_last_step(tmp_path: Path) -> None:
    alone, task = Evaluated(), Evaluated()
    make_trainer(FairClipCallback(make_clipper(alone)), accumulate_grad_batches=2).fit(
        alone, loader_of(batches_of()), loader_of(batches_of())
    )
    trainer = make_trainer(
        FairClipCallback(make_clipper(task)),
        ModelCheckpoint(tmp_path, save_top_k=-1),
        enable_checkpointing=True,
        val_check_interval=3,
        accumulate_grad_batches=2,
    )
    with pytest.warns(FairclipWarning, match="under way"):
        trainer.fit(task, loader_of(batches_of()), loader_of(batches_of()))
    assert_same(task.net, alone.net)
    for path in tmp_path.glob("*.ckpt"):
        saved = torch.load(path, weights_only=True)
        assert saved["callbacks"]["FairClipCallback"]["trace"]["n_steps"] == saved["global_step"]


# ------------------------------------------------------------------ logs


def logged_in(folder: Path) -> pd.DataFrame:
    return pd.read_csv(next(folder.rglob("metrics.csv"))).dropna(axis="columns", how="all")


@pytest.mark.parametrize("n", [1, 2])
def test_logs_are_of_the_steps_that_lightning_logs(n: int, tmp_path: Path) -> None:
    task = Task()
    logger = CSVLogger(tmp_path)
    clipper = fit(task, logger=logger, log_every_n_steps=2, accumulate_grad_batches=n, max_epochs=3)
    rows = clipper.trace.to_frame().iloc[1::2].reset_index(drop=True)
    found = logged_in(tmp_path)
    assert found["step"].tolist() == rows["step"].tolist()
    left_out = ("step", "first_nonfinite", "norm_clipped")  # Lightning may clip later
    assert "fairclip/norm_clipped" not in found
    names = [column for column in rows if column not in left_out]
    assert rows["norm[1]"].isna().any() or n == 2  # a group that is absent
    for name in names:
        expected = rows[name].astype(float)
        if expected.notna().any():
            assert found[f"fairclip/{name}"].to_numpy() == pytest.approx(
                expected.to_numpy(), rel=1e-6, nan_ok=True
            ), name


@pytest.mark.parametrize(("n", "every", "n_expected"), [(1, 4, 2), (4, 3, 2)])
def test_no_other_step_waits(
    n: int, every: int, n_expected: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    task = Task()
    clipper = make_clipper(task)
    n_read = 0
    latest = clipper.trace.latest

    def counted() -> dict[str, float]:
        nonlocal n_read
        n_read += 1
        return latest()

    monkeypatch.setattr(clipper.trace, "latest", counted)
    trainer = make_trainer(
        FairClipCallback(clipper),
        logger=CSVLogger(tmp_path),
        log_every_n_steps=every,
        accumulate_grad_batches=n,
    )
    trainer.fit(task, loader_of(batches_of()))
    assert n_read == n_expected
