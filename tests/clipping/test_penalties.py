"""Gradient penalties, as of WGAN-GP: a loss that holds a gradient. Shapes: B rows, P inputs."""

import contextlib
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_, parameters_to_vector

from fairclip import FairClipper, NormCap
from fairclip.clipping import Chain, Mode, Norm, Value
from fairclip.exceptions import FairclipWarning
from tests.clipping._properties import assert_record_is_detached_scalars, gradients
from tests.gradients._oracle import combined, group_gradients, norm

Oracle = Callable[[nn.Sequential], object]
CLIPS: tuple[tuple[Mode, Oracle], ...] = (
    (Value(0.05), lambda model: clip_grad_value_(model.parameters(), 0.05)),
    (Norm(0.5), lambda model: clip_grad_norm_(model.parameters(), 0.5)),
    (
        Norm(0.1, torch.inf, scope="layer"),
        lambda model: [
            clip_grad_norm_(layer.parameters(), 0.1, torch.inf) for layer in (model[0], model[2])
        ],
    ),
    (
        Chain(Value(0.2), Norm(0.1)),
        lambda model: (
            clip_grad_value_(model.parameters(), 0.2),
            clip_grad_norm_(model.parameters(), 0.1),
        ),
    ),
)
clips = pytest.mark.parametrize(
    ("mode", "oracle"), CLIPS, ids=["value", "norm", "norm of a layer", "chain"]
)

COUNTS = [600, 250, 150]
CODES = torch.tensor([0, 0, 0, 1, 0, 2, -1, 0, 1, 0, 0, 2])
B = len(CODES)
CAP = NormCap.per_step(0.5)


def critic() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)).double()


def draws() -> tuple[Tensor, Tensor, Tensor]:
    """Return real rows, fake rows and rows on the lines between them, each (B, 3)."""
    random = torch.Generator().manual_seed(0)
    real = torch.randn(B, 3, generator=random, dtype=torch.float64) * (4 - CODES[:, None])
    fake = torch.randn(B, 3, generator=random, dtype=torch.float64)
    share = torch.rand(B, 1, generator=random, dtype=torch.float64)
    return real, fake, share * real + (1 - share) * fake


REAL, FAKE, BETWEEN = draws()
Slopes = Callable[[nn.Module], Tensor]
"""Gradients (B, P) of a critic's outputs with respect to its inputs, themselves differentiable."""


def slopes_by_autograd(model: nn.Module) -> Tensor:
    inputs = BETWEEN.clone().requires_grad_()
    (slopes,) = torch.autograd.grad(model(inputs).sum(), inputs, create_graph=True)
    return slopes


def slopes_by_func(model: nn.Module) -> Tensor:
    slopes: Tensor = torch.func.grad(lambda inputs: model(inputs).sum())(BETWEEN)
    return slopes


def penalties(slopes: Tensor) -> Tensor:
    """Return WGAN-GP's penalty of every row, (B,)."""
    excess: Tensor = torch.linalg.vector_norm(slopes, dim=1) - 1
    return 10 * excess.square()


def scores(model: nn.Module) -> Tensor:
    """Return what every row adds to the critic's loss without a penalty, (B,)."""
    values: Tensor = model(FAKE) - model(REAL)
    return values[:, 0]


def clipped_by_torch(model: nn.Sequential, loss: Tensor, oracle: Oracle) -> list[Tensor | None]:
    """Return the loss's gradient, put down without a graph and clipped by torch."""
    tensors = list(model.parameters())
    for tensor, gradient in zip(tensors, torch.autograd.grad(loss, tensors), strict=True):
        tensor.grad = gradient
    oracle(model)
    return gradients(tensors)


def assert_close(found: Sequence[Tensor | None], expected: Sequence[Tensor | None]) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


# ------------------------------------------------------------------ clipping alone


def test_the_penalty_of_a_linear_critic_is_clipped_as_worked_by_hand() -> None:
    """D(x) = w x has the slope w everywhere: 10 (|w| - 1)^2, and 20 (|w| - 1) w / |w| of w."""
    model = nn.Linear(2, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[3.0, 4.0]]))
    inputs = torch.ones(5, 2, dtype=torch.float64, requires_grad=True)
    (slopes,) = torch.autograd.grad(model(inputs).sum(), inputs, create_graph=True)
    penalties(slopes).mean().backward()
    record = Norm(1.0)(model.parameters())
    assert float(record.norm_before) == pytest.approx(20 * (5 - 1))
    expected = torch.tensor([[0.6, 0.8]], dtype=torch.float64)
    torch.testing.assert_close(model.weight.grad, expected, rtol=1e-6, atol=0)


