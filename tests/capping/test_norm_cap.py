"""Properties of the factors, and values worked by hand."""

import math
import warnings
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fairclip.capping import CapState, NormCap
from fairclip.exceptions import FairclipWarning
from tests.capping._inputs import CAPS, COUNTS, NORMS, Batch, batches, strata
from tests.capping._properties import (
    apply,
    assert_label_shares_kept,
    assert_like_norms,
    assert_literal_rule,
    assert_within_bounds,
)

seeds = st.integers(0, 2**32 - 1)
drawn = settings(derandomize=True, deadline=None, max_examples=50)


@pytest.fixture(autouse=True)
def _pooling_is_meant() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FairclipWarning)
        yield


def start(cap: NormCap, counts: list[int]) -> CapState:
    return cap.init(counts, strata(len(counts)))


def batch(norms: list[float], counts: list[int] | None = None) -> Batch:
    n = torch.tensor(counts or [8] * len(norms))
    return Batch(torch.tensor(norms, dtype=torch.float64), n)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("norms", NORMS)
@pytest.mark.parametrize("counts", COUNTS)
@pytest.mark.parametrize("name", CAPS)
def test_bank(name: str, counts: str, norms: str, dtype: torch.dtype) -> None:
    cap, rows = CAPS[name], COUNTS[counts]
    lengths = torch.tensor([NORMS[norms](k) for k in range(len(rows))], dtype=dtype)
    step = Batch(lengths, torch.full((len(rows),), 4))
    state = start(cap, rows)
    for _ in range(3):
        factors = apply(cap, step, state)
        assert_like_norms(factors, step)
        assert_within_bounds(factors, cap)
    if (norms == "all zero" and not cap.label_balance) or counts == "one group":
        assert (factors == 1).all()


