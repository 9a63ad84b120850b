"""What every mode does with lists of gradients that are hard to clip, on the CPU and on a GPU."""

import copy
import inspect
import io
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fairclip import clipping
from fairclip.clipping import (
    Centralize,
    Chain,
    ClipRecord,
    Mode,
    Momentum,
    Norm,
    Smoothness,
    Unitwise,
    Update,
    Value,
    Weights,
)
from fairclip.clipping._mode import OptimizerMode
from tests.clipping._hard_inputs import HARD, Make, named, noise
from tests.clipping._inputs import parameters
from tests.clipping._modes import (
    MODES,
    OPTIMIZER_MODES,
    clip,
    devices,
    every_mode,
    every_optimizer_mode,
    state_after_some_steps,
)
from tests.clipping._properties import assert_equal, assert_record_is_detached_scalars, gradients

HALF = (torch.float16, torch.bfloat16)


hard = pytest.mark.parametrize("make", HARD.values(), ids=HARD.keys())


def flat(tensors: Sequence[Tensor | None]) -> Tensor:
    """Return everything as one vector, in float64, (P,)."""
    parts = [t.to_dense().double().cpu().flatten() for t in tensors if t is not None]
    return torch.cat([torch.zeros(1, dtype=torch.float64), *parts])


def assert_true(record: ClipRecord, before: Tensor, after: Tensor, p: float, rtol: float) -> None:
    """The norms and the cosine are those of these vectors, (P,)."""
    lengths = [float(torch.linalg.vector_norm(each, p)) for each in (before, after)]
    reported = [float(record.norm_before), float(record.norm_after)]
    assert reported == pytest.approx(lengths, rel=rtol, abs=1e-19)
    if record.cosine is None:
        return
    cosine = float(torch.cosine_similarity(before, after, dim=0, eps=0))
    if not (min(reported) < 1e-19 and math.isnan(record.cosine)):  # their squares are 0
        assert float(record.cosine) == pytest.approx(cosine, abs=rtol)


def test_every_mode_is_tested_here() -> None:
    exported = {
        name
        for name in clipping.__all__
        if inspect.isclass(kind := getattr(clipping, name))
        and issubclass(kind, Mode | OptimizerMode)
        and not inspect.isabstract(kind)
    }
    assert exported == {
        type(mode).__name__ for mode in [*MODES.values(), *OPTIMIZER_MODES.values()]
    }


@every_mode
def test_the_settings_are_such_that_each_mode_acts(mode: Mode) -> None:
    clipped = named([noise(3, 4), noise(4)])
    before = gradients(list(clipped.values()))
    record = clip(mode, clipped.items())
    for old, parameter in zip(before, clipped.values(), strict=True):
        is_matrix = parameter.ndim > 1
        assert old is not None
        assert parameter.grad is not None
        if is_matrix or not isinstance(mode, Centralize):
            assert not torch.equal(old, parameter.grad)
    assert float(record.share_clipped) > 0


@devices
@hard
@every_mode
def test_the_record_is_true(mode: Mode, make: Make, device: str) -> None:
    clipped = named(make(), device)
    before = flat(gradients(list(clipped.values())))
    record = clip(mode, clipped.items())
    after = [p.grad for p in clipped.values() if p.grad is not None]
    half = any(gradient.dtype in HALF for gradient in after)
    p = getattr(mode, "norm_type", 2.0)
    assert_true(record, before, flat(after), p, rtol=2e-2 if half else 2e-5)
    assert_record_is_detached_scalars(record)
    assert record.norm_before.device.type == device
    assert record.first_nonfinite is not None
    assert int(record.first_nonfinite) == -1
    assert sorted(record.parameters) == sorted(n for n, p in clipped.items() if p.grad is not None)


