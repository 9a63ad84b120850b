import copy
import itertools
import math
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fairclip.clipping import Chain, ClipRecord, Norm, Smoothness, Value
from fairclip.clipping._smoothness import SmoothnessState
from tests._no_waiting import NoWaiting
from tests.clipping._inputs import BANK, EXACT, layers, parameters
from tests.clipping._properties import (
    assert_equal,
    assert_record_is_detached_scalars,
    gradients,
    norm_of,
)

bank = pytest.mark.parametrize("name", BANK)


def clip(
    mode: Smoothness, clipped: Sequence[Tensor], *steps: Sequence[Tensor | None]
) -> tuple[SmoothnessState, list[ClipRecord]]:
    """Clip these gradients one after the other; the last ones are left in the parameters."""
    state = mode.init(clipped)
    records = []
    for step in steps:
        for parameter, gradient in zip(clipped, step, strict=True):
            parameter.grad = None if gradient is None else gradient.clone()
        records.append(mode(clipped, state))
    return state, records


def vectors(*values: list[float]) -> list[list[Tensor | None]]:
    return [[torch.tensor(value)] for value in values]


# ------------------------------------------------------------------ the rule


def test_a_value_worked_by_hand() -> None:
    # The gradient 8 w of a curvature of 8, by steps of size 0.5: w = 1, then -3.
    (weight,) = parameters([torch.zeros(1)])
    state, (first, second) = clip(Smoothness(1.5), [weight], *vectors([8.0], [-24.0]))
    assert float(first.threshold) == math.inf
    assert float(first.norm_after) == float(first.norm_before) == 8
    # L = 32 / 4 = 8, and 1.5 / 8 is 0.375 of the step size 0.5.
    assert float(second.norm_after) == float(second.threshold) == 0.375 * 24
    assert float(second.share_clipped) == 1
    torch.testing.assert_close(weight.grad, torch.tensor([-9.0]))
    assert float(state.steps) == 0.25


@settings(derandomize=True, deadline=None, max_examples=50)
@given(
    lr=st.floats(0.01, 2.0),
    clip_factor=st.floats(0.1, 3.0),
    curvatures=st.lists(st.floats(-3.0, 10.0), min_size=2, max_size=4),
)
def test_the_step_size_is_clipped_at_the_factor_over_the_smoothness(
    lr: float, clip_factor: float, curvatures: list[float]
) -> None:
    scales = torch.tensor(curvatures, dtype=torch.float64)
    weight = nn.Parameter(torch.ones_like(scales))
    optimizer = torch.optim.SGD([weight], lr=lr)
    handle = Smoothness(clip_factor).attach(optimizer)
    past: list[tuple[Tensor, Tensor]] = []
    for _ in range(4):
        optimizer.zero_grad()
        (scales * weight**2 / 2 + weight**4).sum().backward()
        assert weight.grad is not None
        past.append((weight.detach().clone(), weight.grad.clone()))
        optimizer.step()
        assert handle.record is not None
        if len(past) > 1:
            (w0, g0), (w1, g1) = past[-2:]
            smoothness = torch.linalg.norm(g1 - g0) / torch.linalg.norm(w1 - w0)
            step_size = torch.linalg.norm(weight.detach() - w1) / torch.linalg.norm(g1)
            expected = min(lr, clip_factor / float(smoothness))
            assert float(step_size) == pytest.approx(expected, rel=1e-6)


def test_on_a_plateau_a_step_may_double_up_to_the_limit() -> None:
    mode = Smoothness(1.0, max_growth=3.0)
    _, records = clip(mode, parameters([torch.zeros(1)]), *vectors(*[[2.0]] * 4))
    assert [float(record.norm_after) for record in records] == [2.0, 4.0, 6.0, 6.0]
    assert [float(record.share_clipped) for record in records] == [0.0, 1.0, 1.0, 1.0]
    assert float(records[-1].threshold) == math.inf


def test_a_step_is_lengthened_at_most_to_half_of_one_over_the_smoothness() -> None:
    mode = Smoothness(1.0, max_growth=100.0)
    _, (_, second) = clip(mode, parameters([torch.zeros(1)]), *vectors([1.0], [0.7]))
    assert float(second.norm_after) == pytest.approx(0.7 / (2 * 0.3))


