import math
import pickle
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from fairclip.clipping import Norm
from tests.clipping._inputs import BANK, EXACT, layers, parameters
from tests.clipping._properties import (
    assert_equal,
    assert_norm_never_grows,
    assert_record_is_detached_scalars,
    assert_record_is_true,
    assert_twice_is_once,
    gradients,
    norm_of,
)

NORM_TYPES = (1.0, 2.0, 3.0, math.inf)
bank = pytest.mark.parametrize("name", BANK)
norm_types = pytest.mark.parametrize("norm_type", NORM_TYPES)
scopes = pytest.mark.parametrize("scope", ["global", "tensor"])


# torch has no largest component of an empty tensor, so "no elements" is left out here.
@pytest.mark.parametrize("name", [name for name in EXACT if name != "no elements"])
@norm_types
@pytest.mark.parametrize("max_norm", [1e-7, 0.1, 1.0, 1e9])
def test_equals_torch_bit_for_bit(name: str, norm_type: float, max_norm: float) -> None:
    ours, theirs = parameters(BANK[name]()), parameters(BANK[name]())
    record = Norm(max_norm, norm_type)(ours)
    total = clip_grad_norm_(theirs, max_norm, norm_type)
    assert_equal(gradients(ours), gradients(theirs))
    assert torch.equal(record.norm_before, total)


@pytest.mark.parametrize("name", [name for name in EXACT if name != "no elements"])
@norm_types
def test_scope_tensor_equals_torch_on_each_tensor(name: str, norm_type: float) -> None:
    ours, theirs = parameters(BANK[name]()), parameters(BANK[name]())
    Norm(0.5, norm_type, scope="tensor")(ours)
    for parameter in theirs:
        clip_grad_norm_([parameter], 0.5, norm_type)
    assert_equal(gradients(ours), gradients(theirs))


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_nonfinite_gradients_become_what_torch_makes_of_them(bad: float) -> None:
    values: list[Tensor | None] = [torch.tensor([1.0, bad]), torch.ones(2)]
    ours, theirs = parameters(values), parameters(values)
    record = Norm(1.0)(ours)
    total = clip_grad_norm_(theirs, 1.0)
    for a, b in zip(gradients(ours), gradients(theirs), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(record.norm_before, total, rtol=0, atol=0, equal_nan=True)
    assert math.isnan(record.norm_after)


@bank
@norm_types
@scopes
@pytest.mark.parametrize("max_norm", [1e-3, 1.0, 1e3])
def test_the_record_is_true(name: str, norm_type: float, scope: Any, max_norm: float) -> None:
    rtol = 2e-2 if "float16" in name else 1e-5  # the rounding of the half-precision gradients
    mode = Norm(max_norm, norm_type, scope=scope)
    record = assert_record_is_true(mode, parameters(BANK[name]()), norm_type, rtol)
    assert_record_is_detached_scalars(record)
    assert record.name == "Norm"
    assert float(record.threshold) == pytest.approx(max_norm)


@bank
@scopes
def test_no_component_grows_and_the_limit_holds(name: str, scope: Any) -> None:
    mode = Norm(0.5, scope=scope)
    clipped = parameters(BANK[name]())
    assert_norm_never_grows(mode, clipped)
    rows = [clipped] if scope == "global" else [[p] for p in clipped]
    for members in rows:
        assert norm_of(members) <= 0.5 * (1 + (1e-2 if "float16" in name else 1e-6))


@pytest.mark.parametrize("name", EXACT)
@scopes
def test_clipping_twice_is_clipping_once(name: str, scope: Any) -> None:
    assert_twice_is_once(Norm(0.5, scope=scope), parameters(BANK[name]()), rtol=1e-5)


@settings(derandomize=True, deadline=None, max_examples=50)
@given(
    values=st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=6),
    max_norm=st.floats(1e-3, 1e3),
    norm_type=st.sampled_from(NORM_TYPES),
)
def test_the_direction_stays(values: list[float], max_norm: float, norm_type: float) -> None:
    (parameter,) = parameters([torch.tensor(values, dtype=torch.float64)])
    record = Norm(max_norm, norm_type)([parameter])
    factor = min(1.0, max_norm / (float(record.norm_before) + 1e-6))
    assert parameter.grad is not None
    torch.testing.assert_close(
        parameter.grad, torch.tensor(values, dtype=torch.float64) * factor, rtol=1e-9, atol=0
    )
    assert float(record.share_clipped) == (factor < 1)