@devices
@every_mode
def test_dtypes_side_by_side_are_clipped_as_if_all_were_float64(mode: Mode, device: str) -> None:
    dtypes = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    values = [noise(3, 4, seed=i) for i in range(len(dtypes))]
    mixed = named([v.to(dtype) for v, dtype in zip(values, dtypes, strict=True)], device)
    exact = named([v.double() for v in values], device)
    record, expected = clip(mode, mixed.items()), clip(mode, exact.items())
    for a, b, dtype in zip(mixed.values(), exact.values(), dtypes, strict=True):
        assert a.grad is not None
        assert b.grad is not None
        assert a.grad.dtype == dtype
        # The gradients of earlier steps were rounded as well: a mode may remember that.
        torch.testing.assert_close(a.grad.double(), b.grad, rtol=2e-2, atol=2e-3)
    assert float(record.norm_before) == pytest.approx(float(expected.norm_before), rel=1e-6)
    assert float(record.norm_after) == pytest.approx(float(expected.norm_after), rel=2e-2)


@pytest.mark.parametrize("dtype", HALF)
@every_mode
def test_half_precision_does_not_overflow_in_the_norm(mode: Mode, dtype: torch.dtype) -> None:
    clipped = named([torch.full((40, 40), 6e4, dtype=dtype)])  # of norm 2.4e6
    record = clip(mode, clipped.items())
    p = getattr(mode, "norm_type", 2.0)
    assert float(record.norm_before) == pytest.approx(6e4 * 1600 ** (1 / p), rel=5e-3)
    (gradient,) = gradients(list(clipped.values()))
    assert gradient is not None
    assert gradient.isfinite().all()


