"""What is said about clipping, on real layers and optimizers: what of it holds."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import jacobian
from torch.nn.utils import parameters_to_vector

from fairclip.clipping import Mode, Norm, Value
from tests.clipping._inputs import parameters
from tests.clipping._properties import norm_of

# ------------------------------------------------------------------ what the norm measures


def test_an_rnn_gradient_of_norm_113_clipped_at_10_is_scaled_by_0_088() -> None:
    # h_6 = w^5 u x with w = 2, u = 2.8, x = 0.5: dh/dw = 5 * 16 * 1.4 and dh/du = 32 * 0.5.
    rnn = nn.RNN(1, 1, nonlinearity="relu", bias=False).double()
    for weight, size in zip(rnn.parameters(), (2.8, 2.0), strict=True):  # u, w
        nn.init.constant_(weight, size)
    outputs, _ = rnn(torch.tensor([[0.5], [0.0], [0.0], [0.0], [0.0], [0.0]]).double())
    outputs[-1].sum().backward()
    gradient = torch.cat([p.grad.flatten() for p in rnn.parameters() if p.grad is not None])
    assert gradient.tolist() == pytest.approx([16.0, 112.0])

    record = Norm(10.0)(rnn.parameters())

    clipped = torch.cat([p.grad.flatten() for p in rnn.parameters() if p.grad is not None])
    assert float(record.norm_before) == pytest.approx(113.13, abs=0.01)
    assert (clipped / gradient).tolist() == pytest.approx([0.088, 0.088], abs=5e-4)
    assert float(clipped.norm()) == pytest.approx(10.0)
    assert float(torch.cosine_similarity(clipped, gradient, dim=0)) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize(("norm_type", "divisor"), [(math.inf, 1.0), (2.0, 5.0)])
def test_many_small_components_are_long_in_the_2_norm_only(
    norm_type: float, divisor: float
) -> None:
    (weight,) = parameters([torch.full((100,), 0.1, dtype=torch.float64)])
    record = Norm(0.2, norm_type)([weight])
    expected = torch.full((100,), 0.1 / divisor, dtype=torch.float64)
    torch.testing.assert_close(weight.grad, expected, rtol=1e-5, atol=0)
    assert float(record.share_clipped) == float(divisor > 1)


def test_50_layers_that_stretch_by_1_2_stretch_a_gradient_by_more_than_9000() -> None:
    torch.manual_seed(0)
    chain = nn.Sequential(*[nn.Linear(6, 6, bias=False) for _ in range(50)]).double()
    for weight in chain.parameters():
        nn.init.orthogonal_(weight, gain=1.2)
    inputs = torch.eye(6, dtype=torch.float64)[0]
    stretches = torch.linalg.svdvals(jacobian(chain, inputs))  # (6,)
    assert float(stretches.min()) > 9_000
    assert stretches.tolist() == pytest.approx([1.2**50] * 6)

    inputs.requires_grad_()
    outputs = chain(inputs)
    outputs.backward(torch.nn.functional.normalize(torch.ones_like(outputs), dim=0))
    record = Norm(1.0)(chain.parameters())
    assert inputs.grad is not None
    assert float(inputs.grad.norm()) == pytest.approx(1.2**50)
    # Each weight lacks its own stretch: 1.2^49 of the others, forward and backward together.
    assert float(record.norm_before) == pytest.approx(math.sqrt(50) * 1.2**49)
    assert norm_of(list(chain.parameters())) == pytest.approx(1.0)


# ------------------------------------------------------------------ what noise makes of it


def clipped_rows(rows: Tensor, mode: Mode) -> Tensor:
    """Return each row (N, P) clipped on its own, as the gradients of N steps."""
    made = parameters(list(rows))
    mode(made)
    return torch.stack([p.grad for p in made if p.grad is not None])


def degrees_between(a: Tensor, b: Tensor) -> float:
    return math.degrees(math.acos(float(torch.cosine_similarity(a, b, dim=0))))


def variance(rows: Tensor) -> float:
    """Return the mean squared distance from the mean."""
    return float((rows - rows.mean(0)).square().sum(1).mean())


def test_under_isotropic_noise_the_mean_keeps_its_direction_and_the_variance_falls() -> None:
    random = torch.Generator().manual_seed(0)
    mean = torch.tensor([3.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    noise = torch.randn(2_000, 4, generator=random, dtype=torch.float64)
    rows = mean + torch.cat([noise, -noise])  # their mean is `mean` itself
    clipped = clipped_rows(rows, Norm(2.0, scope="tensor"))
    assert degrees_between(clipped.mean(0), mean) < 1.0
    assert variance(clipped) < 0.5 * variance(rows)
    # Only the direction: the mean is shorter, and clamped components turn it.
    assert float(clipped.mean(0).norm()) < 0.7 * float(mean.norm())
    assert degrees_between(clipped_rows(rows, Value(1.0)).mean(0), mean) > 10.0


def test_under_noise_along_one_line_the_mean_turns_by_41_degrees() -> None:
    mean, noise = torch.tensor([1.0, 0.0]), torch.tensor([2.0, 2.0])
    rows = torch.stack([mean + noise, mean - noise]).double()
    clipped = clipped_rows(rows, Norm(1.0, scope="tensor"))
    by_hand = torch.tensor([[3 / 13**0.5, 2 / 13**0.5], [-1 / 5**0.5, -2 / 5**0.5]])
    torch.testing.assert_close(clipped, by_hand.double(), rtol=1e-5, atol=0)
    assert degrees_between(clipped.mean(0), mean.double()) == pytest.approx(41.4, abs=0.1)
    assert variance(clipped) < variance(rows)  # falls under any noise: distances shrink


# ------------------------------------------------------------------ what optimizers make of it

Build = Callable[[], nn.Module]
MODELS: dict[str, tuple[Build, tuple[int, ...]]] = {
    "mlp": (lambda: nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)), (8, 4)),
    "conv": (lambda: nn.Sequential(nn.Conv1d(2, 3, 3), nn.ReLU(), nn.Conv1d(3, 1, 2)), (4, 2, 9)),
    "gru": (lambda: nn.GRU(3, 5), (7, 2, 3)),
}
models = pytest.mark.parametrize("name", MODELS)
LR, MAX_NORM, MOMENTUM = 0.05, 0.7, 0.9


def step_lengths(name: str, max_norm: float, momentum: float, nesterov: bool = False) -> Tensor:
    """Return how far each of 20 steps of SGD moves the weights."""
    torch.manual_seed(0)
    build, shape = MODELS[name]
    model, inputs = build().double(), torch.randn(shape, dtype=torch.float64)
    optimizer = torch.optim.SGD(model.parameters(), LR, momentum, nesterov=nesterov)
    lengths = []
    for _ in range(20):
        outputs = model(inputs)
        loss = (5 + (outputs[0] if isinstance(outputs, tuple) else outputs)).square().sum()
        optimizer.zero_grad()
        loss.backward()
        Norm(max_norm)(model.parameters())
        before = parameters_to_vector(model.parameters()).detach()
        optimizer.step()
        lengths.append((parameters_to_vector(model.parameters()).detach() - before).norm())
    return torch.stack(lengths)


@models
def test_a_step_of_sgd_is_at_most_lr_times_max_norm(name: str) -> None:
    lengths = step_lengths(name, MAX_NORM, momentum=0.0)
    assert float(lengths.max()) == pytest.approx(LR * MAX_NORM)
    assert float(lengths.max()) <= LR * MAX_NORM * (1 + 1e-9)
    assert float(step_lengths(name, math.inf, momentum=0.0)[0]) > 10 * LR * MAX_NORM


@models
@pytest.mark.parametrize("nesterov", [False, True])
def test_with_momentum_only_the_sum_of_the_series_bounds_a_step(name: str, nesterov: bool) -> None:
    longest = float(step_lengths(name, MAX_NORM, MOMENTUM, nesterov).max())
    assert 2 * LR * MAX_NORM < longest < LR * MAX_NORM / (1 - MOMENTUM)


def test_a_constant_gradient_reaches_the_bound_with_momentum() -> None:
    weight = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    optimizer = torch.optim.SGD([weight], LR, MOMENTUM)
    for _ in range(150):
        before = weight.detach().clone()
        optimizer.zero_grad()
        (weight @ torch.tensor([30.0, 40.0], dtype=torch.float64)).backward()
        Norm(MAX_NORM)([weight])
        optimizer.step()
    length = float((weight.detach() - before).norm())
    assert length == pytest.approx(LR * MAX_NORM / (1 - MOMENTUM), rel=1e-6)


# AdamW moves w by -lr (decay w + m / (sqrt(v) + eps)). A constant gradient g has m = g and
# sqrt(v) = |g| after the correction, in every step. So w rests where g / (|g| + eps) = -decay w:
# g points against w, with |g| = eps decay |w| / (1 - decay |w|), and n such components have the
# norm sqrt(n) |g|. The left side is below 1, so nothing holds a weight with decay |w| >= 1.
def growth_under_adamw(max_norm: float, size: float, decay: float, eps: float) -> float:
    """Return what 20 steps add to weights of this size, in units of what their decay takes."""
    signs = torch.tensor([1.0, -1.0, 1.0, 1.0], dtype=torch.float64)
    weight = nn.Parameter(size * signs)
    optimizer = torch.optim.AdamW([weight], lr=0.01, eps=eps, weight_decay=decay)
    for _ in range(20):
        optimizer.zero_grad()
        (-1e6 * signs @ weight).backward()
        Norm(max_norm)([weight])
        optimizer.step()
    added = (weight.detach() * signs - size).mean()
    return float(added) / (20 * 0.01 * decay * size)


@pytest.mark.parametrize(
    ("size", "decay", "eps"), [(2.0, 0.01, 1e-8), (0.5, 0.1, 1e-3), (30.0, 0.03, 1e-8)]
)
def test_adamw_has_a_threshold_at_which_the_step_cancels_the_weight_decay(
    size: float, decay: float, eps: float
) -> None:
    threshold = math.sqrt(4) * eps * decay * size / (1 - decay * size)
    assert growth_under_adamw(threshold, size, decay, eps) == pytest.approx(0.0, abs=1e-9)
    assert growth_under_adamw(1.1 * threshold, size, decay, eps) > 0.005
    assert growth_under_adamw(0.9 * threshold, size, decay, eps) < -0.005


def test_no_threshold_holds_a_weight_against_a_decay_of_one_and_more() -> None:
    assert growth_under_adamw(math.inf, size=110.0, decay=0.01, eps=1e-8) < -0.05


def adam_through_a_spike(mode: Mode) -> tuple[Tensor, Tensor]:
    """Return Adam's v_t and step / lr, of 900 steps on a slope of 1 that is 100 in step 100."""
    weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = torch.optim.Adam([weight], lr=1e-3, betas=(0.9, 0.99))
    averages, places = [], [weight.detach().clone()]
    for number in range(900):
        optimizer.zero_grad()
        ((100.0 if number == 100 else 1.0) * weight.sum()).backward()
        mode([weight])
        optimizer.step()
        averages.append(optimizer.state[weight]["exp_avg_sq"].clone())
        places.append(weight.detach().clone())
    return torch.cat(averages), torch.cat(places).diff() / -1e-3


def test_clipping_keeps_one_spike_from_shrinking_the_steps_of_adam_for_hundreds_of_steps() -> None:
    averages, steps = adam_through_a_spike(Norm(math.inf))
    assert float(averages[100] / averages[99]) > 150  # 0.99 v + 0.01 * 100^2, and v was 0.63
    small = (steps < 0.9).nonzero().flatten() - 100
    # v_t / (1 - 0.99^t) = 0.9^-2 where 100 * 0.99^n = 0.2346, that is n = 602.
    assert int(small.max()) == pytest.approx(602, abs=3)
    assert float(steps[150]) < 0.15

    averages, steps = adam_through_a_spike(Norm(1.0))
    assert float(averages.max()) <= 1.0
    assert float(steps.min()) > 0.999
