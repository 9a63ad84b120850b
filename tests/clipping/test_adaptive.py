"""What holds for every mode whose threshold follows the norms of past steps."""

import copy
import io
import math
import pickle
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from fairclip.clipping import Chain, ClipRecord, MeanStd, Norm, Percentile, Value, ZScore
from fairclip.clipping._adaptive import Adaptive, AdaptiveState
from tests._no_waiting import NoWaiting
from tests.clipping._inputs import BANK, layers, parameters
from tests.clipping._properties import (
    assert_equal,
    assert_record_is_detached_scalars,
    gradients,
    norm_of,
)
from tests.clipping._sequences import lognormal, parameter, run, with_spikes

MODES: tuple[Adaptive, ...] = (
    Percentile(50.0, window=8),
    MeanStd(1.0, 0.8, warmup=3),
    ZScore(1.0, 0.8, warmup=3),
)
NORMS = with_spikes(lognormal(20), every=7)
modes = pytest.mark.parametrize("mode", MODES, ids=lambda mode: type(mode).__name__)
bank = pytest.mark.parametrize("name", BANK)
scopes = pytest.mark.parametrize("scope", ["global", "tensor"])


def assert_same_memory(a: AdaptiveState, b: AdaptiveState) -> None:
    """The two states remember the same, bit for bit."""
    assert a.scopes == b.scopes
    assert a.memory.keys() == b.memory.keys()
    for name, kept in a.memory.items():
        assert torch.equal(kept, b.memory[name])


def scaled_layers(size: float) -> dict[str, Tensor]:
    """Return `layers()` with gradients times ``size``."""
    named = layers()
    for tensor in named.values():
        assert tensor.grad is not None
        tensor.grad *= size
    return named


def after(mode: Adaptive, n_steps: int) -> AdaptiveState:
    """Return the state after some steps with `scaled_layers`."""
    state = mode.init(layers().items())
    for norm in NORMS[:n_steps]:
        mode(scaled_layers(norm).items(), state)
    return state


@modes
@bank
@scopes
def test_the_record_is_true_and_no_component_grows(mode: Adaptive, name: str, scope: Any) -> None:
    rtol = 2e-2 if "float16" in name else 1e-5
    mode = replace(mode, scope=scope)
    state = mode.init(parameters(BANK[name]()))
    for size in (1.0, 0.5, 0.7, 0.6, 3.0):
        clipped = parameters([g if g is None else size * g for g in BANK[name]()])
        old, before = gradients(clipped), norm_of(clipped)
        record = mode(clipped, state)
        assert_record_is_detached_scalars(record)
        assert record.name == type(mode).__name__
        torch.testing.assert_close(float(record.norm_before), before, rtol=rtol, atol=1e-12)
        new = norm_of(clipped)
        torch.testing.assert_close(float(record.norm_after), new, rtol=rtol, atol=1e-12)
        for a, b in zip(gradients(clipped), old, strict=True):
            assert (a is None) == (b is None)
            assert a is None or b is None or bool((a.abs() <= b.abs()).all())
    assert all(kept.dtype == torch.float64 for kept in state.memory.values())


@modes
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1e-6, 1.0])
def test_it_scales_down_to_the_threshold_and_leaves_what_is_below_it(
    mode: Adaptive, dtype: torch.dtype, size: float
) -> None:
    norms = [size * norm for norm in NORMS]
    records, ours = run(mode, norms, dtype)
    n_clipped = 0
    for norm, record, gradient in zip(norms, records, ours, strict=True):
        given = parameter(norm, dtype).grad
        assert given is not None
        if record.norm_before <= record.threshold:
            assert_equal([gradient], [given])
            assert not record.share_clipped
            continue
        assert_equal([gradient], [given * (record.threshold / record.norm_before)])
        assert float(gradient.norm()) == pytest.approx(float(record.threshold), rel=1e-6)
        n_clipped += int(record.share_clipped)
    assert 0 < n_clipped < len(NORMS)


