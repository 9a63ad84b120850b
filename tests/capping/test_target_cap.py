"""TargetCap: a value by hand, properties, a slow oracle, resuming, and what is refused."""

import io
import math
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fairclip._arrays import host_view
from fairclip.capping import TargetCap, TargetState
from fairclip.exceptions import FairclipWarning
from tests._as_on_a_device import as_on_a_device
from tests._no_waiting import NoWaiting

# Of the small ones in `COUNTS`; a test of its own holds the warnings to what they say.
pytestmark = pytest.mark.filterwarnings("ignore:Groups .* rows:fairclip.FairclipWarning")

COUNTS = [500, 90, 300, 40, 0, 12]
LABELS = [0, 0, 7, 7, 7, 0]
CAPS = {
    "equalized odds": TargetCap("equalized_odds", gap=0.02),
    "fast": TargetCap("equalized_odds", gap=0.1, rate=2.0, smoothing=0.5),
    "no past": TargetCap("equalized_odds", gap=0.0, rate=0.5, smoothing=0.0, floor=0.3),
    "no floor": TargetCap("equalized_odds", gap=0.05, rate=1.0, floor=0.0),
    "no pool": TargetCap("equalized_odds", gap=0.05, rate=1.0, min_reference_rows=1),
    "one large": TargetCap("equalized_odds", gap=0.0, rate=1.0, min_reference_rows=301),
    "small factors": TargetCap("equalized_odds", gap=0.0, rate=1.0, floor=0.0, max_factor=1.2),
    "opportunity": TargetCap("equal_opportunity", gap=0.02, rate=1.0, favourable=7),
    "accuracy": TargetCap("accuracy", gap=0.02, rate=1.0, smoothing=0.9),
    "worst cell": TargetCap("worst_cell", gap=0.05, rate=1.0),
    "limited": TargetCap(
        "worst_cell", gap=0.0, rate=0.7, smoothing=0.6, max_accuracy_loss=0.1, floor=0.01
    ),
}
Observation = tuple[torch.Tensor, torch.Tensor]
drawn = settings(derandomize=True, deadline=None, max_examples=100)


def begin(cap: TargetCap, counts: list[int] = COUNTS) -> TargetState:
    return cap.init(counts, None if cap.target == "accuracy" else LABELS[: len(counts)])


def observations(n: int, seed: int, n_groups: int = len(COUNTS)) -> list[Observation]:
    """Rows that were predicted right, and all: some groups are absent, the last one often."""
    rng = np.random.default_rng(seed)
    skill = rng.random(n_groups)
    found = []
    for _ in range(n):
        rows = rng.integers(1, 30, n_groups) * (rng.random(n_groups) < 0.7)
        rows[-1] *= rng.random() < 0.1
        found.append((torch.tensor(rng.binomial(rows, skill)), torch.tensor(rows)))
    return found


# ------------------------------------------------------------------ the rule, once more