@clips
def test_after_a_double_backward_the_gradient_is_clipped_as_if_its_formula_were_known(
    mode: Mode, oracle: Oracle
) -> None:
    model, known = critic(), critic()
    (scores(model).mean() + penalties(slopes_by_autograd(model)).mean()).backward()
    record = mode(model.named_parameters())
    # v tanh(W x + b) has the slope (v * (1 - tanh^2)) W, which one backward pass differentiates.
    inner, outer = known[0], known[2]
    assert isinstance(inner, nn.Linear)
    assert isinstance(outer, nn.Linear)
    slopes = (outer.weight * (1 - torch.tanh(inner(BETWEEN)).square())) @ inner.weight  # (B, P)
    expected = clipped_by_torch(known, scores(known).mean() + penalties(slopes).mean(), oracle)
    assert_close(gradients(list(model.parameters())), expected)
    assert 0 < float(record.norm_after) < float(record.norm_before)


@clips
def test_gradients_that_have_a_graph_of_their_own_are_clipped_too(
    mode: Mode, oracle: Oracle
) -> None:
    model, plain = critic(), critic()
    tensors = list(model.parameters())
    for tensor, gradient in zip(
        tensors, torch.autograd.grad(scores(model).mean(), tensors, create_graph=True), strict=True
    ):
        tensor.grad = gradient
    record = mode(model.named_parameters())
    assert_close(
        [g if g is None else g.detach() for g in gradients(tensors)],
        clipped_by_torch(plain, scores(plain).mean(), oracle),
    )
    assert_record_is_detached_scalars(record)
    model.zero_grad()  # breaks the cycles of the parameters and their graphs


def train_critic(penalty: float, max_norm: float) -> tuple[float, float]:
    """Return the steepest slope after 60 steps, and the longest of the steps."""
    model = critic()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    longest = 0.0
    for _ in range(60):
        optimizer.zero_grad()
        (scores(model) + penalty * penalties(slopes_by_autograd(model))).mean().backward()
        Norm(max_norm)(model.parameters())
        before = parameters_to_vector(model.parameters()).detach()
        optimizer.step()
        after = parameters_to_vector(model.parameters()).detach()
        longest = max(longest, float((after - before).norm()))
    return float(slopes_by_autograd(model).detach().norm(dim=1).max()), longest


def test_a_penalty_bounds_the_slopes_and_clipping_the_steps_and_neither_the_other() -> None:
    slope, step = train_critic(penalty=1.0, max_norm=0.5)
    assert slope < 1.5
    assert step < 0.051  # lr * max_norm
    slope, step = train_critic(penalty=1.0, max_norm=torch.inf)
    assert slope < 1.5
    assert step > 1.0
    slope, step = train_critic(penalty=0.0, max_norm=0.5)
    assert slope > 3.0
    assert step < 0.051


# ------------------------------------------------------------------ with groups


def row_losses(model: nn.Module, slopes_of: Slopes = slopes_by_autograd) -> Tensor:
    return scores(model) + penalties(slopes_of(model))


def capped(parts: list[list[Tensor]]) -> tuple[list[Tensor], list[float], list[float]]:
    """Return the literal rule's combination, norms and factors; group 2 is the reference."""
    norms = [norm(part) for part in parts[:-1]]
    factors = [min(1.0, 0.5 * norms[2] / norms[k]) if k != 2 else 1.0 for k in range(3)]
    assert min(factors) < 1  # else nothing is tested
    return combined(parts, factors), norms, factors


