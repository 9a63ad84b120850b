"""What is on disk is whole, what is not whole is never loaded, and a run goes on bit for bit."""

import io
import json
import os
import pickle
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fairclip import Checkpoint, FairClipper, FairclipWarning, GroupBatchSampler, with_groups
from fairclip.clipping import Percentile
from tests.training import _killed_run
from tests.training._properties import (
    assert_different_weights,
    assert_same_states,
    assert_same_weights,
)

GROUPS = torch.arange(120) % 3 // 2
PARTIAL = ".run.pt.partial"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.pt"


class Run:
    """A loop as a user writes it, on 5 batches an epoch."""

    def __init__(
        self,
        path: Path,
        *,
        own_generator: bool = True,
        n_workers: int = 0,
        device: str = "cpu",
        width: int = 8,
    ) -> None:
        torch.manual_seed(0)
        rows = TensorDataset(
            torch.linspace(-1, 1, 120)[:, None], torch.linspace(0, 1, 120)[:, None]
        )
        self.device = device
        self.model = nn.Sequential(nn.Linear(1, width), nn.Dropout(0.5), nn.Linear(width, 1))
        self.model.to(device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.1)
        self.clipper = FairClipper(
            self.model, clip=Percentile(50, window=9), group_counts=GROUPS.bincount()
        )
        self.sampler = GroupBatchSampler(GROUPS, batch_size=24)
        self.loader = DataLoader(
            with_groups(rows, GROUPS),
            batch_sampler=self.sampler,
            generator=torch.Generator() if own_generator else None,
            num_workers=n_workers,
        )
        self.checkpoint = Checkpoint(path, **self.parts)

    @property
    def parts(self) -> dict[str, Any]:
        names = ("model", "optimizer", "clipper", "sampler")
        return {name: getattr(self, name) for name in names}

    def states(self) -> dict[str, Any]:
        states = {name: part.state_dict() for name, part in self.parts.items()}
        return states | {"torch": torch.get_rng_state(), "python": random.getstate()}

    def train(self, step: int, n_steps: int, save_at: int | None = None) -> None:
        while step < n_steps:
            for inputs, targets, groups in self.loader:
                with self.clipper.watch(groups):
                    outputs = self.model(inputs.to(self.device))
                    nn.functional.mse_loss(outputs, targets.to(self.device)).backward()
                self.clipper.clip_grad_()
                self.optimizer.step()
                self.optimizer.zero_grad()
                step += 1
                if step == save_at:
                    self.checkpoint.save(step)
                if step == n_steps:
                    break


def trained(path: Path, n_steps: int = 3) -> Run:
    """A run that was saved."""
    run = Run(path)
    run.train(0, n_steps, save_at=n_steps)
    return run


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a life is a fork")
def test_a_run_that_is_killed_twenty_times_ends_like_one_that_is_not(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "tests.training._killed_run", whole, killed],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        check=True,
        timeout=120,
    )
    seen = json.loads(done.stdout)
    assert seen["whole"] == 0
    assert [life["status"] for life in seen["lives"]] == [-9] * 20 + [0]
    assert len({life["step"] for life in seen["lives"]}) >= 15
    halved, before_replacing, after_replacing = (
        seen["lives"][life]["sizes"] for life in _killed_run.DIE_AT
    )
    assert 0 < halved[PARTIAL] < halved["run.pt"]
    assert before_replacing[PARTIAL] > before_replacing["run.pt"]
    assert PARTIAL not in after_replacing
    assert sorted(file.name for file in killed.iterdir()) == ["end.pt", "run.pt"]
    ends = [torch.load(folder / "end.pt", weights_only=True) for folder in (whole, killed)]
    assert_same_states(*ends)


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda",
            marks=[
                pytest.mark.gpu,
                pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
            ],
        ),
    ],
)
@pytest.mark.parametrize("n_before", [1, 5, 8], ids=["soon", "after an epoch", "in an epoch"])
def test_a_resumed_run_goes_on_bit_for_bit(path: Path, n_before: int, device: str) -> None:
    whole = Run(path, device=device)
    whole.train(0, 12, save_at=n_before)
    resumed = Run(path, device=device)
    assert resumed.checkpoint.load() == n_before
    resumed.train(n_before, 12)
    assert_same_states(resumed.states(), whole.states())


def test_a_loader_without_a_generator_of_its_own_is_why_one_is_asked_for(path: Path) -> None:
    whole = Run(path, own_generator=False)
    whole.train(0, 12, save_at=8)
    resumed = Run(path, own_generator=False)
    resumed.train(resumed.checkpoint.load(), 12)
    assert_different_weights(resumed.model, whole.model)