class SlowTarget:
    """The rule as it is written, over lists, with all observations kept."""

    def __init__(self, cap: TargetCap, counts: list[int], labels: list[int] | None) -> None:
        by_label = cap.target in ("equalized_odds", "equal_opportunity")
        self.cap, self.counts = cap, counts
        self.labels = labels if by_label and labels is not None else [0] * len(counts)
        self.logs = [0.0] * len(counts)
        self.seen: list[list[tuple[int, int]]] = [[] for _ in counts]
        self.all_seen: list[tuple[int, int]] = []
        self.best = -math.inf

    def rate(self, seen: list[tuple[int, int]]) -> float:
        """Return the smoothed hits over the smoothed rows."""
        weights = [self.cap.smoothing**age for age in reversed(range(len(seen)))]
        hits = sum(w * hit for w, (hit, _) in zip(weights, seen, strict=True))
        return hits / sum(w * n for w, (_, n) in zip(weights, seen, strict=True))

    def is_large(self, k: int) -> bool:
        return self.counts[k] >= self.cap.min_reference_rows

    def stratum(self, k: int) -> list[int]:
        return [j for j, label in enumerate(self.labels) if label == self.labels[k]]

    def floor(self, k: int) -> float:
        if self.cap.target == "equal_opportunity" and self.labels[k] != self.cap.favourable:
            return 1.0
        if not isinstance(self.cap.floor, str):
            return float(self.cap.floor)
        n_min = min((self.counts[j] for j in self.stratum(k) if self.is_large(j)), default=math.inf)
        pool = [self.counts[j] for j in self.stratum(k) if not self.is_large(j)]
        votes = self.counts[k] if self.is_large(k) else sum(pool)
        return min(1.0, n_min / votes) if votes else 1.0

    def observe(self, hits: list[int], rows: list[int]) -> list[float]:
        for k, (hit, n) in enumerate(zip(hits, rows, strict=True)):
            if n:
                self.seen[k].append((hit, n))
        if not sum(rows):
            return self.applied()
        self.all_seen.append((sum(hits), sum(rows)))
        accuracy, n = self.rate(self.all_seen), len(self.all_seen)
        if 1 - self.cap.smoothing**n >= 0.5:
            self.best = max(self.best, accuracy)
        limit = self.cap.max_accuracy_loss
        is_lost = limit is not None and accuracy < self.best - limit
        recalls = [self.rate(seen) if seen else None for seen in self.seen]
        moved = []
        for k, recall in enumerate(recalls):
            if recall is None:
                moved.append(0.0)
                continue
            large = [j for j in self.stratum(k) if self.is_large(j)]
            least = min((r for j in large if (r := recalls[j]) is not None), default=recall)
            log = self.logs[k] - self.cap.rate * (recall - least - self.cap.gap)
            if is_lost:
                log = self.logs[k] * max(1 - self.cap.rate, 0)
            floor = self.floor(k)
            moved.append(min(max(log, math.log(floor) if floor else -math.inf), 0.0))
        self.logs = moved
        return self.applied()

    def applied(self) -> list[float]:
        factors = [math.exp(log) for log in self.logs]
        if self.cap.target == "worst_cell":
            return factors
        scales = []
        for k in range(len(factors)):
            largest = max(factors[j] for j in self.stratum(k))
            rows = sum(self.counts[j] for j in self.stratum(k))
            votes = sum(self.counts[j] * factors[j] for j in self.stratum(k))
            scale = rows / votes if rows else 1 / largest
            scales.append(min(scale, self.cap.max_factor / largest))
        return [f * s for f, s in zip(factors, scales, strict=True)]


@drawn
@given(name=st.sampled_from(sorted(CAPS)), seed=st.integers(0, 2**32 - 1))
def test_a_slow_oracle_agrees(name: str, seed: int) -> None:
    cap = CAPS[name]
    state, slow = begin(cap), SlowTarget(cap, COUNTS, LABELS)
    for hits, rows in observations(40, seed):
        factors = cap(hits, rows, state)
        expected = slow.observe(hits.tolist(), rows.tolist())
        np.testing.assert_allclose(factors, expected, rtol=1e-9)
    recalls = [slow.rate(seen) if seen else math.nan for seen in slow.seen]
    np.testing.assert_allclose(state.recalls, recalls, rtol=1e-12)


def test_worked_by_hand() -> None:
    cap = TargetCap("equalized_odds", gap=0.1, rate=1.0, smoothing=0.5)
    state = cap.init([300, 100, 250, 250], [0, 0, 1, 1])
    hits, rows = torch.tensor([9, 3, 5, 4]), torch.tensor([10, 5, 10, 8])
    # Recalls .9 and .6: log f = -(.3 - .1), and 400 rows become 300 e^-.2 + 100.
    first = math.exp(-0.2)
    scale = 400 / (300 * first + 100)
    assert cap(hits, rows, state).tolist() == pytest.approx([first * scale, scale, 1, 1])
    # Group 0 is at (4.5 + 4) / (5 + 4), group 1 not there: another 17 / 18 - .6 - .1 is too much.
    hits, rows = torch.tensor([4, 0, 0, 0]), torch.tensor([4, 0, 0, 0])
    second = math.exp(-0.2 - (17 / 18 - 0.6 - 0.1))
    scale = 400 / (300 * second + 100)
    assert cap(hits, rows, state).tolist() == pytest.approx([second * scale, scale, 1, 1])
    assert state.log_factors.tolist() == pytest.approx([math.log(second), 0, 0, 0])
    assert state.reference.tolist() == [1, 1, 2, 2]
    # The floor is 100 / 300 however good group 0 is.
    for _ in range(50):
        factors = cap(torch.tensor([8, 0, 0, 0]), torch.tensor([8, 8, 8, 8]), state)
    assert factors.tolist() == pytest.approx([2 / 3, 2, 1, 1])


