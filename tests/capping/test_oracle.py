"""The cap against the rule in plain Python, on random sequences with absences."""

import warnings
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fairclip.capping import NormCap
from fairclip.exceptions import FairclipWarning
from tests.capping._inputs import COUNTS, batches, strata
from tests.capping._oracle import SlowCap
from tests.capping._properties import apply


def make_cap(label_balance: float, **fields: Any) -> NormCap:
    balance = label_balance if fields["within"] == "label" else 0.0
    return NormCap(label_balance=balance, **fields)


caps = st.builds(
    make_cap,
    label_balance=st.sampled_from([0.0, 0.5, 1.0]),
    max_ratio=st.sampled_from([0.1, 0.7, 1.0, 2.0, 4.0]),
    reference=st.sampled_from(["minority", "smallest_norm", "code"]),
    within=st.sampled_from(["all", "label"]),
    smoothing=st.sampled_from([0.0, 0.3, 0.95]),
    floor=st.sampled_from(["equal_vote", 0.0, 0.2]),
    scope=st.sampled_from(["global", "layer"]),
    min_reference_rows=st.sampled_from([1, 30, 100]),
    max_factor=st.sampled_from([1.2, 10.0]),
)


@settings(derandomize=True, deadline=None, max_examples=250)
@given(
    cap=caps,
    counts=st.sampled_from(sorted(COUNTS)),
    known=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
    data=st.data(),
)
def test_oracle(cap: NormCap, counts: str, known: bool, seed: int, data: st.DataObject) -> None:
    rows = COUNTS[counts]
    labels = strata(len(rows))
    if cap.reference == "code":
        members = {s: [k for k, label in enumerate(labels) if label == s] for s in set(labels)}
        if cap.within == "all":
            members = {0: list(range(len(rows)))}
        codes = tuple(data.draw(st.sampled_from(groups)) for groups in members.values())
        fields = {name: getattr(cap, name) for name in cap.__dataclass_fields__}
        cap = NormCap(**{**fields, "reference": codes})
    slow = SlowCap(cap, rows if known else None, labels, len(rows))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FairclipWarning)
        state = cap.init(rows if known else None, labels, n_groups=len(rows))
    n_layers = 2 if cap.scope == "layer" else None
    for step in batches(len(rows), 15, seed, n_layers=n_layers, nonfinite=True):
        expected = slow(step.norms.reshape(-1, len(rows)).tolist(), step.counts.tolist())
        factors = apply(cap, step, state).reshape(-1, len(rows))
        torch.testing.assert_close(
            factors, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=0
        )


@pytest.mark.parametrize("smoothing", [0.0, 0.9])
def test_oracle_in_single_precision(smoothing: float) -> None:
    cap, rows = NormCap(max_ratio=1.5, smoothing=smoothing, within="label"), [500, 90, 300, 40]
    labels = strata(4)
    slow, state = SlowCap(cap, rows, labels, 4), cap.init(rows, labels)
    for step in batches(4, 200, seed=1, dtype=torch.float32):
        expected = slow([step.norms.tolist()], step.counts.tolist())
        torch.testing.assert_close(apply(cap, step, state), torch.tensor(expected[0]))