@devices
@every_mode
def test_what_is_not_contiguous_is_clipped_like_its_copy(mode: Mode, device: str) -> None:
    values = [noise(6, 8).T, noise(9, 4)[::3, ::2], noise(2, 3, 4).permute(2, 0, 1)]
    strided, dense = named(values, device), named([v.contiguous() for v in values], device)
    assert not any(g is not None and g.is_contiguous() for g in (p.grad for p in strided.values()))
    clip(mode, strided.items())
    clip(mode, dense.items())
    for a, b in zip(strided.values(), dense.values(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


@devices
@every_mode
def test_sparse_gradients_are_clipped_like_dense_ones_or_named_in_an_error(
    mode: Mode, device: str
) -> None:
    def embedding(sparse: bool) -> dict[str, Tensor]:
        made = nn.Embedding(6, 2, sparse=sparse, _weight=torch.zeros(6, 2)).to(device)
        rows = torch.tensor([1, 1, 4], device=device)  # one row twice
        (made(rows) * torch.tensor([[3.0, -1.0]], device=device)).sum().backward()
        other = nn.Parameter(torch.zeros(3, device=device))
        other.grad = torch.full_like(other, 2.0)
        return {"table.weight": made.weight, "head.bias": other}

    ours, theirs = embedding(sparse=True), embedding(sparse=False)
    if isinstance(mode, (Unitwise, Centralize, Smoothness)):
        message = f"^{type(mode).__name__} needs dense gradients, and .* 'table.weight' is sparse"
        with pytest.raises(TypeError, match=message):
            clip(mode, ours.items())
        assert_equal(gradients([ours["head.bias"]]), gradients([theirs["head.bias"]]))
        return
    record, expected = clip(mode, ours.items()), clip(mode, theirs.items())
    for a, b in zip(ours.values(), theirs.values(), strict=True):
        assert a.grad is not None
        assert a.grad.is_sparse == (a is ours["table.weight"])
        torch.testing.assert_close(a.grad.to_dense(), b.grad)
    for name in ("norm_before", "norm_after", "threshold"):
        torch.testing.assert_close(
            getattr(record, name), getattr(expected, name), equal_nan=True, check_dtype=False
        )


@devices
@every_mode
def test_parameters_without_a_gradient_take_no_part(mode: Mode, device: str) -> None:
    whole = named([noise(3, 4), None, noise(4), None], device)
    there = named([noise(3, 4), None, noise(4)], device)
    del there["layer0.weight"]
    record, expected = clip(mode, whole.items()), clip(mode, there.items())
    assert whole["layer0.weight"].grad is None
    for name, parameter in there.items():
        torch.testing.assert_close(whole[name].grad, parameter.grad)
    torch.testing.assert_close(record.norm_after, expected.norm_after)
    assert record.parameters == expected.parameters


@devices
@every_mode
def test_a_tied_weight_is_clipped_once(mode: Mode, device: str) -> None:
    values = [noise(3, 4), noise(4)]
    tied, single = named(values, device), named(values, device)
    twice = [*tied.items(), ("head.bias", tied["layer0.bias"])]
    record, expected = clip(mode, twice), clip(mode, single.items())
    assert_equal(*(gradients(list(each.values())) for each in (tied, single)))
    torch.testing.assert_close(record.norm_before, expected.norm_before)
    assert record.parameters == expected.parameters


@every_mode
def test_every_form_of_parameters_is_taken(mode: Mode) -> None:
    values = [noise(3, 4), noise(4)]
    expected = named(values)
    clip(mode, expected.items())
    as_list, as_generator = named(values), named(values)
    mode(list(as_list.items()), state_after_some_steps(mode, list(as_list.items())))
    state = state_after_some_steps(mode, list(as_generator.items()))
    mode(((name, p) for name, p in as_generator.items()), state)
    for each in (as_list, as_generator):
        assert_equal(*(gradients(list(p.values())) for p in (each, expected)))
    if _needs_names(mode):
        with pytest.raises(ValueError, match="named_parameters"):
            clip(mode, named(values).values())
        return
    nameless = named(values)
    record = mode(iter(nameless.values()), state_after_some_steps(mode, list(nameless.values())))
    assert_equal(*(gradients(list(p.values())) for p in (nameless, expected)))
    assert record.parameters == ("0", "1")


def _needs_names(mode: Mode) -> bool:
    if isinstance(mode, Chain):
        return any(map(_needs_names, mode.modes))
    return getattr(mode, "scope", "") == "layer" or bool(getattr(mode, "overrides", None))


@every_mode
def test_nothing_to_clip_is_a_record_of_zeros(mode: Mode) -> None:
    without = {"a.weight": nn.Parameter(torch.ones(2)), "a.bias": nn.Parameter(torch.ones(2))}
    lists: list[list[Any]] = [list(without.items())]
    if not getattr(mode, "overrides", None):  # whose patterns must apply to something
        lists.append([])
    for nothing in lists:
        record = mode(nothing, mode.init(nothing))
        assert float(record.norm_before) == float(record.norm_after) == 0
        assert float(record.share_clipped) == 0
        assert record.parameters == ()


# ------------------------------------------------------------------ inf and nan

FIRST, SECOND = noise(4), torch.tensor([[3.0, 2.0], [-1.0, 2.0]])


def after_nonfinite(name: str, bad: float, clean: Sequence[Tensor]) -> list[Tensor]:
    """Return what the docstrings say, where `bad` is in the first row of the second gradient.

    `clean` is what comes out with 1e4 of its sign in its place.
    """
    first, second = (each.clone() for each in clean)
    lost = torch.full((2, 2), math.nan) if math.isnan(bad) else torch.zeros(2, 2)
    lost[0, 1] = math.nan
    if name == "Value":
        second[0, 1] = math.copysign(0.5, bad) if math.isinf(bad) else math.nan
    elif name == "Centralize":
        second[0] = torch.tensor([-bad, math.nan])  # the mean is `bad`
    elif name == "Unitwise":
        second[0] = torch.tensor([3.0, math.nan] if math.isnan(bad) else [0.0, math.nan])
    elif name == "Smoothness":  # the last estimate holds, which allowed more than twice the step
        first, second = FIRST.clone(), SECOND.clone()
        second[0, 1] = bad
    elif name == "Chain":  # `Value` comes first
        if math.isnan(bad):
            first, second = first + math.nan, lost
    elif name.endswith((" of layers", " of tensors")):
        second = lost
    else:
        first, second = (first * 0 if math.isinf(bad) else first + math.nan), lost
    return [first, second]


@devices
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("name", MODES)
def test_inf_and_nan_do_what_is_documented(
    name: str, bad: float, dtype: torch.dtype, device: str
) -> None:
    def clipped(component: float) -> tuple[ClipRecord, list[Tensor]]:
        mode = MODES[name]
        made = {
            key: nn.Parameter(torch.zeros(value.shape, device=device, dtype=dtype))
            for key, value in (("one.bias", FIRST), ("two.bias", SECOND))
        }
        for parameter, value in zip(made.values(), (FIRST, SECOND), strict=True):
            parameter.grad = value.to(device, dtype, copy=True)
        state = state_after_some_steps(mode, list(made.items()))
        assert made["two.bias"].grad is not None
        made["two.bias"].grad[0, 1] = component
        record = mode(made.items(), state)
        return record, [p.grad.float().cpu() for p in made.values() if p.grad is not None]

    finite, clean = clipped(math.copysign(1e4, bad))
    record, got = clipped(bad)
    for actual, expected in zip(got, after_nonfinite(name, bad, clean), strict=True):
        torch.testing.assert_close(actual, expected, equal_nan=True, rtol=1e-2, atol=1e-3)
    assert finite.first_nonfinite is not None
    assert int(finite.first_nonfinite) == -1
    assert record.first_nonfinite is not None
    assert int(record.first_nonfinite) == record.parameters.index("two.bias")
    assert not math.isfinite(record.norm_before)
    if record.cosine is not None:
        assert math.isnan(record.cosine)
    assert 0 <= float(record.share_clipped) <= 1


@devices
@pytest.mark.parametrize("what", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize(
    "mode", [*MODES.values(), Smoothness(upper=0.1)], ids=[*MODES, "Smoothness, bounded"]
)
def test_first_nonfinite_is_a_place_among_the_parameters_of_the_record(
    mode: Mode, what: float, device: str
) -> None:
    # Two layers in turn, so that `scope="layer"` reorders them; two have no gradient.
    names = ["a.bias", "b.bias", "a.weight", "b.weight", "a.scale", "b.scale"]
    for bad in (0, 2, 3, 5):
        made = {name: nn.Parameter(torch.ones(3, 2, device=device)) for name in names}
        for place, (name, parameter) in enumerate(made.items()):
            if place not in (1, 4):
                parameter.grad = noise(3, 2, seed=len(name)).to(device)
        state = state_after_some_steps(mode, list(made.items()))
        gradient = made[names[bad]].grad
        assert gradient is not None
        gradient[1, 1] = what
        record = mode(made.items(), state)
        assert sorted(record.parameters) == sorted(n for n, p in made.items() if p.grad is not None)
        assert record.first_nonfinite is not None
        assert int(record.first_nonfinite) == record.parameters.index(names[bad])


@pytest.mark.parametrize("what", [math.inf, math.nan])
@every_optimizer_mode
def test_first_nonfinite_is_such_a_place_also_for_modes_of_optimizers(
    mode: OptimizerMode, what: float
) -> None:
    values = [noise(2), None, noise(3), torch.tensor([what, 1.0])]
    _, optimizer, handle = optimizers(mode, values, "cpu")
    optimizer.step()
    place = int(handle.record.first_nonfinite)
    assert place == handle.record.parameters.index("layer1.weight")
    buffers = ["layer0.bias", "layer1.bias", "layer1.weight"]
    expected = buffers if isinstance(mode, Momentum) else [*named(values)]
    assert list(handle.record.parameters) == expected


@every_mode
def test_complex_gradients_are_named_and_nothing_changes(mode: Mode) -> None:
    first, second = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2, dtype=torch.complex64))
    made = {"one.bias": first, "two.bias": second}
    state = mode.init(list(made.items()))
    for parameter in made.values():
        parameter.grad = torch.full_like(parameter, 3.0)
    with pytest.raises(TypeError, match=r"Parameter 'two\.bias' is complex.*view_as_real"):
        mode(made.items(), state)
    assert first.grad is not None
    assert first.grad.tolist() == [3.0, 3.0]


@every_optimizer_mode
def test_complex_parameters_are_named_before_the_step(mode: OptimizerMode) -> None:
    real, other = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2, dtype=torch.complex64))
    optimizer = torch.optim.SGD([("real", real), ("other", other)], lr=0.1, momentum=0.9)
    mode.attach(optimizer)
    for parameter in (real, other):
        parameter.grad = torch.ones_like(parameter)
    with pytest.raises(TypeError, match="Parameter other is complex"):
        optimizer.step()
    assert real.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("mode", [Value(2.0), Norm(1.0), Smoothness()], ids=repr)