# ------------------------------------------------------------------ properties


@drawn
@given(name=st.sampled_from(sorted(CAPS)), seed=st.integers(0, 2**32 - 1))
def test_factors_stay_in_their_range_and_labels_keep_their_share(name: str, seed: int) -> None:
    cap = CAPS[name]
    state = begin(cap)
    labels = np.array(LABELS if cap.target.startswith("equal") else [0] * len(COUNTS))
    ever = np.zeros(len(COUNTS), dtype=bool)
    for hits, rows in observations(30, seed):
        factors = cap(hits, rows, state).numpy()
        ever |= rows.numpy() > 0
        assert (state.log_factors <= 0).all()
        assert (state.log_factors >= state.log_floor).all()
        assert (state.log_factors[~ever] == 0).all()
        if cap.target == "worst_cell":
            assert (factors <= 1).all()
            continue
        assert factors.max() <= cap.max_factor
        for label in np.unique(labels):
            n, of_label = np.array(COUNTS)[labels == label], factors[labels == label]
            logs = state.log_factors[labels == label]
            np.testing.assert_allclose(
                of_label / of_label.max(), np.exp(logs - logs.max()), rtol=1e-12
            )
            if of_label.max() < cap.max_factor:
                assert n @ of_label == pytest.approx(n.sum(), rel=1e-12)
            else:
                assert n @ of_label <= n.sum() * (1 + 1e-12)
    if cap.target == "equal_opportunity":
        assert factors[labels != cap.favourable].tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("target", ["equalized_odds", "worst_cell"])
def test_a_group_that_was_never_seen_is_no_minimum(target: str) -> None:
    cap = TargetCap(target, gap=0.1, rate=1.0, floor=0.0)
    state = cap.init([100, 100, 100], [0, 0, 0])
    factors = cap(torch.tensor([9, 8, 0]), torch.tensor([10, 10, 0]), state)
    assert factors.tolist() == [1, 1, 1]
    assert np.isnan(state.recalls[2])
    factors = cap(torch.tensor([9, 8, 0]), torch.tensor([10, 10, 1]), state)
    assert factors[0] < factors[1] < factors[2]


@pytest.mark.parametrize(
    "target", ["equalized_odds", "equal_opportunity", "accuracy", "worst_cell"]
)
def test_within_the_gap_all_factors_are_exactly_1(target: str) -> None:
    cap = TargetCap(target, gap=0.25, rate=1.0, smoothing=0.5, floor=0.0, favourable=7)
    state, rng = begin(cap), np.random.default_rng(3)
    rows = torch.full((len(COUNTS),), 8)
    for _ in range(20):
        hits = torch.tensor(rng.integers(5, 8, len(COUNTS)))  # .625, .75 or .875, no more than .25
        assert cap(hits, rows, state).tolist() == [1.0] * len(COUNTS)
    assert np.ptp(state.recalls) > 0.02
    factors = cap(torch.tensor([8, 0, 8, 0, 8, 8]), rows, state)
    assert (factors < 1).any()


@pytest.mark.parametrize("name", CAPS)
def test_an_observation_without_rows_changes_nothing(name: str) -> None:
    cap = CAPS[name]
    state = begin(cap)
    none = torch.zeros(len(COUNTS))
    assert cap(none, none, state).tolist() == [1.0] * len(COUNTS)
    for step in observations(5, seed=4):
        cap(*step, state)
    before = state.state_dict()
    assert torch.equal(cap(none, none, state), before["factors"])
    for key, value in state.state_dict().items():
        assert np.array_equal(value, before[key])


