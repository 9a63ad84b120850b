"""What is refused, with its remedy, and what works although it looks as if it would not."""

import copy
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import prune
from torch.utils.checkpoint import checkpoint

from fairclip import FairClipper, NormCap
from fairclip.exceptions import FairclipWarning
from tests.gradients._oracle import combined, group_gradients, norm

COUNTS = [600, 250, 150]
K = len(COUNTS)
CAP = NormCap.per_step(0.3)
CODES = torch.tensor([0, 0, 1, 0, 2, -1, 0, 1, 0, 0, 2, 1])
B = len(CODES)


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def make_inputs(seed: int = 0) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    inputs = torch.randn(B, 4, generator=random).double() * (K - CODES[:, None])
    return inputs, torch.randint(3, (B,), generator=random)


def assert_exact(model: nn.Module, n_steps: int = 2, **options: Any) -> None:
    """Compare the norms and the capped gradient with one backward pass a group."""
    oracle = getattr(model, "plain", model)
    clipper = FairClipper(model, CAP, group_counts=COUNTS, **options)
    for seed in range(n_steps):
        inputs, targets = make_inputs(seed)
        losses = functional.cross_entropy(oracle(inputs), targets, reduction="none")
        parts = group_gradients(model, losses, CODES, K)
        norms = [norm(part) for part in parts[:-1]]
        factors = [min(1.0, 0.3 * norms[2] / norms[k]) for k in range(K - 1)] + [1.0]
        with clipper.watch(CODES):
            functional.cross_entropy(model(inputs), targets).backward()
        record = clipper.clip_grad_()
        assert record.group_norms.tolist() == pytest.approx(norms, rel=1e-8)
        found = [
            torch.zeros_like(p) if p.grad is None else p.grad
            for p in model.parameters()
            if p.requires_grad
        ]
        expected = combined(parts, factors)
        difference = norm([a - b for a, b in zip(found, expected, strict=True)])
        assert difference <= 1e-9 * norm(expected)
        model.zero_grad()
    clipper.remove()


# ------------------------------------------------------------------ refused


def refuse(model: nn.Module) -> FairClipper:
    return FairClipper(model, CAP, group_counts=COUNTS)


def test_a_model_without_trainable_parameters() -> None:
    for model in (nn.Tanh(), mlp().requires_grad_(False)):
        with pytest.raises(ValueError, match=r"no trainable parameters.*requires_grad"):
            refuse(model)


@pytest.mark.parametrize(
    "name", ["DistributedDataParallel", "FullyShardedDataParallel", "DataParallel"]
)
@pytest.mark.parametrize("inside", [True, False])
def test_a_model_that_is_wrapped_for_several_devices(name: str, inside: bool) -> None:
    wrapper: Callable[..., nn.Module] = type(name, (nn.Sequential,), {})
    model = wrapper(mlp())
    with pytest.raises(NotImplementedError, match=rf"{name}.*plain model"):
        refuse(nn.Sequential(model) if inside else model)


def test_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    model = mlp()
    clipper = refuse(model)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 1)
    with clipper.watch(CODES):
        model(make_inputs()[0]).sum().backward()
    clipper.clip_grad_()
    model.zero_grad()
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(NotImplementedError, match="2 processes"):
        refuse(mlp())
    with pytest.raises(NotImplementedError, match="2 processes"), clipper.watch(CODES):
        pass


def test_a_compiled_model() -> None:
    inside, in_place = mlp(), mlp()
    inside[0] = torch.compile(inside[0], backend="eager")  # type: ignore[assignment]
    in_place[2].compile(backend="eager")
    compiled: list[Any] = [torch.compile(mlp(), backend="eager"), inside, in_place]
    for model in compiled:
        clipper = FairClipper(model, group_counts=COUNTS)
        with pytest.raises(NotImplementedError, match=r"before `torch\.compile`"):
            clipper.watch(CODES).__enter__()


@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_sparse_gradients(kind: type[nn.Module]) -> None:
    with pytest.raises(ValueError, match=r"'0'.*sparse=False"):
        refuse(nn.Sequential(kind(5, 3, sparse=True)))
    refuse(nn.Sequential(kind(5, 3, sparse=True).requires_grad_(False), nn.Linear(3, 2)))