def test_float32_norms_beyond_the_square_root_of_its_range_are_inf_or_0(mode: Mode) -> None:
    for size, norm in ((1e20, math.inf), (1e-23, 0.0)):
        clipped = named([torch.full((2,), size)])
        assert float(mode(clipped.items(), mode.init(clipped.items())).norm_before) == norm


REMEMBERING = {
    name: mode for name, mode in MODES.items() if mode.init([("a.bias", nn.Parameter(noise(1)))])
}
every_remembering_mode = pytest.mark.parametrize("name", REMEMBERING)


@devices
@pytest.mark.parametrize("bad", [math.inf, math.nan])
@every_remembering_mode
def test_a_step_that_is_not_finite_does_not_poison_the_next(
    name: str, bad: float, device: str
) -> None:
    mode = REMEMBERING[name]
    spoiled, clean = (named([noise(3, 4), noise(4)], device) for _ in range(2))
    states = [state_after_some_steps(mode, list(each.items())) for each in (spoiled, clean)]
    for parameter in spoiled.values():
        parameter.grad = torch.full_like(parameter, bad)
    mode(spoiled.items(), states[0])
    for parameter, other in zip(spoiled.values(), clean.values(), strict=True):
        parameter.grad = None if other.grad is None else other.grad.clone()
    mode(spoiled.items(), states[0])
    mode(clean.items(), states[1])
    assert flat(gradients(list(spoiled.values()))).isfinite().all()
    # A chain's first mode may make a step finite, a schedule counts the step, and the smoothness
    # is not that of two neighbouring steps any more.
    if name not in ("Chain", "Scheduled", "Smoothness"):
        assert_equal(*(gradients(list(each.values())) for each in (spoiled, clean)))