@pytest.mark.parametrize(
    "mode", [*MODES, *(Percentile(q) for q in (0.0, 10.0, 90.0, 100.0))], ids=repr
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("norm", [1e-15, 1e-6, 1e-5, 1.0, 2.5, 1e6])
def test_norms_that_stay_the_same_are_never_clipped(
    mode: Adaptive, dtype: torch.dtype, norm: float
) -> None:
    for record, gradient in zip(*run(mode, [norm] * 40, dtype), strict=True):
        assert_equal([gradient], [parameter(norm, dtype).grad])
        assert float(record.share_clipped) == 0


@modes
def test_scopes_are_as_many_modes_of_their_own(mode: Adaptive) -> None:
    together = replace(mode, scope="layer")
    state = together.init(layers().items())
    alone: dict[str, AdaptiveState] = {}
    for step, norm in enumerate(NORMS):
        named, single = scaled_layers(norm), scaled_layers(norm)
        if step % 3 == 1:  # a layer takes no part in some steps, and the first of another
            named["block.0.weight"].grad = named["block.0.bias"].grad = None
            single["block.0.weight"].grad = single["block.0.bias"].grad = None
            named["embed.weight"].grad = single["embed.weight"].grad = None
        record = together(named.items(), state)
        limits = []
        for layer in ("embed", "block.0", "head"):
            members = [p for name, p in single.items() if name.rpartition(".")[0] == layer]
            own = alone.setdefault(layer, mode.init(members))
            if any(p.grad is not None for p in members):
                limits.append(mode(members, own).threshold)
        assert_equal(gradients(list(named.values())), gradients(list(single.values())))
        assert record.scopes is not None
        assert torch.equal(record.scopes.threshold, torch.stack(limits))
    for place, layer in enumerate(("embed", "block.0", "head")):
        for name, kept in state.memory.items():
            assert torch.equal(kept[..., place], alone[layer].memory[name][..., 0])


@modes
def test_a_tensor_without_a_name_is_the_same_scope_in_every_step(mode: Adaptive) -> None:
    mode = replace(mode, scope="tensor")
    first, second = parameters([torch.tensor([1.0]), torch.tensor([100.0])])
    state = mode.init(iter([first, second]))
    mode([first, second], state)
    second.grad = torch.tensor([50.0])
    first.grad, kept = None, {name: kept.clone() for name, kept in state.memory.items()}
    mode([first, second], state)
    for name, old in kept.items():
        assert torch.equal(state.memory[name][..., 0], old[..., 0])
        assert not torch.equal(state.memory[name][..., 1], old[..., 1])


@modes
def test_scopes_are_those_of_all_parameters(mode: Adaptive) -> None:
    named = layers()
    for tensor in named.values():
        tensor.grad = None
    assert mode.init(named.values()).scopes == ["all"]
    assert replace(mode, scope="layer").init(named.items()).scopes == ["embed", "block.0", "head"]
    assert replace(mode, scope="tensor").init(named.items()).scopes == list(named)
    assert replace(mode, scope="tensor").init(named.values()).scopes == list("012345")
    assert replace(mode, scope="tensor").init(named["head.bias"]).scopes == ["0"]


@modes
@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_a_norm_that_is_not_finite_is_not_remembered(mode: Adaptive, bad: float) -> None:
    state = mode.init(parameter(1.0))
    for norm in NORMS:
        mode(parameter(norm), state)
    kept = copy.deepcopy(state)
    ours, theirs = (parameters([torch.tensor([1.0, bad]), torch.ones(2)]) for _ in range(2))
    record = mode(ours, state)
    assert_same_memory(state, kept)
    clip_grad_norm_(theirs, float(record.threshold))
    for a, b in zip(gradients(ours), gradients(theirs), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
    assert float(record.first_nonfinite) == 0  # type: ignore[arg-type]


@modes
def test_a_norm_that_is_not_finite_is_left_alone_while_there_is_no_threshold(
    mode: Adaptive,
) -> None:
    values: list[Tensor | None] = [torch.tensor([1.0, math.inf])]
    clipped, state = parameters(values), mode.init(parameters(values))
    assert float(mode(clipped, state).threshold) == math.inf
    assert_equal(gradients(clipped), values)


@modes
@pytest.mark.parametrize("scope", ["global", "layer", "tensor"])
def test_without_a_gradient_nothing_happens(mode: Adaptive, scope: Any) -> None:
    mode = replace(mode, scope=scope)
    state = after(mode, 5)
    kept = copy.deepcopy(state)
    named = layers()
    for tensor in named.values():
        tensor.grad = None
    for nothing in (list(named.items()), []):
        record = mode(nothing, state)
        assert float(record.norm_before) == float(record.norm_after) == 0
        assert float(record.share_clipped) == 0
        assert math.isnan(record.threshold)
    assert_same_memory(state, kept)


@modes
def test_the_bounds_hold_the_threshold_and_nothing_else(mode: Adaptive) -> None:
    free = [float(record.threshold) for record in run(mode, NORMS)[0]]
    lower, upper = sorted(free)[5], sorted(free)[-5]
    bounded = run(replace(mode, lower=lower), NORMS)[0]
    assert [float(record.threshold) for record in bounded] == [max(c, lower) for c in free]
    bounded = run(replace(mode, upper=upper), NORMS)[0]
    assert [float(record.threshold) for record in bounded] == [min(c, upper) for c in free]


@modes
def test_between_equal_bounds_it_is_norm(mode: Adaptive) -> None:
    _, ours = run(replace(mode, lower=1.0, upper=1.0), NORMS)
    for norm, gradient in zip(NORMS, ours, strict=True):
        theirs = parameter(norm)
        Norm(1.0)([theirs])  # which adds 1e-6 to each norm, as torch does
        torch.testing.assert_close(gradient, theirs.grad, rtol=1e-12 + 1e-6 / norm, atol=0)


@pytest.mark.parametrize("mode", [MODES[0], MODES[2]], ids=["Percentile", "ZScore"])
def test_the_lower_bound_keeps_a_shrinking_majority_from_starving_the_rest(mode: Adaptive) -> None:
    # Nine batches in ten are fitted ever better, the tenth is not.
    norms = [1.0 if i % 10 == 9 else 0.9**i for i in range(100)]
    assert float(run(mode, norms)[0][-1].norm_after) < 0.1
    assert float(run(replace(mode, lower=0.5), norms)[0][-1].norm_after) > 0.49


@modes
@pytest.mark.parametrize("scope", ["global", "layer", "tensor"])
@pytest.mark.parametrize("n_steps", [0, 2, 10])
def test_resuming_is_bit_exact(mode: Adaptive, scope: Any, n_steps: int) -> None:
    mode = replace(mode, scope=scope)
    state, resumed = after(mode, n_steps), mode.init(layers().items())
    file = io.BytesIO()
    torch.save(state.state_dict(), file)
    file.seek(0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for norm in NORMS:
        one, other = scaled_layers(norm), scaled_layers(norm)
        a, b = mode(one.items(), state), mode(other.items(), resumed)
        assert_equal(gradients(list(one.values())), gradients(list(other.values())))
        torch.testing.assert_close(a.threshold, b.threshold, rtol=0, atol=0, equal_nan=True)
    assert_same_memory(state, resumed)


@modes
def test_what_was_saved_does_not_change_later(mode: Adaptive) -> None:
    state = after(mode, 5)
    saved, resumed = state.state_dict(), mode.init(layers().items())
    kept = copy.deepcopy(state)
    resumed.load_state_dict(saved)
    for norm in NORMS:
        mode(scaled_layers(norm).items(), state)
        mode(scaled_layers(norm).items(), resumed)
    for name, tensor in kept.memory.items():
        assert torch.equal(saved["memory"][name], tensor)


@modes
def test_what_is_remembered_does_not_grow(mode: Adaptive) -> None:
    shapes = [
        {name: kept.shape for name, kept in after(mode, n).memory.items()} for n in (0, 1, 20)
    ]
    assert shapes[0] == shapes[1] == shapes[2]


@modes
def test_a_call_without_a_state_or_with_another_modes_is_rejected(mode: Adaptive) -> None:
    weight = parameter(1.0)
    other = MeanStd() if isinstance(mode, ZScore) else ZScore()
    for wrong in (None, other.init([weight]), Chain(mode).init([weight])):
        with pytest.raises(ValueError, match=r"`init\(parameters\)` returned, or attach it"):
            mode([weight], wrong)
    assert norm_of([weight]) == pytest.approx(1.0)


@modes
@pytest.mark.parametrize("scope", ["layer", "tensor"])
def test_a_scope_that_appears_later_starts_anew_and_the_others_go_on(
    mode: Adaptive, scope: Any
) -> None:
    mode = replace(mode, scope=scope)
    late = [name for name in layers() if name.startswith("embed")]  # first in order
    state, new = mode.init(list(layers().items())[2:]), mode.init(list(layers().items())[:2])
    others = mode.init(list(layers().items())[2:])
    for step, norm in enumerate(NORMS):
        ours, apart = scaled_layers(norm), scaled_layers(norm)
        if step < 8:
            for name in late:
                ours.pop(name)
        record = mode(ours.items(), state)
        limits: list[Any] = []
        for names, own in ((late, new), ([n for n in apart if n not in late], others)):
            if names[0] in ours:
                taken = mode([(name, apart[name]) for name in names], own)
                limits += [taken.threshold] if taken.scopes is None else taken.scopes.threshold
        assert record.scopes is not None
        assert record.scopes.threshold.tolist() == [float(limit) for limit in limits]
        assert_equal(gradients(list(ours.values())), gradients([apart[name] for name in ours]))
    assert state.scopes == others.scopes + new.scopes
    assert all(kept.shape[-1] == len(state.scopes) for kept in state.memory.values())


@modes
@pytest.mark.parametrize("scope", ["global", "layer", "tensor"])
def test_it_goes_on_when_layers_are_thawed_and_is_resumed_from_then(
    mode: Adaptive, scope: Any
) -> None:
    mode = replace(mode, scope=scope)

    def step(optimizer: torch.optim.Optimizer, handle: Any, norm: float) -> list[float]:
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad = torch.full_like(p, norm * p.numel())
        optimizer.step()
        assert handle.record is not None
        by_scope = handle.record.scopes
        return [float(handle.record.threshold)] if by_scope is None else by_scope.threshold.tolist()

    def start() -> tuple[torch.optim.Optimizer, dict[str, Any], Any]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
        named = dict(model.named_parameters())
        head = [(name, p) for name, p in named.items() if name.startswith("1")]
        body = [(name, p) for name, p in named.items() if name.startswith("0")]
        optimizer = torch.optim.SGD(head, lr=0.1)
        return optimizer, {"params": body}, mode.attach(optimizer)

    optimizer, body, handle = start()
    for norm in NORMS[:6]:
        step(optimizer, handle, norm)
    early = handle.state_dict()
    optimizer.add_param_group(body)
    for norm in NORMS[6:12]:
        thresholds = step(optimizer, handle, norm)
    assert len(thresholds) == {"global": 1, "layer": 2, "tensor": 4}[scope]
    saved = handle.state_dict()
    expected = [step(optimizer, handle, norm) for norm in NORMS[12:]]

    resumed, body, again = start()
    again.load_state_dict(saved)
    resumed.add_param_group(body)
    assert [step(resumed, again, norm) for norm in NORMS[12:]] == expected

    late, body, handle = start()
    handle.remove()
    late.add_param_group(body)
    whole = mode.attach(late)
    whole.load_state_dict(saved)
    if scope != "global":
        with pytest.raises(ValueError, match="and load before new ones are added"):
            whole.load_state_dict(early)
    assert [step(late, whole, norm) for norm in NORMS[12:]] == expected


@modes
def test_a_saved_state_of_another_mode_or_other_scopes_is_rejected(mode: Adaptive) -> None:
    state = mode.init(layers().items())
    other = MeanStd() if isinstance(mode, ZScore) else ZScore()
    with pytest.raises(ValueError, match=f"is of {type(other).__name__}, this one of"):
        state.load_state_dict(other.init(layers().items()).state_dict())
    with pytest.raises(ValueError, match=r"is of \['embed', .*, this one of \['all'\]"):
        state.load_state_dict(replace(mode, scope="layer").init(layers().items()).state_dict())
    with pytest.raises(ValueError, match="is of None"):
        state.load_state_dict({})


@modes
def test_layers_need_names(mode: Adaptive) -> None:
    with pytest.raises(ValueError, match="named_parameters"):
        replace(mode, scope="layer").init([torch.zeros(1)])


@modes
def test_two_tensors_of_one_name_have_no_scope_each(mode: Adaptive) -> None:
    twice = [("weight", parameter(1.0)), ("weight", parameter(2.0))]
    with pytest.raises(ValueError, match="needs each name once"):
        replace(mode, scope="tensor").init(twice)


def trained(mode: Adaptive | Chain, n_steps: int, resume_at: int = -1) -> tuple[Tensor, Any]:
    """Return the weight and the last record of a short training with the mode attached."""
    weight = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([("a.weight", weight)], lr=0.1)
    handle = mode.attach(optimizer)
    for step in range(n_steps):
        if step == resume_at:
            saved = handle.state_dict()
            handle.remove()
            handle = mode.attach(optimizer)
            handle.load_state_dict(saved)
        optimizer.zero_grad()
        (weight @ torch.tensor([3.0, -4.0]) * NORMS[step]).backward()
        optimizer.step()
    return weight.detach(), handle.record


@modes
@pytest.mark.parametrize("scope", ["global", "layer", "tensor"])
def test_attached_the_handle_keeps_the_state(mode: Adaptive, scope: Any) -> None:
    mode = replace(mode, scope=scope)
    weight, record = trained(mode, 15)
    by_hand = torch.ones(2)
    state = mode.init([("a.weight", by_hand)])
    for step in range(15):
        by_hand.grad = torch.tensor([3.0, -4.0]) * NORMS[step]
        expected = mode([("a.weight", by_hand)], state)
        by_hand -= 0.1 * by_hand.grad
    torch.testing.assert_close(weight, by_hand, rtol=1e-6, atol=0)
    torch.testing.assert_close(record.threshold, expected.threshold)
    assert torch.equal(weight, trained(mode, 15, resume_at=8)[0])


@modes
def test_in_a_chain_it_sees_what_the_mode_before_left(mode: Adaptive) -> None:
    chain = Chain(Value(1.0), mode)
    state, own = chain.init(parameter(1.0)), mode.init(parameter(1.0))
    for norm in NORMS:
        one, other = parameter(norm), parameter(norm)
        record = chain([one], state)
        Value(1.0)([other])
        assert torch.equal(mode([other], own).threshold, record.stages[1].threshold)
        assert_equal([one.grad], [other.grad])
    assert torch.equal(trained(chain, 15)[0], trained(chain, 15, resume_at=8)[0])


@modes
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_measured_in_float32(mode: Adaptive, dtype: torch.dtype) -> None:
    mode = replace(mode, lower=100.0, upper=100.0)
    clipped = parameters([torch.full((10_000,), 1000.0, dtype=dtype)])
    record = mode(clipped, mode.init(clipped))
    assert record.norm_before.dtype == record.threshold.dtype == torch.float32
    assert float(record.norm_before) == pytest.approx(1e5, rel=1e-4)  # beyond float16
    torch.testing.assert_close(clipped[0].grad, torch.ones(10_000, dtype=dtype))


@modes
def test_sparse_gradients_and_tied_weights(mode: Adaptive) -> None:
    sparse, dense = (nn.Embedding(5, 2, sparse=sparse) for sparse in (True, False))
    states = [mode.init(module.parameters()) for module in (sparse, dense)]
    for size in NORMS:
        for module in (sparse, dense):
            module.zero_grad()
            (size * module(torch.tensor([1, 1, 4])).sum()).backward()
        mode([sparse.weight, sparse.weight], states[0])
        mode([dense.weight], states[1])
        assert sparse.weight.grad is not None
        torch.testing.assert_close(sparse.weight.grad.to_dense(), dense.weight.grad)


@modes
@pytest.mark.parametrize("scope", ["global", "layer", "tensor"])
def test_no_call_waits_for_the_device(mode: Adaptive, scope: Any) -> None:
    mode = replace(mode, scope=scope, lower=0.5, upper=50.0)
    state = mode.init(layers().items())
    for step, norm in enumerate(NORMS):
        named = scaled_layers(norm)
        if step % 2:
            named["block.0.weight"].grad = named["block.0.bias"].grad = None
        with NoWaiting():
            mode(named.items(), state)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@modes
@pytest.mark.parametrize("scope", ["global", "layer", "tensor"])
def test_no_call_waits_for_a_gpu(mode: Adaptive, scope: Any) -> None:
    mode = replace(mode, scope=scope, lower=0.5, upper=50.0)
    state, twin = (mode.init(layers().items()) for _ in range(2))
    for step, norm in enumerate(NORMS):
        named = scaled_layers(norm)
        if step % 2:
            named["block.0.weight"].grad = named["block.0.bias"].grad = None
        moved = {name: p.detach().cuda() for name, p in named.items()}
        for name, tensor in moved.items():
            gradient = named[name].grad
            tensor.grad = None if gradient is None else gradient.cuda()
        if not step:
            mode(moved.items(), state)  # the state moves
            mode(named.items(), twin)
            continue
        torch.cuda.set_sync_debug_mode("error")
        try:
            record = mode(moved.items(), state)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        expected = mode(named.items(), twin)
        torch.testing.assert_close(
            record.threshold.cpu(), expected.threshold, rtol=1e-6, atol=0, equal_nan=True
        )


@modes
def test_mode_and_state_survive_pickling_and_copying(mode: Adaptive) -> None:
    mode = replace(mode, lower=0.1, scope="layer")
    assert pickle.loads(pickle.dumps(mode)) == mode == copy.deepcopy(mode)
    state = after(mode, 5)
    for twin in (pickle.loads(pickle.dumps(state)), copy.deepcopy(state)):
        assert_same_memory(state, twin)
        record: ClipRecord = mode(scaled_layers(2.0).items(), twin)
        assert record.scopes is not None


@modes
@pytest.mark.parametrize("bound", ["lower", "upper"])
@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan])
def test_bounds_must_be_positive(mode: Adaptive, bound: str, bad: float) -> None:
    with pytest.raises(ValueError, match=f"`{bound}` must be positive or None, got"):
        replace(mode, **{bound: bad})  # type: ignore[arg-type]


@modes
def test_bounds_must_be_in_order_and_scopes_known(mode: Adaptive) -> None:
    with pytest.raises(ValueError, match=r"`lower` must be at most `upper`, got 2\.0 > 1\.0"):
        replace(mode, lower=2.0, upper=1.0)
    with pytest.raises(ValueError, match="`scope` must be"):
        replace(mode, scope="row")  # type: ignore[arg-type]