def test_complex_parameters() -> None:
    with pytest.raises(ValueError, match=r"'weight' is complex"):
        refuse(nn.Linear(2, 2, dtype=torch.complex64))


def test_two_dimensions_that_fit_equally_well() -> None:
    square = nn.Sequential(nn.Linear(4, 3), nn.Flatten(0, 1)).double()
    inputs = torch.randn(B, B, 4).double()
    clipper = refuse(square)
    with pytest.raises(ValueError, match="batch_dim=0"), clipper.watch(CODES):
        square(inputs).square().mean().backward()


def test_an_input_that_is_changed_in_place_after_use() -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 3)
            self.bias = nn.Linear(4, 3).requires_grad_(False)
            self.bias.bias.requires_grad_(True)

        def forward(self, inputs: Tensor) -> Tensor:
            inputs = inputs * 2
            hidden = self.bias(inputs)  # autograd does not need its input
            inputs.add_(1)
            logits: Tensor = self.first(inputs) + hidden
            return logits

    model = InPlace().double()
    clipper = refuse(model)
    inputs, targets = make_inputs()
    with pytest.raises(RuntimeError, match="in place"), clipper.watch(CODES):
        functional.cross_entropy(model(inputs), targets).backward()


class OwnLoss(nn.Module):
    """Returns nothing but its loss."""

    def __init__(self, *, scale: bool) -> None:
        super().__init__()
        self.layers = mlp()
        self.scale = nn.Parameter(torch.ones(3).double()) if scale else None

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        logits = self.layers(inputs)
        if self.scale is not None:
            logits = logits * self.scale
        return functional.cross_entropy(logits, targets)


def test_a_model_that_returns_its_loss_works_with_rules_alone() -> None:
    model = OwnLoss(scale=False)
    clipper = refuse(model)
    for seed in range(2):
        inputs, targets = make_inputs(seed)
        losses = functional.cross_entropy(model.layers(inputs), targets, reduction="none")
        parts = group_gradients(model, losses, CODES, K)
        with clipper.watch(CODES):
            model(inputs, targets).backward()
        record = clipper.clip_grad_()
        assert record.group_norms.tolist() == pytest.approx([norm(p) for p in parts[:-1]])
        model.zero_grad()


def test_a_model_that_returns_its_loss_names_the_parameter_that_needs_rows() -> None:
    model = OwnLoss(scale=True)
    clipper = refuse(model)
    with (
        pytest.raises(RuntimeError, match=r"'scale'.*return its outputs.*clipper\.backward"),
        clipper.watch(CODES),
    ):
        model(*make_inputs()).backward()
    model.zero_grad()
    inputs, targets = make_inputs()
    logits = model.layers(inputs) * model.scale
    clipper.backward(functional.cross_entropy(logits, targets, reduction="none"), CODES)
    assert clipper.clip_grad_().counts.tolist() == [6, 3, 2]


def test_outputs_that_cannot_be_looked_into_are_refused() -> None:
    class Box:
        def __init__(self, logits: Tensor) -> None:
            self.logits = logits

    class Boxed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(4).double())
            self.layers = mlp()

        def forward(self, inputs: Tensor) -> Box:
            return Box(self.layers(inputs * self.scale))

    model = Boxed()
    clipper = refuse(model)
    inputs, targets = make_inputs()
    with pytest.raises(RuntimeError, match="'scale'"), clipper.watch(CODES):
        functional.cross_entropy(model(inputs).logits, targets).backward()


def test_reentrant_checkpointing() -> None:
    model = Checkpointed(reentrant=True).double()
    clipper = refuse(model)
    inputs, targets = make_inputs()
    with pytest.raises(RuntimeError, match="use_reentrant=False"), clipper.watch(CODES):
        functional.cross_entropy(model(inputs), targets).backward()


# ------------------------------------------------------------------ works