@devices
@every_remembering_mode
def test_a_restored_state_goes_on_as_if_nothing_had_happened(name: str, device: str) -> None:
    mode = REMEMBERING[name]
    made = named([noise(3, 4), noise(4)], device)
    state = state_after_some_steps(mode, list(made.items()))
    saved = io.BytesIO()
    torch.save(state.state_dict(), saved)
    saved.seek(0)
    restored = mode.init(list(made.items()))
    assert restored is not None
    restored.load_state_dict(torch.load(saved, weights_only=True))
    for step in range(4):
        values = [10.0 ** (step % 2) * noise(3, 4, seed=step), noise(4, seed=step)]
        pair = [named(values, device) for _ in range(2)]
        records = [
            mode(each.items(), own) for each, own in zip(pair, (state, restored), strict=True)
        ]
        assert_equal(*(gradients(list(each.values())) for each in pair))
        torch.testing.assert_close(records[0].threshold, records[1].threshold, equal_nan=True)


def test_a_finite_gradient_whose_square_overflows_is_clamped_all_the_same() -> None:
    (weight,) = parameters([torch.tensor([1e30, -3.0])])
    record = Value(2.0)([weight])
    assert weight.grad is not None
    assert weight.grad.tolist() == [2.0, -2.0]
    assert record.first_nonfinite is not None
    assert int(record.first_nonfinite) == -1


@pytest.mark.parametrize(
    "mode", [Norm(1.0, scope="layer"), Norm(1.0, overrides={"layer1.*": 0.1}), Unitwise(0.1)]
)
def test_the_order_of_parameters_and_their_scopes_is_of_no_account(mode: Mode) -> None:
    values = [noise(2, 3, seed=i) for i in range(6)]
    forward, backward = named(values), named(values)
    record, other = mode(forward.items()), mode(reversed(list(backward.items())))
    for name, parameter in forward.items():
        torch.testing.assert_close(parameter.grad, backward[name].grad)
    torch.testing.assert_close(record.norm_after, other.norm_after)


# ------------------------------------------------------------------ modes of optimizers


