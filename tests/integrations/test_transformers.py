"""The Trainer of transformers, held against the plain loop and against itself."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainingArguments, default_data_collator

from fairclip import FairClipper, FairclipWarning
from fairclip.clipping import Norm
from fairclip.integrations.transformers import FairClipTrainer, LogCallback
from tests.gradients._real_models import bert
from tests.integrations._text import (
    MODELS,
    N,
    Rows,
    assert_same_steps,
    clipper_of,
    forget_accelerators,
    make,
    noting_sgd,
)

BATCH = 8
MAX_NORM = 0.05  # below the norms of the first steps


@pytest.fixture(autouse=True)
def no_accelerator() -> Iterator[None]:
    yield
    forget_accelerators()


def arguments(folder: Path, **changed: Any) -> TrainingArguments:
    usual: dict[str, Any] = {
        "output_dir": str(folder),
        "per_device_train_batch_size": BATCH,
        "num_train_epochs": 1,
        "train_sampling_strategy": "sequential",
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0,
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    return TrainingArguments(**usual | changed)


def trainer_of(
    name: str, folder: Path, clipper: FairClipper | None = None, model: Any = None, **changed: Any
) -> FairClipTrainer:
    model = make(name) if model is None else model
    return FairClipTrainer(
        model=model,
        args=arguments(folder, **changed),
        train_dataset=MODELS[name][1](),
        eval_dataset=MODELS[name][1](),
        optimizers=(torch.optim.SGD(model.parameters(), lr=0.1), None),
        clipper=clipper_of(model) if clipper is None else clipper,
    )


def windows(rows: Rows, n_batches: int) -> Iterator[list[dict[str, Tensor]]]:
    """Yield the batches of each step."""
    batches: list[dict[str, Tensor]] = list(
        DataLoader(rows, batch_size=BATCH, collate_fn=default_data_collator)
    )
    for start in range(0, len(batches), n_batches):
        yield batches[start : start + n_batches]


def train_plainly(
    name: str, n_batches: int = 1, max_norm: float = 0.0, *, is_low: bool = False
) -> tuple[list[list[Tensor]], FairClipper]:
    """Take the steps of a Trainer with `arguments` in a loop by hand."""
    model = make(name)
    clipper = clipper_of(model)
    optimizer, steps = noting_sgd(model)
    rows = MODELS[name][1]()
    for window in windows(rows, n_batches):
        n_items = sum(int((batch["labels"] != -100).sum()) for batch in window)
        for batch in window:
            with clipper.watch(batch.pop("groups")):
                with torch.autocast("cpu", torch.bfloat16, enabled=is_low):
                    if name == "bag":
                        loss = model(**batch)["loss"] / len(window)
                    else:  # sums over the step, by the number of its labels
                        loss = model(**batch, num_items_in_batch=n_items)["loss"]
                loss.float().backward()
        clipper.clip_grad_()
        if max_norm:
            nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        optimizer.step()
        optimizer.zero_grad()
    return steps, clipper


MODES: dict[str, dict[str, Any]] = {
    "plain": {},
    "accumulated": {"n_batches": 3},  # the last of 4 batches is short, and a step of its own
    "max_norm": {"n_batches": 2, "max_norm": MAX_NORM},
    "bf16": {"is_low": True},
}


def assert_equal(model: nn.Module, other: nn.Module) -> None:
    assert all(map(torch.equal, model.parameters(), other.parameters()))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", MODELS)
def test_the_steps_are_those_of_the_plain_loop(name: str, mode: str, tmp_path: Path) -> None:
    how = MODES[mode]
    expected, by_hand = train_plainly(name, **how)
    model = make(name)
    optimizer, found = noting_sgd(model)
    clipper = clipper_of(model)
    FairClipTrainer(
        model=model,
        args=arguments(
            tmp_path,
            gradient_accumulation_steps=how.get("n_batches", 1),
            max_grad_norm=how.get("max_norm", 0),
            bf16=how.get("is_low", False),
        ),
        train_dataset=MODELS[name][1](),
        optimizers=(optimizer, None),
        clipper=clipper,
    ).train()
    assert_same_steps(found, expected)
    frames = [c.trace.to_frame() for c in (clipper, by_hand)]
    assert (frames[0]["factor[0]"] < 0.9).all()
    columns = [name for name in frames[1] if str(name).startswith(("n[", "norm[", "factor["))]
    pd.testing.assert_frame_equal(frames[0][columns], frames[1][columns], rtol=1e-4)


@pytest.mark.parametrize(
    "changed",
    [
        {"max_grad_norm": MAX_NORM, "gradient_accumulation_steps": 2},
        {"label_smoothing_factor": 0.1, "bf16": True},
        {"train_sampling_strategy": "random", "optim": "adamw_torch", "max_grad_norm": 1.0},
        {"activation_checkpointing": True},
    ],
    ids=["clipped", "smoothed", "random", "checkpointed"],
)
def test_without_a_bound_all_is_as_without_the_clipper(
    changed: dict[str, Any], tmp_path: Path
) -> None:
    model, other = make("bert"), make("bert")
    rows = MODELS["bert"][1]()
    args = arguments(tmp_path, **changed)
    ours = FairClipTrainer(
        model=model,
        args=args,
        train_dataset=rows,
        clipper=clipper_of(model, max_ratio=float("inf")),
    )
    theirs = Trainer(model=other, args=arguments(tmp_path, **changed), train_dataset=rows)
    for trainer in (ours, theirs):
        trainer.train()
    assert_equal(model, other)
    found, expected = (
        pd.DataFrame(trainer.state.log_history)[["loss", "grad_norm", "learning_rate"]]
        for trainer in (ours, theirs)
    )
    pd.testing.assert_frame_equal(found, expected, rtol=1e-5)


# ------------------------------------------------------------------ max_grad_norm


def test_the_clip_of_the_clipper_takes_the_place_of_the_default(tmp_path: Path) -> None:
    model = make("bert")
    clipper = clipper_of(model, clip=Norm(max_norm=4.0))
    optimizer, steps = noting_sgd(model)
    with torch.no_grad():
        model.get_parameter("classifier.weight").mul_(1000)  # large gradients
    with pytest.warns(FairclipWarning, match=r"`max_grad_norm` is 1.0.*max_norm=4.0.*is taken"):
        trainer = trainer_of("bert", tmp_path, clipper, model, max_grad_norm=1.0)
    trainer.optimizer = optimizer
    trainer.train()
    norms = [float(nn.utils.get_total_norm(step)) for step in steps]
    assert max(norms) == pytest.approx(4.0, rel=1e-4)
    logged = [log["grad_norm"] for log in trainer.state.log_history if "grad_norm" in log]
    frame = clipper.trace.to_frame()
    assert logged == pytest.approx(frame["norm_capped"].tolist())
    assert max(logged) > 4.0
    assert norms == pytest.approx(frame["norm_clipped"].tolist(), rel=1e-5)


def test_max_grad_norm_is_in_the_trace(tmp_path: Path) -> None:
    trainer = trainer_of("bert", tmp_path, max_grad_norm=MAX_NORM)
    trainer.train()
    frame = trainer.clipper.trace.to_frame()
    assert frame["norm_before[Norm]"].tolist() == pytest.approx(frame["norm_capped"].tolist())
    assert frame["norm_after[Norm]"].max() == pytest.approx(MAX_NORM, rel=1e-4)
    last = trainer.state.log_history[-2]
    assert last["fairclip/norm_clipped"] == pytest.approx(last["fairclip/norm_after[Norm]"])
    logged = [log["grad_norm"] for log in trainer.state.log_history if "grad_norm" in log]
    assert logged == pytest.approx(frame["norm_capped"].tolist())


def test_loggers_of_the_trace_see_the_clip(tmp_path: Path) -> None:
    trainer = trainer_of("bag", tmp_path, max_grad_norm=MAX_NORM)
    seen: list[dict[str, float]] = []
    trainer.clipper.trace.log_to(lambda numbers, step: seen.append(numbers), every=1)
    trainer.train()
    assert all("threshold[Norm]" in numbers for numbers in seen)


def test_the_arguments_stay_as_they_are(tmp_path: Path) -> None:
    given = arguments(tmp_path)
    then = given.to_dict()
    model = make("bag")
    FairClipTrainer(model=model, args=given, clipper=clipper_of(model))
    assert given.to_dict() == then


def test_a_compiled_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotImplementedError, match="torch_compile=False"):
        trainer_of("bag", tmp_path, torch_compile=True)


def test_two_clips_are_refused(tmp_path: Path) -> None:
    model = make("bag")
    clipper = clipper_of(model, clip=Norm(max_norm=4.0))
    with pytest.raises(ValueError, match=r"is 0.5.*max_norm=4.0.*pass `max_grad_norm=0`"):
        trainer_of("bag", tmp_path, clipper, model, max_grad_norm=0.5)
    trainer_of("bag", tmp_path, clipper, model, max_grad_norm=0)


# ------------------------------------------------------------------ a loss scaler


class Scaled(FairClipTrainer):
    """What fp16 does, on the CPU."""

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        self.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)


@pytest.mark.parametrize("max_norm", [0, MAX_NORM])
def test_a_scaled_loss_leaves_the_same_gradients(max_norm: float, tmp_path: Path) -> None:
    steps = []
    for kind in (Scaled, FairClipTrainer):
        model = make("bag")
        optimizer, noted = noting_sgd(model)
        kind(
            model=model,
            args=arguments(tmp_path, gradient_accumulation_steps=2, max_grad_norm=max_norm),
            train_dataset=MODELS["bag"][1](),
            optimizers=(optimizer, None),
            clipper=clipper_of(model),
        ).train()
        steps.append(noted)
    assert_same_steps(steps[0], steps[1])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("max_norm", [0, MAX_NORM])
def test_fp16(max_norm: float, tmp_path: Path) -> None:
    steps = []
    for changed in ({"fp16": True}, {}):
        model = make("bert")
        optimizer, noted = noting_sgd(model)
        clipper = clipper_of(model)
        FairClipTrainer(
            model=model,
            args=arguments(
                tmp_path,
                use_cpu=False,
                gradient_accumulation_steps=2,
                max_grad_norm=max_norm,
                **changed,
            ),
            train_dataset=MODELS["bert"][1](),
            optimizers=(optimizer, None),
            clipper=clipper,
        ).train()
        steps.append(noted)
    assert_same_steps(steps[0], steps[1], rtol=2e-2)


# ------------------------------------------------------------------ groups in batches


def test_evaluation_and_prediction_do_without_groups(tmp_path: Path) -> None:
    trainer = trainer_of("bag", tmp_path, eval_strategy="steps", eval_steps=2)
    other = trainer_of("bag", tmp_path)
    for one in (trainer, other):
        one.train()
    assert_equal(trainer.model, other.model)
    rows: Any = MODELS["bag"][1]()
    evaluated = [log["eval_loss"] for log in trainer.state.log_history if "eval_loss" in log]
    assert len(evaluated) == len(trainer.clipper.trace) // 2
    batch = default_data_collator([{**rows[i]} for i in range(N)])
    del batch["groups"]
    with torch.no_grad():
        outputs = trainer.model(**batch)
    predicted = trainer.predict(rows)
    torch.testing.assert_close(torch.from_numpy(predicted.predictions), outputs["logits"])
    assert predicted.metrics["test_loss"] == pytest.approx(float(outputs["loss"]), rel=1e-5)
    without_labels = [{"input_ids": row["input_ids"], "groups": 0} for row in rows]
    again = trainer.predict(without_labels).predictions
    torch.testing.assert_close(torch.from_numpy(again), outputs["logits"])


@pytest.mark.parametrize("removes", [True, False])
def test_other_columns_are_removed_where_the_trainer_does(removes: bool, tmp_path: Path) -> None:
    trainer = trainer_of("bag", tmp_path, remove_unused_columns=removes)
    trainer.train_dataset = [{**row, "extra": 1} for row in trainer.train_dataset]
    (batch, *_) = trainer.get_train_dataloader()
    assert ("extra" in batch) is not removes
    assert batch["groups"].tolist() == [0, 0, 0, 1] * 2


def test_a_batch_without_groups_is_refused(tmp_path: Path) -> None:
    trainer = trainer_of("bag", tmp_path)
    trainer.train_dataset = [dict(row, groups=None) for row in trainer.train_dataset]
    with pytest.raises(ValueError, match=r'no "groups".*with_groups\(dataset, codes\)'):
        trainer.train()


def test_rows_that_are_equal(tmp_path: Path) -> None:
    """A returned loss has no rows, which makes no other tensor suspect."""
    trainer = trainer_of("bag", tmp_path, max_steps=1)
    rows = [trainer.train_dataset[i % 5] for i in range(BATCH)]
    trainer.train_dataset = rows
    trainer.train()
    frame = trainer.clipper.trace.to_frame()
    for code in (0, 1):
        model = make("bag")
        batch = default_data_collator([row for row in rows if row["groups"] == code])
        n_rows = len(batch.pop("groups"))
        (model(**batch)["loss"] * n_rows / BATCH).backward()
        norm = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        assert frame[f"norm[{code}]"][0] == pytest.approx(float(norm), rel=1e-5)


# ------------------------------------------------------------------ checkpoints and logs


def test_a_resumed_run_ends_as_one_in_one_go(tmp_path: Path) -> None:
    changed = {
        "num_train_epochs": 2,
        "train_sampling_strategy": "random",
        "optim": "adamw_torch",
        "lr_scheduler_type": "linear",
        "save_strategy": "steps",
        "save_steps": 3,  # in the middle of the first epoch
        "max_grad_norm": 1.0,
    }

    def trainer(folder: str) -> FairClipTrainer:
        torch.manual_seed(1)
        model = bert(dropout=0.1)
        return FairClipTrainer(
            model=model,
            args=arguments(tmp_path / folder, **changed),
            train_dataset=MODELS["bert"][1](),
            clipper=clipper_of(model),
        )

    whole = trainer("whole")
    whole.train()
    begun = trainer("parts")
    begun.add_callback(StopAfter(3))
    begun.train()
    resumed = trainer("parts")
    resumed.train(resume_from_checkpoint=True)
    assert_equal(resumed.model, whole.model)
    pd.testing.assert_frame_equal(
        resumed.clipper.trace.to_frame(), whole.clipper.trace.to_frame(), check_exact=True
    )
    assert len(whole.clipper.trace) == whole.state.max_steps == 8
    assert len(begun.clipper.trace) == 3
    state = torch.load(tmp_path / "parts" / "checkpoint-3" / "clipper.pt", weights_only=True)
    assert state["version"] == begun.clipper.state_dict()["version"]


class StopAfter(TrainerCallback):  # type: ignore[misc]  # it has no types
    def __init__(self, n_steps: int) -> None:
        self.n_steps = n_steps

    def on_step_end(self, _: Any, state: Any, control: Any, **__: Any) -> None:
        control.should_training_stop = state.global_step == self.n_steps


def test_a_checkpoint_of_another_trainer_warns(tmp_path: Path) -> None:
    changed: dict[str, Any] = {"save_strategy": "steps", "save_steps": 2}
    trainer = trainer_of("bag", tmp_path, **changed)
    trainer.train()
    Path(tmp_path, "checkpoint-2", "clipper.pt").unlink()
    again = trainer_of("bag", tmp_path, **changed)
    with pytest.warns(FairclipWarning, match=r"checkpoint-2 has no clipper.pt"):
        again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert len(again.clipper.trace) == len(trainer.clipper.trace) - 2


def test_numbers_are_logged_with_the_loss(tmp_path: Path) -> None:
    heard: list[dict[str, float]] = []

    class Listener(TrainerCallback):  # type: ignore[misc]  # it has no types
        def on_log(self, *_: Any, logs: Any, **__: Any) -> None:
            heard.append(dict(logs))

    model = make("bag")
    trainer = FairClipTrainer(
        model=model,
        args=arguments(tmp_path, logging_steps=2),
        train_dataset=MODELS["bag"][1](),
        callbacks=[Listener()],
        clipper=clipper_of(model),
    )
    trainer.train()
    trainer.evaluate(MODELS["bag"][1]())
    frame = trainer.clipper.trace.to_frame()
    for logs in (heard, trainer.state.log_history):
        factors = [log["fairclip/factor[0]"] for log in logs if "loss" in log]
        assert factors == frame["factor[0]"].tolist()[1::2]
        assert not any("fairclip" in key for log in logs if "loss" not in log for key in log)


def test_they_are_not_where_the_callback_is_removed(tmp_path: Path) -> None:
    trainer = trainer_of("bag", tmp_path)
    trainer.remove_callback(LogCallback)
    trainer.train()
    assert not any("fairclip" in key for log in trainer.state.log_history for key in log)


# ------------------------------------------------------------------ other trainers and models


def test_it_stands_before_another_trainer_class(tmp_path: Path) -> None:
    class Halved(Trainer):  # type: ignore[misc]  # it has no types
        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            return super().compute_loss(*args, **kwargs) / 2

    class Both(FairClipTrainer, Halved):
        pass

    norms = []
    for kind in (FairClipTrainer, Both):
        model = make("bag")
        trainer = kind(
            model=model,
            args=arguments(tmp_path, max_steps=1),
            train_dataset=MODELS["bag"][1](),
            clipper=clipper_of(model),
        )
        trainer.train()
        norms.append(trainer.clipper.trace.to_frame()["norm[0]"][0])
    assert norms[1] == pytest.approx(norms[0] / 2, rel=1e-5)


def test_what_it_cannot_do_is_refused(tmp_path: Path) -> None:
    model: Any = make("bag")
    with pytest.raises(TypeError, match="`clipper` must be a FairClipper, got Bag"):
        FairClipTrainer(model=model, args=arguments(tmp_path), clipper=model)
    with pytest.raises(ValueError, match="`model_init` makes another model"):
        FairClipTrainer(
            model_init=lambda: make("bag"), args=arguments(tmp_path), clipper=clipper_of(model)
        )
    several = arguments(tmp_path)
    several._n_gpu = 2
    with pytest.raises(NotImplementedError, match="one device for now, and there are 2"):
        FairClipTrainer(model=model, args=several, clipper=clipper_of(model))


@pytest.mark.parametrize("name", ["bert", "gpt2", "t5"])
def test_the_loss_falls(name: str, tmp_path: Path) -> None:
    trainer = trainer_of(name, tmp_path, num_train_epochs=12, max_grad_norm=1.0)
    model = trainer.model
    trainer.optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < 0.7 * before
    assert trainer.clipper.trace.acted()["cap"] > 0.5