@pytest.mark.filterwarnings("ignore:os.fork.. was called:RuntimeWarning")  # JAX of other tests
@pytest.mark.parametrize("n_before", [6, 9])  # workers have drawn this epoch, or the next
def test_workers_need_the_sampler_set_back(path: Path, n_before: int) -> None:
    whole = Run(path, n_workers=2)
    whole.train(0, 12, save_at=n_before)
    resumed = Run(path, n_workers=2)
    step = resumed.checkpoint.load()
    sampler = resumed.sampler
    ahead = sampler.state_dict()
    epoch, n_drawn = divmod(step, len(sampler))
    sampler.load_state_dict({**sampler.state_dict(), "epoch": epoch, "n_drawn": n_drawn})
    assert sampler.state_dict() != ahead
    resumed.train(step, 12)
    assert_same_weights(resumed.model, whole.model)


def test_nothing_is_restored_where_nothing_was_saved(path: Path) -> None:
    run = Run(path)
    before = run.states()
    assert run.checkpoint.load() == 0
    assert_same_states(run.states(), before)


def test_the_folder_is_made_and_stays_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = Checkpoint("runs/adult/run.pt", model=nn.Linear(1, 1))
    monkeypatch.chdir("/")
    run.save(7)
    assert [file.name for file in (tmp_path / "runs" / "adult").iterdir()] == ["run.pt"]
    assert run.load() == 7


def test_all_random_numbers_go_on(path: Path) -> None:
    generator = torch.Generator()

    def draw() -> list[float]:
        return [
            random.gauss(),
            np.random.standard_normal(),  # noqa: NPY002
            np.random.rand(),  # noqa: NPY002
            torch.rand(()).item(),
            torch.rand((), generator=generator).item(),
        ]

    draw()  # of two numbers that are drawn at once, one is kept for the next time
    checkpoint = Checkpoint(path, mine=generator)
    checkpoint.save(0)
    then = draw()
    assert draw() != then
    checkpoint.load()
    assert draw() == then


def test_random_numbers_of_absent_devices_are_skipped(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states, restored = [torch.get_rng_state(), torch.get_rng_state() + 1], {}
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: states)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, i: restored.update({i: state}))
    checkpoint = Checkpoint(path)
    checkpoint.save(0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    checkpoint.load()
    assert_same_states(restored, dict(enumerate(states)))
    restored.clear()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.warns(FairclipWarning, match="of 2 CUDA devices, here are 1") as caught:
        checkpoint.load()
    assert list(restored) == [0]
    assert caught[0].filename == __file__


def test_what_was_saved_on_a_device_is_read_without_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        saved = trained(path)
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="deserialize object on a CUDA device"):
            torch.load(path, weights_only=True)
    resumed = Run(path)
    resumed.checkpoint.load()
    assert_same_states(resumed.states(), saved.states())


def _cut(share: float) -> Callable[[bytes], bytes]:
    return lambda whole: whole[: int(share * len(whole))]


def _packed(content: Any) -> Callable[[bytes], bytes]:
    def write(_: bytes) -> bytes:
        torch.save(content, file := io.BytesIO())
        return file.getvalue()

    return write