def optimizers(mode: OptimizerMode, values: Sequence[Tensor | None], device: str) -> Any:
    """Return two optimizers of the same parameters, one with the mode, and its handle."""
    plain, limited = (
        torch.optim.SGD(list(named(values, device).items()), lr=0.5, momentum=0.9) for _ in range(2)
    )
    return plain, limited, mode.attach(limited)


def vector(mode: OptimizerMode, optimizer: torch.optim.Optimizer) -> Tensor:
    """Return what the mode limits, after a first step from weights of 0, (P,)."""
    tensors = optimizer.param_groups[0]["params"]
    if isinstance(mode, Momentum):
        return flat([optimizer.state[p].get("momentum_buffer") for p in tensors])
    return flat([p.detach() for p in tensors if p.grad is not None])


@devices
@pytest.mark.parametrize("make", HARD.values(), ids=HARD.keys())
@every_optimizer_mode
def test_the_record_of_an_optimizers_mode_is_true(
    mode: OptimizerMode, make: Make, device: str
) -> None:
    values = [v for v in make() if v is not None]
    plain, limited, handle = optimizers(mode, values, device)
    plain.step()
    limited.step()
    before, after = vector(mode, plain), vector(mode, limited)
    half = any(v.dtype in HALF for v in values)
    assert_true(handle.record, before, after, p=2.0, rtol=2e-2 if half else 2e-5)
    assert_record_is_detached_scalars(handle.record)
    assert handle.record.norm_before.device.type == device


@devices
@every_optimizer_mode
def test_an_optimizers_mode_takes_sparse_and_missing_gradients(
    mode: OptimizerMode, device: str
) -> None:
    values = [noise(3, 4), None, noise(4)]
    limited = optimizers(mode, values, device)[1]
    sparse = optimizers(mode, values, device)[1]
    first = sparse.param_groups[0]["params"][0]
    first.grad = first.grad.to_sparse(1)
    for optimizer in (limited, sparse):
        optimizer.step()
    for a, b in zip(
        limited.param_groups[0]["params"], sparse.param_groups[0]["params"], strict=True
    ):
        torch.testing.assert_close(a.detach(), b.detach())


@devices
@every_optimizer_mode
def test_an_optimizers_mode_takes_a_step_without_any_gradient(
    mode: OptimizerMode, device: str
) -> None:
    _, limited, handle = optimizers(mode, [None, None], device)
    before = copy.deepcopy([p.detach() for p in limited.param_groups[0]["params"]])
    limited.step()
    assert handle.record.norm_after.isfinite()
    for p, old in zip(limited.param_groups[0]["params"], before, strict=True):
        assert torch.equal(p.detach(), old.clamp(-0.1, 0.1) if isinstance(mode, Weights) else old)


@devices
@pytest.mark.parametrize("bad", [math.inf, math.nan])
@every_optimizer_mode
def test_an_optimizers_mode_is_defined_for_inf_and_nan(
    mode: OptimizerMode, bad: float, device: str
) -> None:
    values: list[Tensor | None] = [torch.tensor([bad, 1.0]), torch.ones(3)]
    _, limited, handle = optimizers(mode, values, device)
    limited.step()
    first, second = [p.detach().cpu() for p in limited.param_groups[0]["params"]]
    if isinstance(mode, Weights):
        expected = torch.tensor([-0.1 if math.isinf(bad) else bad, -0.1])
        torch.testing.assert_close(first, expected, equal_nan=True)
        torch.testing.assert_close(second, torch.full((3,), -0.1))
    elif isinstance(mode, Update):
        rest = 0.0 if math.isinf(bad) else math.nan
        torch.testing.assert_close(first, torch.tensor([math.nan, rest]), equal_nan=True)
        torch.testing.assert_close(second, torch.full((3,), rest), equal_nan=True)
    else:
        rest = 0.0 if math.isinf(bad) else math.nan
        kept = [limited.state[p]["momentum_buffer"] for p in limited.param_groups[0]["params"]]
        torch.testing.assert_close(kept[0].cpu(), torch.tensor([math.nan, rest]), equal_nan=True)
        torch.testing.assert_close(kept[1].cpu(), torch.full((3,), rest), equal_nan=True)
    assert not handle.record.norm_before.isfinite()