class Checkpointed(nn.Module):
    def __init__(self, *, reentrant: bool) -> None:
        super().__init__()
        self.reentrant = reentrant
        self.first = nn.Linear(4, 6)
        self.block = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh())
        self.last = nn.Linear(6, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = checkpoint(self.block, self.first(inputs), use_reentrant=self.reentrant)
        logits: Tensor = self.last(hidden)
        return logits

    def plain(self, inputs: Tensor) -> Tensor:
        """What `autograd.grad` can pass."""
        logits: Tensor = self.last(self.block(self.first(inputs)))
        return logits


class Keywords(nn.Module):
    """Takes a dict, and options that are no tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = mlp()
        self.skip = nn.Linear(4, 3, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.inner({"x": inputs, "n": 2}, masks=[None, torch.ones(4)])

    def inner(self, batch: dict[str, Any], *, masks: list[Any]) -> Tensor:
        logits: Tensor = self.layers(batch["x"] * masks[1]) + self.skip(input=batch["x"])
        return logits


class Borrowed(nn.Module):
    """The same layer under two names, and the same weight in two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.again = self.first
        self.other = nn.Linear(4, 4)
        self.other.weight = self.first.weight
        self.head = nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.other(torch.tanh(self.again(torch.tanh(self.first(inputs)))))
        logits: Tensor = self.head(hidden)
        return logits


def _weight_norm() -> nn.Module:
    model = mlp()
    nn.utils.parametrizations.weight_norm(model[0])
    return model


def _orthogonal() -> nn.Module:
    model = mlp()
    nn.utils.parametrizations.orthogonal(model[0])
    return model


def _pruned() -> nn.Module:
    model = mlp()
    prune.l1_unstructured(model[0], "weight", 0.5)  # a hook that makes the weight
    return model


def _half_frozen() -> nn.Module:
    model = mlp()
    model[0].weight.requires_grad_(False)
    model[2].bias.requires_grad_(False)
    return model


def _unused() -> nn.Module:
    model = mlp()
    model[1].register_module("unused", nn.Linear(3, 3).double())
    return model


WORKING: dict[str, Callable[[], nn.Module]] = {
    "checkpoint": lambda: Checkpointed(reentrant=False),
    "keywords": Keywords,
    "borrowed": Borrowed,
    "weight_norm": _weight_norm,
    "orthogonal": _orthogonal,
    "half_frozen": _half_frozen,
    "unused": _unused,
}


@pytest.mark.parametrize("name", WORKING)
@pytest.mark.parametrize("check", ["first", True, False])
def test_these_work(name: str, check: Any) -> None:
    torch.manual_seed(0)
    assert_exact(WORKING[name]().double(), check=check)


def test_a_weight_that_a_hook_makes_works_or_the_way_out_is_named() -> None:
    try:
        assert_exact(_pruned())
    except RuntimeError as error:
        if "clipper.backward" not in str(error):
            raise


def test_spectral_norm_works_and_counts_its_iterations_once() -> None:
    model = mlp()
    nn.utils.parametrizations.spectral_norm(model[0])
    plain = copy.deepcopy(model)
    clipper = FairClipper(model, CAP, group_counts=COUNTS)
    for seed in range(2):
        inputs, targets = make_inputs(seed)
        with clipper.watch(CODES):
            functional.cross_entropy(model(inputs), targets).backward()
        record = clipper.clip_grad_()
        losses = functional.cross_entropy(plain(inputs), targets, reduction="none")
        parts = group_gradients(plain, losses, CODES, K)
        assert record.group_norms.tolist() == pytest.approx([norm(p) for p in parts[:-1]])
        for name, buffer in plain.named_buffers():
            assert torch.equal(buffer, model.get_buffer(name))
        model.zero_grad()


def test_two_forward_passes_in_one_window() -> None:
    model = mlp()
    clipper = refuse(model)
    for seed in range(2):
        (inputs, targets), (others, _) = make_inputs(seed), make_inputs(seed + 10)
        logits = model(inputs) + model(others)
        losses = functional.cross_entropy(logits, targets, reduction="none")
        parts = group_gradients(model, losses, CODES, K)
        with clipper.watch(CODES):
            functional.cross_entropy(model(inputs) + model(others), targets).backward()
        record = clipper.clip_grad_()
        assert record.group_norms.tolist() == pytest.approx([norm(p) for p in parts[:-1]])
        model.zero_grad()


def test_a_forward_pass_without_gradients_in_a_window_is_ignored() -> None:
    model = mlp()
    clipper = refuse(model)
    inputs, targets = make_inputs()
    losses = functional.cross_entropy(model(inputs), targets, reduction="none")
    parts = group_gradients(model, losses, CODES, K)
    for _ in range(2):
        with clipper.watch(CODES):
            with torch.no_grad():
                model(inputs[:5])  # of another size, for a metric
            functional.cross_entropy(model(inputs), targets).backward()
            with torch.no_grad():
                model(inputs[:1])
        record = clipper.clip_grad_()
        assert record.group_norms.tolist() == pytest.approx([norm(p) for p in parts[:-1]])
        model.zero_grad()


def test_a_last_batch_of_another_size_and_of_one_row() -> None:
    model = mlp()
    clipper = refuse(model)
    inputs, targets = make_inputs()
    for n_rows in (1, B, 5, 1, 2):
        batch = inputs[:n_rows], targets[:n_rows]
        losses = functional.cross_entropy(model(batch[0]), batch[1], reduction="none")
        parts = group_gradients(model, losses, CODES[:n_rows], K)
        with clipper.watch(CODES[:n_rows]):
            functional.cross_entropy(model(batch[0]), batch[1]).backward()
        norms = clipper.clip_grad_().group_norms.nan_to_num(0.0)
        assert norms.tolist() == pytest.approx([norm(p) for p in parts[:-1]])
        model.zero_grad()


@pytest.mark.parametrize("how", ["unfrozen", "added"])
def test_a_parameter_that_becomes_trainable_later_is_refused_or_right(how: str) -> None:
    model = mlp()
    if how == "unfrozen":
        model[0].requires_grad_(False)
    clipper = refuse(model)
    inputs, targets = make_inputs()
    with clipper.watch(CODES):
        functional.cross_entropy(model(inputs), targets).backward()
    clipper.clip_grad_()
    model.zero_grad()
    if how == "unfrozen":
        model[0].requires_grad_(True)
    else:
        model.append(nn.Linear(3, 3).double())
    losses = functional.cross_entropy(model(inputs), targets, reduction="none")
    parts = group_gradients(model, losses, CODES, K)
    norms = [norm(part) for part in parts[:-1]]
    with suppress(RuntimeError):
        with clipper.watch(CODES):
            functional.cross_entropy(model(inputs), targets).backward()
        assert clipper.clip_grad_().group_norms.tolist() == pytest.approx(norms)


def test_a_parameter_that_is_frozen_later_is_left_out() -> None:
    model = mlp()
    clipper = refuse(model)
    inputs, targets = make_inputs()
    for _ in range(2):
        losses = functional.cross_entropy(model(inputs), targets, reduction="none")
        parts = group_gradients(model, losses, CODES, K)
        with clipper.watch(CODES):
            functional.cross_entropy(model(inputs), targets).backward()
        record = clipper.clip_grad_()
        assert record.group_norms.tolist() == pytest.approx([norm(p) for p in parts[:-1]])
        model.zero_grad()
        model[0].requires_grad_(False)


def test_lazy_layers_may_get_their_shapes_in_the_first_step() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.LazyLinear(6), nn.Tanh(), nn.Linear(6, 3)).double()
    clipper = refuse(model)
    inputs, targets = make_inputs()
    for _ in range(2):
        with clipper.watch(CODES):
            functional.cross_entropy(model(inputs), targets).backward()
        record = clipper.clip_grad_()
        model.zero_grad()
        losses = functional.cross_entropy(model(inputs), targets, reduction="none")
        parts = group_gradients(model, losses, CODES, K)
        assert record.group_norms.tolist() == pytest.approx([norm(p) for p in parts[:-1]])


def test_groups_smaller_than_the_least_reference_are_named() -> None:
    with pytest.warns(FairclipWarning, match=r"\[2\].*min_reference_rows"):
        FairClipper(mlp(), group_counts=[500, 400, 10])