def test_a_value_worked_by_hand() -> None:
    weight, bias = parameters([torch.tensor([1.0, -2.0]), torch.tensor([2.0])])
    record = Norm(1.5)([weight, bias])  # sqrt(1 + 4 + 4) = 3, so everything is halved
    torch.testing.assert_close(weight.grad, torch.tensor([0.5, -1.0]))
    torch.testing.assert_close(bias.grad, torch.tensor([1.0]))
    assert float(record.norm_before) == 3
    assert float(record.norm_after) == pytest.approx(1.5)
    assert float(record.share_clipped) == 1


def test_layer_scope_worked_by_hand() -> None:
    named = layers()  # norms 5, 50 and 500
    record = Norm(50.5, scope="layer")(named.items())
    torch.testing.assert_close(named["embed.weight"].grad, torch.tensor([3.0]))
    torch.testing.assert_close(named["block.0.bias"].grad, torch.tensor([40.0]))
    torch.testing.assert_close(named["head.weight"].grad, torch.tensor([30.3]))
    torch.testing.assert_close(named["head.bias"].grad, torch.tensor([40.4]))
    assert float(record.share_clipped) == pytest.approx(1 / 3)
    assert float(record.norm_before) == pytest.approx(math.sqrt(5**2 + 50**2 + 500**2))
    assert float(record.norm_after) == pytest.approx(math.sqrt(5**2 + 50**2 + 50.5**2))
    assert float(record.threshold) == 50.5


def test_overrides_take_parameters_out_of_the_global_norm() -> None:
    named = layers()
    record = Norm(1e6, overrides={"embed.*": 0.5, "head.*": math.inf})(named.items())
    torch.testing.assert_close(named["embed.weight"].grad, torch.tensor([0.3]))
    torch.testing.assert_close(named["embed.bias"].grad, torch.tensor([0.4]))
    torch.testing.assert_close(named["block.0.weight"].grad, torch.tensor([30.0]))
    torch.testing.assert_close(named["head.weight"].grad, torch.tensor([300.0]))
    assert math.isnan(record.threshold)
    assert float(record.share_clipped) == pytest.approx(1 / 3)


def test_overrides_split_a_layer_and_the_first_pattern_counts() -> None:
    named = layers()
    mode = Norm(1e6, scope="layer", overrides={"head.bias": 4.0, "*.bias": 2.0})
    mode(named.items())
    got = {name: p.grad.item() for name, p in named.items() if p.grad is not None}
    assert got == pytest.approx(
        {
            "embed.weight": 3.0,
            "embed.bias": 2.0,
            "block.0.weight": 30.0,
            "block.0.bias": 2.0,
            "head.weight": 300.0,
            "head.bias": 4.0,
        }
    )


def test_a_pattern_may_fit_a_parameter_without_a_gradient() -> None:
    named = layers()
    named["embed.weight"].grad = named["embed.bias"].grad = None
    Norm(1e6, overrides={"embed.*": 0.5})(named.items())
    assert named["embed.weight"].grad is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_measured_in_float32(dtype: torch.dtype) -> None:
    values: list[Tensor | None] = [torch.full((10_000,), 1000.0, dtype=dtype)]
    (parameter,) = parameters(values)
    record = Norm(100.0)([parameter])  # the norm, 1e5, is beyond float16
    assert record.norm_before.dtype == torch.float32
    assert float(record.norm_before) == pytest.approx(1e5, rel=1e-4)
    assert parameter.grad is not None
    assert parameter.grad.dtype == dtype
    torch.testing.assert_close(parameter.grad, torch.ones(10_000, dtype=dtype))


def test_sparse_gradients_are_coalesced_first() -> None:
    embedding = nn.Embedding(5, 2, sparse=True)
    dense = nn.Embedding(5, 2, _weight=embedding.weight.detach().clone())
    rows = torch.tensor([1, 1, 1, 4])  # one row three times: 3 * 1, not sqrt(3) * 1
    for module in (embedding, dense):
        module(rows).sum().backward()
    ours = Norm(1.0)(embedding.parameters())
    theirs = clip_grad_norm_(dense.parameters(), 1.0)
    torch.testing.assert_close(ours.norm_before, theirs)
    assert embedding.weight.grad is not None
    assert embedding.weight.grad.is_sparse
    torch.testing.assert_close(embedding.weight.grad.to_dense(), dense.weight.grad)