def test_nothing_is_lengthened_by_default() -> None:
    _, records = clip(Smoothness(), parameters([torch.zeros(1)]), *vectors(*[[2.0]] * 3))
    assert [float(record.norm_after) for record in records] == [2.0] * 3


def test_the_bounds_hold_also_in_the_first_step() -> None:
    mode = Smoothness(1.0, lower=3.0, upper=10.0)
    steps = vectors([100.0], [-100.0], [-100.0], [2.0])
    _, records = clip(mode, parameters([torch.zeros(1)]), *steps)
    assert [float(r.threshold) for r in records] == pytest.approx([10, 5, 10, 3], rel=1e-5)
    assert [float(r.norm_after) for r in records] == pytest.approx([10, 5, 10, 2], rel=1e-5)


@pytest.mark.parametrize("lower", [None, 0.5])
def test_a_zero_gradient_stays_and_gives_no_estimate(lower: float | None) -> None:
    (weight,) = parameters([torch.zeros(1)])
    steps = vectors([1.0], [0.0], [4.0], [4.0])
    state, records = clip(Smoothness(1.0, lower=lower), [weight], *steps)
    assert [float(r.norm_after) for r in records] == [1.0, 0.0, 4.0, 4.0]
    assert float(state.steps) == math.inf  # from 4 to 4


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("upper", [None, 1e6])
def test_nonfinite_gradients_are_not_hidden_and_observe_nothing(
    bad: float, upper: float | None
) -> None:
    (weight,) = parameters([torch.zeros(2)])
    mode = Smoothness(1.0, upper=upper)
    steps: list[list[Tensor | None]] = vectors([1.0, 0.0], [-1.0, 0.0], [1.0, bad])
    state, records = clip(mode, [weight], *steps)
    assert not bool(weight.grad.isfinite().all())  # type: ignore[union-attr]
    assert int(records[-1].first_nonfinite) == 0  # type: ignore[arg-type]
    for value in ([6.0, 0.0], [6.0, 0.0]):
        assert float(state.steps) == 0.5
        weight.grad = torch.tensor(value)
        mode([weight], state)
    assert float(state.steps) == math.inf


def test_other_parameters_than_before_give_no_estimate() -> None:
    a, b = parameters([torch.zeros(1), torch.zeros(1)])
    one, ten = torch.tensor([1.0]), torch.tensor([-10.0])
    # The second gradient is of another parameter than the first.
    state, records = clip(Smoothness(1.0), [a, b], [one, None], [None, ten], [None, ten])
    assert [float(record.norm_after) for record in records] == [1.0, 10.0, 10.0]
    assert state.with_gradient == (False, True)
    assert float(state.steps) == math.inf  # from -10 to -10


# ------------------------------------------------------------------ every kind of gradient


def _changed(values: Sequence[Tensor | None], share: float) -> list[Tensor | None]:
    return [None if value is None else value * share for value in values]


@bank
def test_the_record_is_true(name: str) -> None:
    values = BANK[name]()
    clipped = parameters(values)
    rtol = 2e-2 if "float16" in name else 1e-5
    state, (_, record) = clip(Smoothness(1.0), clipped, _changed(values, -2.0), values)
    assert_record_is_detached_scalars(record)
    assert record.name == "Smoothness"
    assert float(record.norm_before) == pytest.approx(norm_of(parameters(values)), rel=rtol)
    assert float(record.norm_after) == pytest.approx(norm_of(clipped), rel=rtol)
    if name != "zero":  # from -2 g to g is 3 g
        assert float(state.steps) == pytest.approx(2 / 3, rel=rtol)


@pytest.mark.parametrize("name", EXACT)
def test_all_gradients_are_scaled_by_one_factor(name: str) -> None:
    values = BANK[name]()
    clipped = parameters(values)
    clip(Smoothness(1.0), clipped, _changed(values, -2.0), values)
    for a, e in zip(gradients(clipped), values, strict=True):
        if a is not None and e is not None:
            torch.testing.assert_close(a, e * (2 / 3))