def test_what_is_written_into_the_factors_does_not_reach_the_state() -> None:
    cap = TargetCap("worst_cell", gap=0.0, rate=1.0, floor=0.0)
    state = cap.init([100, 100])
    hits, rows = np.array([9, 3]), np.array([10, 10])
    cap(torch.tensor(hits), torch.tensor(rows), state).zero_()
    cap(hits, rows, state)[:] = 0
    assert (state.factors > 0).all()


def test_a_label_without_rows_has_the_factor_1() -> None:
    state = CAPS["equalized odds"].init([300, 100, 0], [0, 0, 1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        factors = CAPS["equalized odds"](np.array([9, 6, 0]), np.array([10, 10, 0]), state)
    assert factors[2] == 1


def test_a_small_group_is_not_the_least_and_none_is_lifted_far() -> None:
    counts, rows = [20000, 8000, 2], torch.tensor([50, 20, 2])
    hits = torch.tensor([45, 10, 0])  # recalls .9, .5 and 0
    cap = TargetCap("equalized_odds", gap=0.0, rate=1.0, smoothing=0.0)
    state, alone = cap.init(counts, [0, 0, 0]), cap.init(counts[:2], [0, 0])
    for _ in range(9):
        factors, expected = cap(hits, rows, state), cap(hits[:2], rows[:2], alone)
    assert state.log_factors[:2].tolist() == alone.log_factors.tolist()
    assert state.log_factors[2] == 0
    assert state.reference.tolist() == [1, 1, 1]
    assert factors[:2].tolist() == pytest.approx(expected.tolist(), rel=1e-3)
    # As it would be without the two bounds, and with one of them.
    free = replace(cap, min_reference_rows=1, max_factor=math.inf)
    bounded = replace(free, max_factor=10.0)
    states = [each.init(counts, [0, 0, 0]) for each in (free, bounded)]
    for _ in range(20):
        far, near = (each(hits, rows, s) for each, s in zip((free, bounded), states, strict=True))
    assert far[2] > 4000
    assert near[2] == 10
    torch.testing.assert_close(near / near[2], far / far[2])


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([500, 12, 0], r"Groups \[1, 2\] have fewer than 30 rows"),
        ([29, 29, 29], r"Groups \[0, 1, 2\] are in a stratum where no group has 30 rows"),
    ],
)
def test_small_groups_are_named(counts: list[int], message: str) -> None:
    cap = TargetCap("worst_cell", gap=0.0, rate=1.0, smoothing=0.0)
    with pytest.warns(FairclipWarning, match=message):
        state = cap.init(counts)
    factors = cap(torch.tensor([10, 5, 9]), torch.tensor([10, 10, 10]), state)
    assert factors.tolist() == [1.0] * 3  # 12 rows are fewer votes than the 500 of the only large
    assert state.reference.tolist() == ([0, 0, 0] if counts[0] == 500 else [0, 1, 2])


def test_small_groups_share_one_floor() -> None:
    cap = TargetCap("worst_cell", gap=0.0, rate=9.0, smoothing=0.0)
    state = cap.init([500, 40, 25, 25, 25])
    factors = cap(torch.tensor([9, 0, 9, 9, 9]), torch.tensor([10] * 5), state)
    assert factors.tolist() == pytest.approx([40 / 500, 1, 40 / 75, 40 / 75, 40 / 75])


def test_a_factor_rises_as_slowly_as_it_is_said() -> None:
    cap = TargetCap("worst_cell", gap=0.02, smoothing=0.0, floor=0.5)
    state, rows = cap.init([100, 100]), torch.tensor([10, 10])
    for _ in range(20):
        cap(torch.tensor([10, 0]), rows, state)
    assert state.factors.tolist() == pytest.approx([0.5, 1])
    n_observations = 0
    while state.factors[0] < 1:
        cap(torch.tensor([0, 10]), rows, state)
        n_observations += 1
    assert n_observations == 347


