"""Autocast, half precision and loss scaling. Shapes: B rows, T tokens, K groups."""

import copy
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils import _pytree as pytree

from fairclip import FairClipper, NormCap
from fairclip.clipping import ZScore
from fairclip.exceptions import FairclipWarning
from fairclip.gradients import GradientEngine
from tests.gradients._exactness import FACTORS, K
from tests.gradients._inputs import N_CLASSES
from tests.gradients._oracle import combined, group_gradients, norm
from tests.gradients._real_models import ResNet18, bert, gpt2_classifier, group_norm
from tests.gradients._wrappers import Checkpointed, LoRA

B, T, W = 24, 8, 32
HALVES = {"bfloat16": torch.bfloat16, "float16": torch.float16}

_random = torch.Generator().manual_seed(0)
CODES = [torch.randint(-1, K, (B,), generator=_random) for _ in range(2)]
VECTORS = torch.randn(2, B, T, W, generator=_random)
IMAGES = torch.randn(2, B, 3, 32, 32, generator=_random)
IDS = torch.randint(1, 11, (2, B, T), generator=_random)
TARGETS = torch.randint(N_CLASSES, (B,), generator=_random)


class Own(nn.Module):
    """Parameters that no module call shows, and an output in full precision."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(T * W, W) / 16)
        self.second = nn.Parameter(torch.randn(W, N_CLASSES) / 4)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.tanh(inputs.flatten(1) @ self.first)
        return (hidden @ self.second).to(self.second.dtype)


class Encoder(nn.Module):
    """Ends in a LayerNorm and a pooling, which autocast keeps in full precision."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(W, 4, 2 * W, 0.0, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.start = nn.Parameter(torch.randn(1, 1, W))
        self.head = nn.Linear(W, N_CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.cat([self.start.expand(len(inputs), -1, -1), inputs], 1)
        logits: Tensor = self.head(self.layers(hidden)[:, 0])
        return logits


def mlp() -> nn.Sequential:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(T * W, 64), nn.LayerNorm(64), nn.ReLU(), nn.Linear(64, N_CLASSES)
    )


def adapted() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), LoRA(nn.Linear(T * W, W), 0.0), nn.GELU(), LoRA(nn.Linear(W, 3), 0.0)
    )


MODELS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "mlp": (mlp, VECTORS),
    "own": (Own, VECTORS),
    "encoder": (Encoder, VECTORS),
    "lora": (adapted, VECTORS),
    **{
        f"checkpoint_{how}": (partial(Checkpointed, how), VECTORS[:, :, 0, :4])
        for how in ("block", "function", "nested")
    },
    "resnet": (lambda: ResNet18(group_norm), IMAGES),
    "bert": (lambda: bert(width=W), IDS),
    "gpt2": (gpt2_classifier, IDS),
}