@drawn
@given(
    seed=seeds,
    max_ratio=st.floats(0.01, 10),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_literal_rule(seed: int, max_ratio: float, dtype: torch.dtype) -> None:
    cap, rows = NormCap.per_step(max_ratio), [400, 90, 250, 31]
    state = cap.init(rows)
    for step in batches(4, 20, seed, dtype=dtype):
        factors = apply(cap, step, state)
        present = [k for k in range(4) if step.present[k]]
        if present:
            reference = min(present, key=rows.__getitem__)
            if step.norms[reference] > 0:
                assert_literal_rule(factors, step, max_ratio, reference)
            else:
                assert (factors == 1).all()


@drawn
@given(seed=seeds, name=st.sampled_from(sorted(CAPS)), scale=st.floats(1e-6, 1e6))
def test_factors_do_not_depend_on_the_scale(seed: int, name: str, scale: float) -> None:
    cap, rows = CAPS[name], COUNTS["many pooled"]
    one, other = start(cap, rows), start(cap, rows)
    for step in batches(len(rows), 5, seed):
        scaled = Batch(step.norms * scale, step.counts)
        torch.testing.assert_close(apply(cap, step, one), apply(cap, scaled, other))


@drawn
@given(seed=seeds, name=st.sampled_from(sorted(CAPS)), norm=st.sampled_from([0.0, 5.0, math.inf]))
def test_norms_of_absent_groups_are_ignored(seed: int, name: str, norm: float) -> None:
    cap, rows = CAPS[name], COUNTS["many pooled"]
    one, other = start(cap, rows), start(cap, rows)
    for step in batches(len(rows), 5, seed):
        changed = Batch(step.norms.nan_to_num(norm), step.counts)
        assert torch.equal(apply(cap, step, one), apply(cap, changed, other))


@drawn
@given(seed=seeds, name=st.sampled_from(sorted(CAPS)))
def test_inputs_and_averages_handed_out_stay_as_they_are(seed: int, name: str) -> None:
    cap, rows = CAPS[name], COUNTS["one pooled"]
    state = start(cap, rows)
    first, second = batches(len(rows), 2, seed)
    apply(cap, first, state)
    averages = state.averages
    kept = [t.clone() for t in (averages, second.norms, second.counts)]
    apply(cap, second, state)
    for tensor, before in zip((averages, second.norms, second.counts), kept, strict=True):
        assert torch.equal(tensor.nan_to_num(-1), before.nan_to_num(-1))


@drawn
@given(seed=seeds)
def test_labels_keep_their_shares(seed: int) -> None:
    cap, rows = NormCap(max_ratio=0.7, within="label", max_factor=math.inf), COUNTS["one pooled"]
    state = start(cap, rows)
    for step in batches(len(rows), 10, seed):
        factors = apply(cap, step, state)
        assert_label_shares_kept(factors, torch.tensor(rows), torch.tensor(strata(len(rows))))


@drawn
@given(
    seed=seeds,
    reference=st.sampled_from(["minority", "smallest_norm"]),
    within=st.sampled_from(["all", "label"]),
    smoothing=st.sampled_from([0.0, 0.95]),
    norm=st.sampled_from([1e-6, 1.0, 1e6]),
)
def test_a_new_group_of_ten_rows_steers_nobody(
    seed: int, reference: str, within: str, smoothing: float, norm: float
) -> None:
    cap = NormCap(max_ratio=1.0, reference=reference, within=within, smoothing=smoothing)
    rows = [4000, 700, 2500, 900]
    one, other = start(cap, rows), start(cap, [*rows, 10])
    for step in batches(4, 10, seed):
        norms = torch.cat((step.norms, step.norms.new_tensor([norm])))
        more = Batch(norms, torch.cat((step.counts, torch.tensor([1]))))
        factors = apply(cap, step, one)
        torch.testing.assert_close(apply(cap, more, other)[:4], factors, rtol=0.05, atol=0)


@pytest.mark.parametrize("name", CAPS)
def test_without_a_bound_nothing_changes(name: str) -> None:
    cap = NormCap(max_ratio=math.inf, within=CAPS[name].within, reference=CAPS[name].reference)
    rows = COUNTS["many pooled"]
    state = start(cap, rows)
    for step in batches(len(rows), 10, seed=0, nonfinite=True):
        assert (apply(cap, step, state) == 1).all()


def test_a_bound_near_zero_gives_equal_votes() -> None:
    cap, rows = NormCap(max_ratio=1e-9), torch.tensor([900, 300, 100])
    factors = apply(cap, batch([5.0, 1.0, 2.0]), cap.init(rows))
    torch.testing.assert_close(factors * rows, torch.tensor([100.0] * 3, dtype=torch.float64))


def test_worked_by_hand_within_all() -> None:
    # R = 1 (100 rows): 2/6, 2/4, 1. With max_ratio 0.5: 1/12 and 1/8 are below the floors
    # 100/600 and 100/300.
    step, rows = batch([6.0, 4.0, 1.0]), [600, 300, 100]
    for max_ratio, expected in ((2.0, [1 / 3, 1 / 2, 1.0]), (0.5, [1 / 6, 1 / 3, 1.0])):
        cap = NormCap(max_ratio=max_ratio)
        factors = apply(cap, step, cap.init(rows))
        torch.testing.assert_close(factors, torch.tensor(expected, dtype=torch.float64))


def test_worked_by_hand_within_label() -> None:
    # Label 0: R = 1, 2/4 and 1, times 400 / (150 + 100). Label 1: R = 2, 1 and 4/5, times
    # 200 / (50 + 120).
    cap = NormCap(within="label")
    state = cap.init([300, 100, 50, 150], strata=[0, 0, 1, 1])
    factors = apply(cap, batch([4.0, 1.0, 2.0, 5.0]), state)
    expected = [0.8, 1.6, 20 / 17, 16 / 17]
    torch.testing.assert_close(factors, torch.tensor(expected, dtype=torch.float64))


def test_worked_by_hand_label_balance() -> None:
    # As within the label; label 0 has 1600 of 2000 rows and label 1 has 400. With a half the shares
    # are as 40 to 20, hence times 5/6 and 5/3; with 1 they are equal, times 5/8 and 5/2.
    counts, norms = [1200, 400, 100, 300], batch([4.0, 1.0, 2.0, 5.0])
    for balance, scales in ((0.0, (1.0, 1.0)), (0.5, (5 / 6, 5 / 3)), (1.0, (5 / 8, 5 / 2))):
        cap = NormCap(within="label", label_balance=balance)
        factors = apply(cap, norms, cap.init(counts, strata=[0, 0, 1, 1]))
        kept = [0.8, 1.6, 1 / 0.85, 0.8 / 0.85]
        expected = [f * scales[k // 2] for k, f in enumerate(kept)]
        torch.testing.assert_close(factors, torch.tensor(expected, dtype=torch.float64))


def test_the_largest_factor_leaves_the_cap_within_a_label() -> None:
    # Label 1: 1/3 and 1 by the cap; equal shares of the labels would need 20.8 and 62.5.
    cap = NormCap(max_ratio=1.0, within="label", label_balance=1.0, min_reference_rows=1)
    state = cap.init([9000, 800, 180, 20], strata=[0, 0, 1, 1])
    factors = apply(cap, batch([1.0, 1.0, 3.0, 1.0]), state)
    assert factors.tolist()[2:] == pytest.approx([10 / 3, 10.0])


def test_worked_by_hand_smoothing() -> None:
    # Group 0: (0.25 * 4 + 0.5 * 8) / 0.75 = 20/3. Group 1 was absent once: its average stays 2.
    cap = NormCap(max_ratio=1.0, smoothing=0.5, floor=0.0)
    state = cap.init([500, 50])
    apply(cap, batch([4.0, 2.0]), state)
    factors = apply(cap, batch([8.0, math.nan], [8, 0]), state)
    torch.testing.assert_close(state.averages, torch.tensor([20 / 3, 2.0], dtype=torch.float64))
    torch.testing.assert_close(factors, torch.tensor([0.3, 1.0], dtype=torch.float64))


def test_the_pool_has_one_floor() -> None:
    # 40 rows against a pool of 20 + 25 + 15.
    cap = NormCap(max_ratio=1e-6)
    state = cap.init([400, 40, 20, 25, 15])
    factors = apply(cap, batch([1.0] * 5), state)
    expected = [0.1, 1.0, 2 / 3, 2 / 3, 2 / 3]
    torch.testing.assert_close(factors, torch.tensor(expected, dtype=torch.float64))


def test_an_absent_reference_is_replaced_and_keeps_the_floor() -> None:
    # Group 2 is designated: the floors stay 50/800 and 50/100, the limit is now group 1's norm.
    cap = NormCap(max_ratio=1.0, smoothing=0.0)
    state = cap.init([800, 100, 50])
    factors = apply(cap, batch([100.0, 1.0, math.nan], [8, 8, 0]), state)
    torch.testing.assert_close(factors, torch.tensor([1 / 16, 1.0, 1.0], dtype=torch.float64))


@pytest.mark.parametrize("reference", [0, (0,)])
def test_a_chosen_reference_needs_no_minimum_of_rows(reference: int | tuple[int, ...]) -> None:
    cap = NormCap(max_ratio=1.0, reference=reference, floor=0.0)
    factors = apply(cap, batch([1.0, 2.0, 4.0]), cap.init([3, 500, 200]))
    torch.testing.assert_close(factors, torch.tensor([1.0, 0.5, 0.25], dtype=torch.float64))


def test_a_stratum_without_a_reference_is_not_capped() -> None:
    cap = NormCap(max_ratio=1.0, within="label")
    state = cap.init([20, 10, 90, 40], strata=[0, 0, 1, 1])
    factors = apply(cap, batch([9.0, 1.0, 9.0, 1.0]), state)
    assert factors.tolist()[:2] == [1.0, 1.0]
    assert factors[2] < 1


def test_a_norm_that_is_not_finite_touches_nothing() -> None:
    cap = NormCap(max_ratio=1.0)
    state = cap.init([500, 50])
    apply(cap, batch([4.0, 2.0]), state)
    before = state.averages
    for bad in (math.nan, math.inf):
        assert apply(cap, batch([bad, 2.0]), state).tolist() == [1.0, 1.0]
        assert torch.equal(state.averages, before)


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_averages_are_nan_until_a_group_was_seen(scope: str) -> None:
    cap = NormCap(scope=scope)
    state = cap.init([500, 50])
    assert state.averages.isnan().all()
    norms = torch.tensor([4.0, math.nan])
    norms = norms if scope == "global" else norms.expand(3, 2)
    factors = cap(norms, torch.tensor([8, 0]), torch.tensor([True, False]), state)
    assert state.averages.isnan().tolist() == norms.isnan().tolist()
    assert (factors == 1).all()


def test_the_state_names_the_reference_of_each_group() -> None:
    cap = NormCap(smoothing=0.0, within="label")
    state = cap.init([20, 10, 90, 40, 200], strata=[0, 0, 1, 1, 1])
    apply(cap, batch([1.0] * 5), state)
    assert state.reference.tolist() == [0, 1, 3, 3, 3]
    apply(cap, batch([1.0] * 5, [8, 8, 8, 0, 8]), state)
    assert state.reference.tolist() == [0, 1, 2, 2, 2]
    apply(cap, batch([1.0, 1.0, 1.0, 0.0, 1.0]), state)
    assert state.reference.tolist() == [0, 1, 2, 3, 4]
    apply(cap, batch([math.nan] * 5), state)
    assert state.reference.tolist() == [0, 1, 2, 3, 4]


def test_each_layer_has_its_own_smallest_norm() -> None:
    cap = NormCap(reference="smallest_norm", scope="layer", max_ratio=1.0, floor=0.0)
    state = cap.init([100, 100])
    norms, counts = torch.tensor([[1.0, 2.0], [4.0, 1.0]]), torch.tensor([8, 8])
    assert cap(norms, counts, counts > 0, state).tolist() == [[1.0, 0.5], [0.25, 1.0]]
    assert state.reference.tolist() == [[0, 0], [1, 1]]


def test_layers_are_capped_on_their_own() -> None:
    cap, whole = NormCap(max_ratio=1.0, scope="layer"), NormCap(max_ratio=1.0)
    rows = COUNTS["tie for the minority"]
    state, states = cap.init(rows), [whole.init(rows) for _ in range(3)]
    for step in batches(len(rows), 10, seed=3, n_layers=3):
        factors = apply(cap, step, state)
        for layer, alone in enumerate(states):
            one = Batch(step.norms[layer], step.counts)
            assert torch.equal(factors[layer], apply(whole, one, alone))


def test_norms_with_a_graph_leave_none_behind() -> None:
    cap = NormCap()
    state = cap.init([500, 50])
    norms = torch.tensor([4.0, 1.0], requires_grad=True)
    assert not cap(norms, torch.tensor([8, 8]), torch.tensor([True, True]), state).requires_grad
    assert not state.averages.requires_grad