def test_without_a_gap_factors_only_fall() -> None:
    cap = TargetCap("worst_cell", gap=0.0, rate=1.0, smoothing=0.0, floor=0.1)
    state, before = cap.init([100, 100, 100]), np.zeros(3)
    for hits, _ in observations(60, seed=2, n_groups=3):
        cap(hits.clamp(max=10), torch.tensor([10, 10, 10]), state)
        assert (state.log_factors <= before).all()
        before = state.log_factors
    assert before == pytest.approx(np.log([0.1] * 3))


@pytest.mark.parametrize("name", CAPS)
def test_the_order_of_the_groups_is_of_no_matter(name: str) -> None:
    cap = CAPS[name]
    order = np.random.default_rng(0).permutation(len(COUNTS))
    state = begin(cap)
    moved = cap.init(
        np.array(COUNTS)[order], None if cap.target == "accuracy" else np.array(LABELS)[order]
    )
    for hits, rows in observations(20, seed=1):
        factors = cap(hits, rows, state)
        torch.testing.assert_close(cap(hits[order], rows[order], moved), factors[order])


def test_factors_that_fell_together_do_not_vanish() -> None:
    cap = TargetCap("equalized_odds", gap=0.0, rate=50.0, smoothing=0.0, floor=0.0)
    state = cap.init([100, 100], [0, 0])
    rows = torch.tensor([10, 10])
    for i in range(100):
        factors = cap(torch.tensor([10, 0]) if i % 2 else torch.tensor([0, 10]), rows, state)
    assert (state.log_factors < -2000).all()
    assert factors.tolist() == [1.0, 1.0]


def test_lost_accuracy_ends_the_cap() -> None:
    cap = TargetCap("worst_cell", gap=0.0, rate=0.5, smoothing=0.0, max_accuracy_loss=0.2)
    free = replace(cap, max_accuracy_loss=None)
    states = [each.init([100, 90], [0, 1]) for each in (cap, free)]
    rows = torch.tensor([10, 10])

    def both(*hits: int) -> list[list[float]]:
        pair = zip((cap, free), states, strict=True)
        return [each(torch.tensor(hits), rows, state).tolist() for each, state in pair]

    limited, expected = both(10, 8)  # an accuracy of .9, the best
    assert limited == expected
    limited, expected = both(10, 5)  # .75
    assert limited == expected
    before = limited[0]
    limited, expected = both(10, 2)  # .6 < .9 - .2
    assert expected[0] <= before
    assert limited[0] == pytest.approx(math.sqrt(before))


# ------------------------------------------------------------------ devices and resuming


@pytest.mark.parametrize("name", CAPS)
def test_numpy_and_torch_agree_and_nothing_waits(name: str) -> None:
    cap = CAPS[name]
    state, twin = begin(cap), begin(cap)
    for hits, rows in observations(20, seed=5):
        by_numpy = cap(hits.numpy(), rows.numpy(), state)
        with as_on_a_device():
            assert isinstance(host_view(hits), torch.Tensor)
            with NoWaiting():
                by_torch = cap(hits, rows, twin)
        np.testing.assert_allclose(by_torch, by_numpy, rtol=1e-14)
        assert by_torch.dtype == torch.float64


@pytest.mark.parametrize("name", CAPS)
def test_the_state_of_another_target_is_refused(name: str) -> None:
    cap = CAPS[name]
    saved = begin(cap).state_dict()
    for other in CAPS.values():
        if other.target == cap.target:
            begin(replace(other, gap=0.5)).load_state_dict(saved)
        else:
            with pytest.raises(ValueError, match=f"a cap with `target` '{cap.target}', this one"):
                begin(other).load_state_dict(saved)