def losses_of(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    output = model(inputs)
    logits = output if isinstance(output, Tensor) else output.logits
    full = logits if logits.dtype == torch.float64 else logits.float()
    return functional.cross_entropy(full, targets, reduction="none")


def assert_as_precise_as_a_loop(
    model: nn.Module, inputs: Tensor, half: torch.dtype, *, autocast: bool, device: str = "cpu"
) -> None:
    """Compare norms and a recombination with float64.

    They may be further off than those of one backward pass a group in the same precision by a few
    roundings: a deep network in half precision is itself off by more.
    """
    exact = copy.deepcopy(model).double()
    engine = GradientEngine(model, K)
    targets = TARGETS.to(device)
    for step in range(2):
        codes = CODES[step].to(device)
        of_step = inputs[step].to(device)
        is_float = of_step.is_floating_point()
        in_half = of_step.to(half) if is_float and not autocast else of_step

        def losses(of_step: Tensor = in_half) -> Tensor:
            with torch.autocast(device, half, enabled=autocast):
                return losses_of(model, of_step, targets)

        in_full = losses_of(exact, of_step.double() if is_float else of_step, targets)
        parts = group_gradients(exact, in_full, codes, K)
        loop = group_gradients(model, losses(), codes, K)
        with engine.watch(CODES[step]):
            losses().mean().backward()
        found = engine.collect()

        norms, of_loop = (np.array([norm(part) for part in p[:-1]]) for p in (parts, loop))
        scale = max(norm(combined(parts, [1.0] * K)), *norms)
        tolerance = 4 * torch.finfo(half).eps * scale
        measured = torch.as_tensor(found.gramian()).cpu().diagonal()[:-1].sqrt().numpy()
        assert (abs(measured - norms) <= abs(of_loop - norms) + tolerance).all()
        found.recombine_(torch.tensor(FACTORS, dtype=torch.float64, device=device))
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
        expected, by_loop = combined(parts, FACTORS), combined(loop, FACTORS)
        trainable = [g for g, p in zip(grads, model.parameters(), strict=True) if p.requires_grad]
        assert _off(trainable, expected) <= _off(by_loop, expected) + tolerance
        model.zero_grad()


def _off(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    return norm([a.double() - b for a, b in zip(found, expected, strict=True)])


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("name", MODELS)
def test_autocast_agrees_with_float64(name: str, half: str) -> None:
    build, inputs = MODELS[name]
    torch.manual_seed(0)
    assert_as_precise_as_a_loop(build(), inputs, HALVES[half], autocast=True)


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("name", MODELS)
def test_a_model_in_half_precision_agrees_with_float64(name: str, half: str) -> None:
    build, inputs = MODELS[name]
    torch.manual_seed(0)
    assert_as_precise_as_a_loop(build().to(HALVES[half]), inputs, HALVES[half], autocast=False)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("autocast", [True, False])
def test_a_gpu_agrees_with_float64(name: str, half: str, autocast: bool) -> None:
    build, inputs = MODELS[name]
    torch.manual_seed(0)
    model = build().cuda() if autocast else build().to("cuda", HALVES[half])
    assert_as_precise_as_a_loop(model, inputs, HALVES[half], autocast=autocast, device="cuda")


# ------------------------------------------------------------------ the checks in low precision


def watch(
    engine: GradientEngine,
    model: nn.Module,
    inputs: Tensor,
    half: torch.dtype,
    *,
    autocast: bool = True,
) -> None:
    n_rows = len(inputs)
    with engine.watch(CODES[0][:n_rows]):
        with torch.autocast("cpu", half, enabled=autocast):
            losses = losses_of(model, inputs, TARGETS[:n_rows])
        losses.mean().backward()


class Rounds(nn.Module):
    """Rounds otherwise in a smaller batch, as kernels do, and returns full precision."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = mlp()
        self.scale = nn.Parameter(torch.ones(N_CLASSES))

    def forward(self, inputs: Tensor) -> Tensor:
        logits = self.layers(inputs)
        if logits.dtype == torch.bfloat16:
            logits = logits * (1 + 2.0**-7 * (len(inputs) % 2))
        outputs: Tensor = functional.layer_norm(logits.float(), (N_CLASSES,)) * self.scale.float()
        return outputs


@pytest.mark.parametrize("autocast", [True, False])
def test_other_roundings_in_other_batches_are_no_wrong_rows(autocast: bool) -> None:
    torch.manual_seed(0)
    model = Rounds() if autocast else Rounds().bfloat16()
    inputs = VECTORS if autocast else VECTORS.bfloat16()
    engine = GradientEngine(model, K)
    for step in range(2):
        watch(engine, model, inputs[step, : B - 1], torch.bfloat16, autocast=autocast)
        engine.collect()
        model.zero_grad()


class Moved(nn.Module):
    """Moves the rows of logits that are almost the same for every row."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.layers = mlp()
        self.how = how
        with torch.no_grad():
            self.layers.get_parameter("4.weight").mul_(0.1)
            self.layers.get_parameter("4.bias").fill_(10)

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.layers(inputs)
        if self.how == "sorted":
            return logits[logits[:, 0].argsort()]
        return logits.flip(0) if self.how == "flipped" else logits.roll(1, 0)


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("how", ["rolled", "flipped", "sorted"])
def test_autocast_does_not_hide_wrong_rows(how: str, half: str) -> None:
    torch.manual_seed(0)
    model = Moved(how)
    engine = GradientEngine(model, K)
    with pytest.raises(RuntimeError, match="cannot be told apart"):
        watch(engine, model, VECTORS[0], HALVES[half])


class NeedsAutocast(nn.Module):
    """Has a dtype of its own on the way, which does not fit the weights without autocast."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(W, W)
        self.head = nn.Linear(W, N_CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.tanh(self.first(inputs.mean(1).bfloat16())))
        return logits


def test_a_model_that_runs_only_under_autocast() -> None:
    torch.manual_seed(0)
    model = NeedsAutocast()
    engine = GradientEngine(model, K)
    watch(engine, model, VECTORS[0], torch.bfloat16)
    engine.collect()


class Beside(nn.Module):
    """A small use of a weight past its module."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = mlp()

    def forward(self, inputs: Tensor) -> Tensor:
        last = self.layers[-1]
        hidden: Tensor = self.layers[:-1](inputs)
        beside = functional.linear(hidden.flip(1), last.get_parameter("weight"))
        logits: Tensor = last(hidden) + 0.2 * beside
        return logits


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("autocast", [True, False])
def test_a_missed_use_is_found_in_low_precision(half: str, autocast: bool) -> None:
    torch.manual_seed(0)
    model = Beside() if autocast else Beside().to(HALVES[half])
    inputs = VECTORS if autocast else VECTORS.to(HALVES[half])
    engine = GradientEngine(model, K)
    with pytest.warns(FairclipWarning, match=r"'layers\.4\.weight' is used outside"):
        watch(engine, model, inputs[0], HALVES[half], autocast=autocast)
    engine.collect()


# ------------------------------------------------------------------ loss scaling


class Trainer:
    """A loop with a scaler, as torch's documentation has it."""

    def __init__(
        self, model: nn.Module, *, init_scale: float, half: torch.dtype = torch.float16
    ) -> None:
        self.model = model
        self.half = half
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=init_scale)
        cap = NormCap(0.5, floor=0.0)
        self.clipper = FairClipper(model, cap, ZScore(2.0, warmup=1), group_counts=[600, 250, 150])

    def step(self, number: int, windows: Sequence[slice] = (slice(None),), by: float = 1.0) -> Any:
        for window in windows:
            self.watch(number, window, by)
        record = self.clipper.clip_grad_(self.scaler, self.optimizer)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        return record

    def watch(self, number: int, window: slice, by: float) -> None:
        with self.clipper.watch(CODES[number][window]):
            with torch.autocast("cpu", self.half):
                losses = losses_of(self.model, VECTORS[number][window], TARGETS[window])
            self.scaler.scale(by * losses.sum() / B).backward()


def trainer(build: Callable[[], nn.Module] = mlp, **options: Any) -> Trainer:
    torch.manual_seed(0)
    return Trainer(build(), **options)


def state_of(clipper: FairClipper) -> list[Any]:
    state = clipper.state_dict()
    leaves = pytree.tree_leaves([state["cap"], state["clip"]])
    return [leaf for leaf in leaves if isinstance(leaf, Tensor | float)]


@pytest.mark.parametrize("build", [mlp, Own, Encoder])
@pytest.mark.parametrize("first", [True, False], ids=["first", "later"])
def test_a_step_that_overflows_leaves_no_trace(build: Callable[[], nn.Module], first: bool) -> None:
    found, expected = (trainer(build, init_scale=2.0**10) for _ in range(2))
    if not first:
        for one in (found, expected):
            one.step(0)
            one.step(1)
    averages = state_of(found.clipper)
    weights = [p.detach().clone() for p in found.model.parameters()]
    record = found.step(0, by=1e9)  # beyond float16, and finite in float32
    assert record.nonfinite.any()
    assert record.factors.tolist() == [1.0] * K
    assert found.scaler.get_scale() == 2.0**9
    assert all(map(torch.equal, found.model.parameters(), weights))
    found.scaler.update(2.0**10)
    if not first:  # before that an average has no value to keep
        torch.testing.assert_close(state_of(found.clipper), averages, rtol=0, atol=0)
    for number in (0, 1, 0):
        records = [one.step(number) for one in (found, expected)]
        torch.testing.assert_close(records[0].factors, records[1].factors)
        assert float(records[0].factors.min()) < 0.9  # else nothing is tested
    torch.testing.assert_close(state_of(found.clipper), state_of(expected.clipper))
    for mine, other in zip(found.model.parameters(), expected.model.parameters(), strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("half", HALVES)
def test_a_scaled_loop_is_the_plain_one_to_the_precision_of_the_dtype(half: str) -> None:
    found = trainer(init_scale=2.0**10, half=HALVES[half])
    torch.manual_seed(0)
    plain = mlp().double()
    clipper = FairClipper(plain, NormCap(0.5, floor=0.0), group_counts=[600, 250, 150])
    for number in (0, 1):
        record = found.step(number)
        with clipper.watch(CODES[number]):
            losses_of(plain, VECTORS[number].double(), TARGETS).mean().backward()
        expected = clipper.clip_grad_()
        plain.load_state_dict(found.model.state_dict())
        plain.zero_grad()
        tolerance = 8 * torch.finfo(HALVES[half]).eps
        torch.testing.assert_close(
            record.group_norms.double(), expected.group_norms.double(), rtol=tolerance, atol=0
        )
        torch.testing.assert_close(
            record.factors.double(), expected.factors.double(), rtol=tolerance, atol=0
        )


def test_windows_accumulate_under_a_scaler() -> None:
    found, expected = (trainer(init_scale=2.0**10) for _ in range(2))
    for number in (0, 1):
        windows = [slice(0, 10), slice(10, 15), slice(15, None)]
        records = [found.step(number, windows), expected.step(number)]
        assert records[0].counts.tolist() == records[1].counts.tolist()
        torch.testing.assert_close(
            records[0].group_norms, records[1].group_norms, rtol=2e-3, atol=0
        )
    for one, other in zip(found.model.parameters(), expected.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=2e-3, atol=2e-3)


def test_one_of_several_windows_overflows() -> None:
    found = trainer(init_scale=2.0**10)
    found.step(0)
    weights = [p.detach().clone() for p in found.model.parameters()]
    averages = state_of(found.clipper)
    found.watch(1, slice(0, 10), by=1.0)
    found.watch(1, slice(10, None), by=1e9)
    record = found.clipper.clip_grad_(found.scaler, found.optimizer)
    assert record.nonfinite.any()
    found.scaler.step(found.optimizer)
    found.scaler.update()
    found.optimizer.zero_grad()
    assert all(map(torch.equal, found.model.parameters(), weights))
    torch.testing.assert_close(state_of(found.clipper), averages, rtol=0, atol=0)
    assert not found.step(0).nonfinite.any()


def test_the_check_of_the_first_step_waits_for_one_that_does_not_overflow() -> None:
    """A scaler begins with a scale that is too large, so the first step is no test of anything."""
    found = trainer(Beside, init_scale=2.0**10)
    for _ in range(2):
        assert found.step(0, by=1e9).nonfinite.any()
    with pytest.warns(FairclipWarning, match=r"'layers\.4\.weight' is used outside"):
        found.step(0, by=2.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found.step(1)