@pytest.mark.parametrize("slopes_of", [slopes_by_autograd, slopes_by_func])
def test_backward_caps_and_clips_the_penalty_with_the_rows_that_cause_it(slopes_of: Slopes) -> None:
    model = critic()
    clipper = FairClipper(model, CAP, Norm(0.5), group_counts=COUNTS)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(3):
        expected, norms, factors = capped(group_gradients(model, row_losses(model), CODES, 3))
        clipper.backward(row_losses(model, slopes_of), CODES)
        record = clipper.clip_grad_()
        assert record.group_norms.tolist() == pytest.approx(norms, rel=1e-9)
        assert record.factors.tolist() == pytest.approx(factors, rel=1e-9)
        assert float(record.norm_capped) == pytest.approx(norm(expected), rel=1e-9)
        scale = 0.5 / (norm(expected) + 1e-6)
        assert scale < 1
        assert_close(gradients(list(model.parameters())), [scale * g for g in expected])
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("n_plain_steps", [0, 2], ids=["first step", "a lazy penalty"])
def test_watch_refuses_a_penalty_names_the_remedy_and_leaves_nothing(n_plain_steps: int) -> None:
    model = critic()
    clipper = FairClipper(model, CAP, Norm(0.5), group_counts=COUNTS)

    def plain_step() -> list[float]:
        with clipper.watch(CODES):
            scores(model).mean().backward()
        record = clipper.clip_grad_()
        model.zero_grad()
        norms: list[float] = record.group_norms.tolist()
        return norms

    for _ in range(n_plain_steps):
        plain_step()
    with (
        pytest.raises(RuntimeError, match=r"create_graph.*clipper\.backward\(losses, groups\)"),
        clipper.watch(CODES),
    ):
        row_losses(model).mean().backward()
    model.zero_grad()
    with pytest.raises(RuntimeError, match="needs a forward and backward pass"):
        clipper.clip_grad_()
    expected = group_gradients(model, scores(model), CODES, 3)[:-1]
    assert plain_step() == pytest.approx([norm(part) for part in expected], rel=1e-9)
    clipper.backward(row_losses(model), CODES)
    assert float(clipper.clip_grad_().norm_clipped) == pytest.approx(0.5)


@pytest.mark.parametrize("where", ["before watch", "by torch.func"])
def test_a_penalty_that_watch_cannot_see_is_named_and_never_capped(where: str) -> None:
    model = critic()
    clipper = FairClipper(model, CAP, group_counts=COUNTS)
    named = pytest.warns(FairclipWarning, match="never capped")
    for number in range(2):
        parts = group_gradients(model, scores(model), CODES, 3)
        of_penalty = torch.autograd.grad(
            penalties(slopes_by_autograd(model)).mean(),
            list(model.parameters()),
            allow_unused=True,
            materialize_grads=True,
        )
        expected, norms, _ = capped(parts)
        expected = [g + u for g, u in zip(expected, of_penalty, strict=True)]
        if where == "before watch":
            penalty = penalties(slopes_by_autograd(model)).mean()
        with named if number == 0 else contextlib.nullcontext(), clipper.watch(CODES):
            if where == "by torch.func":
                penalty = penalties(slopes_by_func(model)).mean()
            (scores(model).mean() + penalty).backward()
        record = clipper.clip_grad_()
        assert record.group_norms.tolist() == pytest.approx(norms, rel=1e-9)
        assert_close(gradients(list(model.parameters())), expected)
        model.zero_grad()


def test_a_penalty_that_comes_later_and_that_watch_cannot_see_leaves_its_step_uncapped() -> None:
    model = critic()
    clipper = FairClipper(model, CAP, group_counts=COUNTS)
    with clipper.watch(CODES):
        model(REAL).square().mean().backward()
    clipper.clip_grad_()
    for warning in ("called in a way that no step before had", "comes from no row"):
        model.zero_grad()
        with pytest.warns(FairclipWarning, match=warning), clipper.watch(CODES):
            (model(REAL).square().mean() + penalties(slopes_by_func(model)).mean()).backward()
        with contextlib.suppress(FairclipWarning):
            record = clipper.clip_grad_()
        if "no step before" in warning:
            assert record.factors.tolist() == [1, 1, 1]


def test_a_backward_pass_with_a_graph_of_its_own_warns_of_nothing() -> None:
    model = critic()
    clipper = FairClipper(model, CAP, group_counts=COUNTS)
    with clipper.watch(CODES):
        model(REAL).square().mean().backward()
    expected = clipper.clip_grad_().group_norms
    model.zero_grad()
    clipper.remove()
    clipper = FairClipper(model, CAP, group_counts=COUNTS)
    with clipper.watch(CODES), pytest.warns(UserWarning, match="create_graph=True"):
        model(REAL).square().mean().backward(create_graph=True)
    torch.testing.assert_close(clipper.clip_grad_().group_norms, expected)