def test_the_state_for_another_favourable_label_is_refused() -> None:
    cap = CAPS["opportunity"]
    other = begin(replace(cap, favourable=0))
    with pytest.raises(ValueError, match="a cap with `favourable` 7, this one is 0"):
        other.load_state_dict(begin(cap).state_dict())
    cap = CAPS["worst cell"]
    begin(replace(cap, favourable=7)).load_state_dict(begin(cap).state_dict())  # of no matter


@pytest.mark.parametrize("name", CAPS)
def test_resuming_is_bit_exact(name: str) -> None:
    cap = CAPS[name]
    state, resumed = begin(cap), begin(cap)
    steps = observations(40, seed=6)
    for step in steps[:20]:
        cap(*step, state)
    file = io.BytesIO()
    torch.save(state.state_dict(), file)
    file.seek(0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert resumed.factors.tolist() == state.factors.tolist()
    assert resumed.reference.tolist() == state.reference.tolist()
    for step in steps[20:]:
        assert torch.equal(cap(*step, state), cap(*step, resumed))


# ------------------------------------------------------------------ rejected


@pytest.mark.parametrize(
    ("fields", "error", "match"),
    [
        ({"target": "parity"}, ValueError, "`target` must be one of"),
        ({"gap": -0.1}, ValueError, r"`gap` must be in \[0, 1\]"),
        ({"gap": math.nan}, ValueError, "`gap`"),
        ({"gap": "0.1"}, TypeError, "`gap` must be a number"),
        ({"rate": 0.0}, ValueError, "`rate` must be positive"),
        ({"rate": math.inf}, ValueError, "`rate`"),
        ({"smoothing": 1.0}, ValueError, "`smoothing`"),
        ({"floor": 1.1}, ValueError, "`floor`"),
        ({"floor": "equal"}, ValueError, "`floor` must be 'equal_vote' or a number"),
        ({"max_accuracy_loss": -1.0}, ValueError, "`max_accuracy_loss`"),
        ({"max_accuracy_loss": "1"}, ValueError, "`max_accuracy_loss`"),
        ({"favourable": "yes"}, TypeError, "`favourable`"),
        ({"min_reference_rows": 0}, ValueError, "`min_reference_rows`"),
        ({"min_reference_rows": None}, TypeError, "`min_reference_rows` must be a number"),
        ({"max_factor": 0.9}, ValueError, "`max_factor`"),
        ({"max_factor": math.nan}, ValueError, "`max_factor`"),
    ],
)
def test_rejected_fields(fields: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        TargetCap(**{"target": "worst_cell", "gap": 0.1, **fields})


def test_the_gap_has_no_default() -> None:
    with pytest.raises(TypeError, match="gap"):
        TargetCap("accuracy")  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("target", "counts", "labels", "match"),
    [
        ("equalized_odds", [5, 5], None, "with_label=True"),
        ("accuracy", [5, 5], [0, 1], "with_label=False"),
        ("equal_opportunity", [5, 5], [0, 2], "`favourable`"),
        ("worst_cell", [], None, "`counts`"),
        ("worst_cell", [-1, 3], None, "`counts`"),
        ("worst_cell", [1.5, 3], None, "`counts`"),
        ("equalized_odds", [5, 5], [0, 0, 0], "`strata`"),
    ],
)
def test_rejected_groups(target: str, counts: Any, labels: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        TargetCap(target, gap=0.1).init(counts, labels)


def test_rejected_observations_and_states() -> None:
    cap = TargetCap("worst_cell", gap=0.1)
    state = cap.init([50, 50])
    with pytest.raises(ValueError, match="`hits` and `rows`"):
        cap(torch.ones(3), torch.ones(3), state)
    for hits in ([30.0, 1.0], [5.0, -1.0], [math.nan, 1.0]):
        with pytest.raises(ValueError, match="`hits` must be in 0 to `rows`, got "):
            cap(torch.tensor(hits), torch.tensor([10, 10]), state)
    saved = state.state_dict()
    assert saved["rows"].tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="`version` must be 2, got 0"):
        state.load_state_dict({**saved, "version": 0})
    with pytest.raises(ValueError, match="row counts"):
        cap.init([50, 60]).load_state_dict(saved)