def test_large_and_small_tensors_are_compared_component_by_component() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(300, 400), (7,), (50, 20), (), (70_000,), (0, 3)]
    first, second = (
        [torch.randn(shape, generator=generator) for shape in shapes] for _ in range(2)
    )
    first[0], second[0] = first[0].T, second[0].T
    state, _ = clip(Smoothness(), parameters(first), first, second)
    flat = [torch.cat([t.flatten().double() for t in step]) for step in (first, second)]
    expected = torch.linalg.norm(flat[0]) / torch.linalg.norm(flat[1] - flat[0])
    assert float(state.steps) == pytest.approx(float(expected), rel=1e-5)
    assert [kept.shape for kept in state.gradient] == [flat[0].shape]  # however it was measured


def test_the_gradient_before_clipping_is_kept() -> None:
    values = vectors([1.0], [-3.0])
    (weight,) = parameters([torch.zeros(1)])
    state, _ = clip(Smoothness(1.0), [weight], *values)
    assert float(weight.grad) == -0.75  # type: ignore[arg-type]
    assert_equal(state.gradient, [torch.tensor([-3.0])])


def test_a_large_gradient_is_copied_not_held() -> None:
    values: list[Tensor | None] = [torch.ones(70_000)]
    (weight,) = parameters(values)
    state, _ = clip(Smoothness(upper=1e-3), [weight], values, values)
    assert float(state.gradient[0][0]) == 1


def test_a_sparse_gradient_is_rejected_by_name() -> None:
    embedding = nn.Embedding(4, 1, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    named = list(embedding.named_parameters())
    with pytest.raises(TypeError, match=r"Smoothness needs dense gradients.*'weight' is sparse"):
        Smoothness()(named, Smoothness().init(named))


def test_a_tied_weight_counts_once() -> None:
    (tied,) = parameters([torch.tensor([3.0, 4.0])])
    mode = Smoothness(upper=1.0)
    record = mode([tied, tied], mode.init([tied, tied]))
    assert float(record.norm_before) == 5
    torch.testing.assert_close(tied.grad, torch.tensor([0.6, 0.8]))


def test_nothing_to_clip_is_a_record_of_zeros() -> None:
    mode = Smoothness()
    for empty in ([], [nn.Parameter(torch.ones(2))]):
        state = mode.init(empty)
        for _ in range(2):
            record = mode(empty, state)
            assert float(record.norm_before) == float(record.norm_after) == 0
            assert float(record.share_clipped) == 0


# ------------------------------------------------------------------ its state


def test_the_memory_is_that_of_the_gradient_however_long_it_runs() -> None:
    clipped = parameters([torch.zeros(4, 3), torch.zeros(5)])
    mode = Smoothness()
    state = mode.init(clipped)
    sizes = set()
    for _ in range(20):
        for parameter in clipped:
            parameter.grad = torch.randn_like(parameter)
        mode(clipped, state)
        kept = [state.factor, state.length, state.steps, *state.gradient]
        sizes.add(sum(tensor.numel() for tensor in kept))
    assert sizes == {17 + 3}


def _train(
    weight: Tensor, mode: Any, n_steps: int, saved: dict[str, Any] | None = None
) -> dict[str, Any]:
    optimizer = torch.optim.SGD([weight], lr=0.3, momentum=0.0)
    handle = mode.attach(optimizer)
    if saved is not None:
        handle.load_state_dict(saved)
    for _ in range(n_steps):
        optimizer.zero_grad()
        (weight**4 + torch.tensor([1.0, 0.01]) * weight**2).sum().backward()
        optimizer.step()
    handle.remove()
    return copy.deepcopy(handle.state_dict())


@pytest.mark.parametrize(
    "mode",
    [
        Smoothness(1.0, max_growth=5.0),
        Chain(Value(3.0), Smoothness(1.5, lower=0.1, upper=2.0), Norm(1.5)),
    ],
    ids=["alone", "in a chain"],
)
def test_a_resumed_run_is_the_run(mode: Any) -> None:
    whole, resumed = (nn.Parameter(torch.tensor([2.0, -1.0])) for _ in range(2))
    _train(whole, mode, 8)
    saved = _train(resumed, mode, 4)
    _train(resumed, mode, 4, pickle.loads(pickle.dumps(saved)))
    assert_equal([resumed], [whole])


def test_a_resumed_run_goes_on_lengthening_where_it_was() -> None:
    mode = Smoothness(1.0, max_growth=100.0)
    (weight,) = parameters([torch.zeros(1)])
    state, _ = clip(mode, [weight], *vectors(*[[1.0]] * 4))  # by 1, 2, 4, 8
    resumed = mode.init([weight])
    resumed.load_state_dict(state.state_dict())
    weight.grad = torch.tensor([1.0])
    assert float(mode([weight], resumed).norm_after) == 16


def test_what_is_saved_does_not_change_later() -> None:
    (weight,) = parameters([torch.zeros(1)])
    state, _ = clip(Smoothness(), [weight], *vectors([1.0], [2.0]))
    saved = state.state_dict()
    loaded = Smoothness().init([weight])
    loaded.load_state_dict(saved)
    for used in (state, loaded):
        weight.grad = torch.tensor([7.0])
        Smoothness()([weight], used)
    assert_equal(saved["gradient"], [torch.tensor([2.0])])


def test_the_state_is_needed() -> None:
    with pytest.raises(ValueError, match="remembers the last gradient"):
        Smoothness()([])


def test_it_is_scaled_and_survives_pickling() -> None:
    mode = Smoothness(2.0, max_growth=4.0, lower=1.0)
    assert mode.scaled(0.5) == Smoothness(1.0, max_growth=4.0, lower=0.5)
    assert pickle.loads(pickle.dumps(mode)) == mode


def test_it_does_not_wait_for_the_device() -> None:
    named = layers()
    mode = Smoothness(1.0, max_growth=2.0, lower=0.1, upper=5.0)
    state = mode.init(named.items())
    with NoWaiting():
        for _ in range(3):
            mode(named.items(), state)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan])