def test_a_tied_weight_is_clipped_once() -> None:
    tied, single = parameters([torch.tensor([3.0, 4.0]), torch.tensor([3.0, 4.0])])
    record = Norm(1.0)([tied, tied])
    clip_grad_norm_([single], 1.0)
    assert_equal([tied.grad], [single.grad])
    assert float(record.norm_before) == 5


def test_every_form_of_parameters_is_taken() -> None:
    model = nn.Linear(3, 2)
    model(torch.ones(4, 3)).sum().backward()
    expected = Norm(1e9)(list(model.parameters())).norm_before
    for form in (
        model.parameters(),
        model.named_parameters(),
        dict(model.named_parameters()).items(),
    ):
        assert torch.equal(Norm(1e9)(form).norm_before, expected)
    alone = Norm(1e9)(model.weight).norm_before
    assert float(alone) == pytest.approx(norm_of([model.weight]))


@norm_types
def test_a_gradient_without_elements_takes_no_part(norm_type: float) -> None:
    empty, full = parameters([torch.zeros(0), torch.tensor([2.0])])
    assert float(Norm(1.0, norm_type)([empty, full]).norm_before) == 2
    torch.testing.assert_close(full.grad, torch.tensor([1.0]))


@pytest.mark.parametrize("scope", ["global", "layer", "tensor"])
def test_nothing_to_clip_is_a_record_of_zeros(scope: Any) -> None:
    for empty in ([], [("a.weight", nn.Parameter(torch.ones(2)))]):
        record = Norm(1.0, scope=scope)(empty)
        assert float(record.norm_before) == float(record.norm_after) == 0
        assert float(record.share_clipped) == 0


def test_an_infinite_threshold_leaves_even_nonfinite_gradients_alone() -> None:
    values: list[Tensor | None] = [torch.tensor([1.0, math.inf])]
    clipped = parameters(values)
    record = Norm(math.inf)(clipped)
    assert_equal(gradients(clipped), values)
    assert float(record.share_clipped) == 0


def test_a_gradient_with_a_graph_leaves_none_in_the_record() -> None:
    weight = nn.Parameter(torch.tensor([3.0]))
    (weight.grad,) = torch.autograd.grad((weight**3).sum(), weight, create_graph=True)
    assert_record_is_detached_scalars(Norm(1.0)([weight]))
    weight.grad = None  # breaks the cycle of the parameter and its graph


def test_error_if_nonfinite_raises_and_changes_nothing() -> None:
    values: list[Tensor | None] = [torch.tensor([5.0]), torch.tensor([math.nan])]
    clipped = parameters(values)
    with pytest.raises(RuntimeError, match="non-finite"):
        Norm(1.0, scope="tensor", error_if_nonfinite=True)(clipped)
    assert float(clipped[0].grad) == 5  # type: ignore[arg-type]


def test_it_keeps_no_state_and_survives_pickling() -> None:
    mode = Norm(1.0, overrides={"embed.*": 0.5})
    mode.init(layers().items())  # which returns nothing
    assert pickle.loads(pickle.dumps(mode)) == mode


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan])
def test_thresholds_and_orders_must_be_positive(bad: float) -> None:
    with pytest.raises(ValueError, match=r"`max_norm` must be positive, got"):
        Norm(bad)
    with pytest.raises(ValueError, match=r"`norm_type` must be positive, got"):
        Norm(1.0, norm_type=bad)
    with pytest.raises(ValueError, match=r"`overrides\['a'\]` must be positive, got"):
        Norm(1.0, overrides={"a": bad})


def test_an_unknown_scope_is_rejected() -> None:
    with pytest.raises(ValueError, match="`scope` must be"):
        Norm(1.0, scope="row")  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", [Norm(1.0, scope="layer"), Norm(1.0, overrides={"a": 1.0})])
def test_names_are_needed_where_they_are_used(mode: Norm) -> None:
    with pytest.raises(ValueError, match="named_parameters"):
        mode(parameters([torch.ones(1)]))


def test_a_pattern_that_fits_nothing_is_rejected_before_anything_changes() -> None:
    named = layers()
    with pytest.raises(ValueError, match=r"'embd\.\*' in `overrides` applies to no"):
        Norm(0.1, overrides={"embd.*": 0.5})(named.items())
    assert float(named["embed.weight"].grad) == 3  # type: ignore[arg-type]


def test_things_that_are_no_parameters_are_rejected() -> None:
    with pytest.raises(TypeError, match="got str"):
        Norm(1.0)({"weight": torch.ones(1)})  # type: ignore[dict-item]