class Hostile:
    """What runs code when it is loaded."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("hostile",)


@pytest.mark.parametrize(
    "damage",
    [
        _cut(0.0),
        _cut(0.1),
        _cut(0.5),
        _cut(0.99),
        lambda _: b"a text\n",
        lambda _: pickle.dumps(Hostile()),
        _packed(Hostile()),
        _packed({"format": "fairclip.Checkpoint", "version": 1, "step": Hostile()}),
        _packed({"format": "fairclip.Checkpoint", "version": 1}),
        _packed(
            {"format": "fairclip.Checkpoint", "version": 1, "step": 0, "kinds": {}, "states": 1}
        ),
        _packed([1, 2]),
        _packed(nn.Linear(1, 1).state_dict()),
        lambda whole: whole.replace(b"fairclip.Checkpoint", b"fairclip.checkpoinT"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_refused(
    path: Path, damage: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(path.parent)
    trained(path)
    path.write_bytes(damage(path.read_bytes()))
    run = Run(path)
    before = run.states()
    with pytest.raises(ValueError, match=r"run\.pt is no checkpoint of fairclip.*another path"):
        run.checkpoint.load()
    assert_same_states(run.states(), before)
    assert not Path("hostile").exists()


def test_a_weight_that_was_changed_on_the_disk_is_noticed(path: Path) -> None:
    run = trained(path)
    whole = bytearray(path.read_bytes())
    weight = next(run.model.parameters()).detach().numpy().tobytes()
    whole[whole.index(weight)] ^= 1
    path.write_bytes(whole)
    with pytest.raises(ValueError, match="no checkpoint of fairclip, or is damaged"):
        Run(path).checkpoint.load()


def _changed(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)


def test_a_file_of_another_version_is_refused(path: Path) -> None:
    trained(path)
    _changed(path, lambda content: content.update(version=2))
    with pytest.raises(ValueError, match=r"run\.pt has version 2, this fairclip reads 1"):
        Run(path).checkpoint.load()


@pytest.mark.parametrize(
    "change",
    [
        lambda states: states["model"].popitem(),
        lambda states: states["optimizer"]["param_groups"].clear(),
        lambda states: states["clipper"].clear(),
        lambda states: states["sampler"].update(seed=1),
        lambda states: states["random numbers"].update(torch=torch.zeros(3)),
        lambda states: states["random numbers"].update(numpy=None),
    ],
)
def test_a_part_that_does_not_fit_leaves_all_as_it_was(
    path: Path, change: Callable[[dict[str, Any]], Any]
) -> None:
    trained(path)
    _changed(path, lambda content: change(content["states"]))
    run = Run(path)
    run.train(0, 2)
    before = run.states()
    with pytest.raises(ValueError, match=r"run\.pt does not fit `.*`, so nothing was restored"):
        run.checkpoint.load()
    assert_same_states(run.states(), before)


def test_another_model_is_refused(path: Path) -> None:
    trained(path)
    with pytest.raises(ValueError, match=r"(?s)does not fit `model`.*size mismatch"):
        Run(path, width=9).checkpoint.load()


def test_other_parts_are_refused(path: Path) -> None:
    run = trained(path)
    model, optimizer, clipper = run.model, run.optimizer, run.clipper
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    before = run.states()
    with pytest.raises(ValueError, match=r"run\.pt lacks `generator`: pass the parts"):
        Checkpoint(path, **run.parts, generator=torch.Generator()).load()
    with pytest.raises(ValueError, match="holds `sampler`, which is missing here"):
        Checkpoint(path, model=model, optimizer=optimizer, clipper=clipper).load()
    with pytest.raises(ValueError, match="holds a Adam as `optimizer`, which is a SGD here"):
        Checkpoint(path, **{**run.parts, "optimizer": sgd}).load()
    assert_same_states(run.states(), before)


def test_what_is_no_part_is_refused(path: Path) -> None:
    with pytest.raises(TypeError, match=r"`scaler` must have `state_dict`.*got NoneType"):
        Checkpoint(path, scaler=None)  # type: ignore[arg-type]


def test_a_step_that_is_no_number_is_refused(path: Path) -> None:
    with pytest.raises(TypeError, match="integer"):
        Checkpoint(path).save(1.5)  # type: ignore[arg-type]


def test_nothing_is_loaded_into_a_step_under_way(path: Path) -> None:
    run = trained(path)
    with run.clipper.watch(GROUPS):
        run.model(torch.ones(120, 1)).sum().backward()
    with (
        pytest.warns(FairclipWarning, match="under way"),
        pytest.raises(RuntimeError, match="under way"),
    ):
        run.checkpoint.load()
    run.clipper.clip_grad_()
    assert run.checkpoint.load() == 3


def test_what_could_not_be_loaded_is_not_saved(path: Path) -> None:
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters())
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
    checkpoint = Checkpoint(path, optimizer=optimizer, scheduler=scheduler)
    checkpoint.save(1)
    scheduler.best = np.float64(0.3)
    with pytest.raises(TypeError, match=r"state of `scheduler` holds numpy.*float"):
        checkpoint.save(2)
    assert checkpoint.load() == 1
    assert [file.name for file in path.parent.iterdir()] == ["run.pt"]


def test_a_full_disk_leaves_the_checkpoint_before(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained(path)

    def fail(_: int) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        run.checkpoint.save(4)
    assert run.checkpoint.load() == 3
    assert [file.name for file in path.parent.iterdir()] == ["run.pt"]


def test_it_is_on_the_disk_before_it_is_in_its_place(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called, sync, replace = [], os.fsync, os.replace

    def see_sync(handle: int) -> None:
        called.append("folder" if os.path.isdir(f"/proc/self/fd/{handle}") else "file")
        sync(handle)

    def see_replace(*paths: Path) -> None:
        called.append("replace")
        replace(*paths)

    monkeypatch.setattr(os, "fsync", see_sync)
    monkeypatch.setattr(os, "replace", see_replace)
    Checkpoint(path).save(0)
    assert called == ["file", "replace", "folder"]