def test_settings_out_of_range_are_rejected(bad: float) -> None:
    with pytest.raises(ValueError, match="`clip_factor` must be positive, got"):
        Smoothness(bad)
    with pytest.raises(ValueError, match="`lower` must be positive or None, got"):
        Smoothness(lower=bad)
    with pytest.raises(ValueError, match="`upper` must be positive or None, got"):
        Smoothness(upper=bad)
    with pytest.raises(ValueError, match="`lower` must be at most `upper`"):
        Smoothness(lower=2.0, upper=1.0)


@pytest.mark.parametrize("bad", [0.5, math.nan, math.inf])
def test_the_growth_must_be_at_least_1_and_finite(bad: float) -> None:
    with pytest.raises(ValueError, match="`max_growth` must be finite and at least 1, got"):
        Smoothness(max_growth=bad)


# ------------------------------------------------------------------ what it is good for


@dataclass(frozen=True)
class Problem:
    """A loss of two weights, (..., 2) -> (...), and where to start."""

    loss: Callable[[Tensor], Tensor]
    least: float
    starts: tuple[tuple[float, float], ...]


def _cliff(w: Tensor) -> Tensor:
    """A wall, 22,000 steep at -1, beside a plateau with a slope of 0.1 and a flat valley."""
    x, y = w.unbind(-1)
    return torch.exp((-10 * x).clamp(max=200)) + 0.1 * x + 0.025 * y**2


def _saddle(w: Tensor) -> Tensor:
    """Curvatures of 1 and -0.1 at the saddle 0, and of 1 and 0.2 at the minima (0, 1), (0, -1)."""
    x, y = w.unbind(-1)
    return x**2 / 2 - y**2 / 20 + y**4 / 40


CLIFF = Problem(
    _cliff,
    0.01 + 0.01 * math.log(100),
    ((5.0, 0.5), (2.0, -3.0), (0.3, 3.0), (8.0, 2.0), (3.0, -1.0), (-0.3, 1.0)),
)
SADDLE = Problem(
    _saddle, -1 / 40, ((1.0, 1e-3), (2.0, 1e-5), (0.5, -1e-4), (-3.0, 1e-2), (1.5, -1e-6))
)
RATES = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 1.9, 3.0, 5.0, 10.0, 20.0)
THRESHOLDS = (*(10 ** (k / 4) for k in range(-12, 13)), math.inf)
N_STEPS = 1000


