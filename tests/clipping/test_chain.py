import copy
import math
import pickle
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fairclip.clipping import Chain, ClipRecord, Mode, Norm, Value
from fairclip.clipping._mode import Parameters
from tests.clipping._inputs import BANK, parameters
from tests.clipping._properties import (
    assert_equal,
    assert_record_is_detached_scalars,
    gradients,
)


@dataclass
class _Calls:
    n: int = 0

    def state_dict(self) -> dict[str, Any]:
        return {"n": self.n}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        self.n = state["n"]


@dataclass(frozen=True)
class _Counting(Mode):
    """Counts its calls, as the simplest mode that needs a state."""

    inner: Norm = field(default_factory=lambda: Norm(1.0))

    def init(self, parameters: Parameters) -> _Calls:
        assert list(parameters)
        return _Calls()

    def __call__(self, parameters: Parameters, state: Any = None) -> ClipRecord:
        if state is None:
            raise ValueError("no state")
        state.n += 1
        return self.inner(parameters)


@pytest.mark.parametrize("name", BANK)
def test_a_chain_is_its_modes_in_order(name: str) -> None:
    chained, by_hand = parameters(BANK[name]()), parameters(BANK[name]())
    modes = (Value(0.5), Norm(0.7, scope="tensor"), Norm(0.3, math.inf))
    record = Chain(*modes)(chained)
    stages = [mode(by_hand) for mode in modes]
    assert_equal(gradients(chained), gradients(by_hand))
    assert_record_is_detached_scalars(record)
    assert [stage.name for stage in record.stages] == ["Value", "Norm", "Norm"]
    assert torch.equal(record.norm_before, stages[0].norm_before)
    assert torch.equal(record.norm_after, stages[-1].norm_after)
    assert float(record.share_clipped) == max(float(s.share_clipped) for s in stages)
    assert math.isnan(record.threshold)


@dataclass(frozen=True)
class _Untold(Mode):
    """Reports as little as a mode may."""

    def __call__(self, parameters: Parameters, state: Any = None) -> ClipRecord:
        record = Value(math.inf)(parameters, state)
        return replace(record, first_nonfinite=None, parameters=())


def test_the_first_mode_that_looks_for_it_says_which_gradient_is_not_finite() -> None:
    values: list[Tensor | None] = [torch.ones(2), None, torch.tensor([math.inf])]
    named = list(zip("abc", parameters(values), strict=True))
    for chain in (Chain(_Untold(), Norm(1.0)), Chain(_Untold(), Value(1.0), Norm(1.0))):
        named[2][1].grad = torch.tensor([math.inf])
        record = chain(named)
        assert record.parameters == ("a", "c")
        assert int(record.first_nonfinite) == 1  # type: ignore[arg-type]
    assert Chain(_Untold())(named).first_nonfinite is None


def test_the_order_matters() -> None:
    values: list[Tensor | None] = [torch.tensor([3.0, 4.0])]
    first, second = parameters(values), parameters(values)
    Chain(Value(1.0), Norm(1.0))(first)
    Chain(Norm(1.0), Value(1.0))(second)
    torch.testing.assert_close(first[0].grad, torch.tensor([0.5, 0.5]).sqrt())
    torch.testing.assert_close(second[0].grad, torch.tensor([0.6, 0.8]))


def test_a_generator_of_parameters_reaches_every_mode() -> None:
    model = nn.Linear(3, 2)
    model(torch.ones(4, 3)).sum().backward()
    record = Chain(Value(0.5), Norm(0.1, scope="layer"))(model.named_parameters())
    assert float(record.norm_after) == pytest.approx(0.1, rel=1e-4)


def test_stateless_chains_need_no_state() -> None:
    assert Chain(Value(1.0), Norm(1.0)).init([torch.zeros(1)]) is None


def test_each_mode_gets_its_own_state_and_the_whole_is_saved_and_loaded() -> None:
    chain = Chain(Value(1.0), _Counting(), Chain(_Counting()))
    clipped = parameters([torch.ones(2)])
    state = chain.init(iter(clipped))
    assert state is not None
    chain(clipped, state)
    chain(clipped, state=state)
    assert state.state_dict() == {"states": [None, {"n": 2}, {"states": [{"n": 2}]}]}
    other = chain.init(clipped)
    assert other is not None
    other.load_state_dict(copy.deepcopy(state.state_dict()))
    assert other.state_dict() == state.state_dict()


def test_a_mode_that_needs_a_state_says_so_inside_a_chain() -> None:
    with pytest.raises(ValueError, match="no state"):
        Chain(_Counting())(parameters([torch.ones(2)]))


def test_a_chain_survives_pickling_and_copying() -> None:
    chain = Chain(Value(1.0), Norm(1.0, 1.0))
    assert pickle.loads(pickle.dumps(chain)) == chain == copy.deepcopy(chain)
    assert chain.modes == (Value(1.0), Norm(1.0, 1.0))


def test_an_empty_chain_is_rejected() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Chain()


def test_things_that_are_no_modes_are_rejected() -> None:
    with pytest.raises(TypeError, match="takes clipping modes"):
        Chain(Norm)  # type: ignore[arg-type]