def steps_of_fixed(problem: Problem) -> dict[float, int]:
    """Return by learning rate how many steps the best fixed threshold needs, over all starts.

    A step counts until the loss stays within 0.001 of the least.
    """
    pairs = list(itertools.product(RATES, THRESHOLDS, problem.starts))
    lr = torch.tensor([[pair[0]] for pair in pairs], dtype=torch.float64)
    max_norm = torch.tensor([[pair[1]] for pair in pairs], dtype=torch.float64)
    w = torch.tensor([pair[2] for pair in pairs], dtype=torch.float64, requires_grad=True)
    needed = torch.zeros(len(pairs), dtype=torch.int64)
    for step in range(N_STEPS):
        loss = problem.loss(w)
        needed[~(loss.detach() - problem.least <= 1e-3)] = step + 1
        (gradient,) = torch.autograd.grad(loss.sum(), w)
        norm = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
        with torch.no_grad():
            w -= lr * gradient * (max_norm / (norm + 1e-6)).clamp(max=1.0)
            w.nan_to_num_(nan=1e6).clamp_(-1e6, 1e6)
    totals = needed.reshape(len(RATES), len(THRESHOLDS), len(problem.starts)).sum(-1)
    return dict(zip(RATES, totals.min(1).values.tolist(), strict=True))


def steps_of(mode: Smoothness, problem: Problem, lr: float) -> int:
    """Return how many steps a mode needs, counted in the same way."""
    total = 0
    for start in problem.starts:
        w = nn.Parameter(torch.tensor(start, dtype=torch.float64))
        optimizer = torch.optim.SGD([w], lr=lr)
        mode.attach(optimizer)
        needed = 0
        for step in range(N_STEPS):
            optimizer.zero_grad()
            loss = problem.loss(w)
            if not loss.item() - problem.least <= 1e-3:
                needed = step + 1
            elif step - needed > 300:
                break
            loss.backward()
            optimizer.step()
        total += needed
    return total


@pytest.mark.parametrize("problem", [CLIFF, SADDLE], ids=["plateau and cliff", "saddle"])
def test_it_beats_the_best_fixed_threshold(problem: Problem) -> None:
    mode = Smoothness(1.0, max_growth=10.0, upper=1.0)
    fixed = steps_of_fixed(problem)
    ours = {lr: steps_of(mode, problem, lr) for lr in (0.3, 1.0, 3.0)}
    for lr, needed in ours.items():
        assert needed < 0.35 * fixed[lr]
    # Also where the rival may choose its learning rate, and this does not.
    assert ours[1.0] < 0.6 * min(fixed.values())


def test_without_upper_a_first_step_on_the_cliff_is_lost() -> None:
    """Here a fixed threshold is better; the other starts need no `upper`."""
    problem = Problem(CLIFF.loss, CLIFF.least, CLIFF.starts[-1:])
    without, bounded = (
        steps_of(Smoothness(1.0, max_growth=10.0, upper=upper), problem, 1.0)
        for upper in (None, 1.0)
    )
    assert bounded < steps_of_fixed(problem)[1.0] < without


def _share_left(mode: Smoothness, scale: float = 1.0) -> float:
    """Return what is left of the last of 300 gradients that are noise, as a share of it."""
    generator = torch.Generator().manual_seed(0)
    noise = scale * torch.randn(300, 1000, generator=generator)
    _, records = clip(mode, parameters([noise[0]]), *([gradient] for gradient in noise))
    return float(records[-1].norm_after / records[-1].norm_before)


def test_noise_alone_is_not_clipped_by_default() -> None:
    assert _share_left(Smoothness()) == 1
    assert _share_left(Smoothness(max_growth=10.0)) == 1


def test_noise_may_clip_steps_to_nothing_and_lower_prevents_it() -> None:
    norm = math.sqrt(1000)
    assert _share_left(Smoothness(1.0)) < 1e-6
    assert _share_left(Smoothness(1.0, lower=0.5 * norm)) == pytest.approx(0.5, rel=0.1)


def test_an_oscillation_is_clipped_by_default() -> None:
    _, records = clip(Smoothness(), parameters([torch.zeros(1)]), *vectors([2.0], [-2.0]))
    assert float(records[-1].norm_after) == 1.5
