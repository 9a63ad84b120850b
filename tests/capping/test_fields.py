"""What NormCap and its init reject, and what they warn of."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch

from fairclip.capping import NormCap
from fairclip.exceptions import FairclipWarning


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_ratio": 0}, "`max_ratio` must be positive, got 0"),
        ({"max_ratio": -1.0}, "`max_ratio` must be positive"),
        ({"max_ratio": math.nan}, "`max_ratio` must be positive, got nan"),
        ({"smoothing": 1.0}, r"`smoothing` must be in \[0, 1\)"),
        ({"smoothing": -0.1}, "`smoothing`"),
        ({"smoothing": math.nan}, "`smoothing`"),
        ({"floor": 1.5}, r"`floor` must be in \[0, 1\]"),
        ({"floor": math.nan}, "`floor`"),
        ({"floor": "equal"}, "`floor` must be 'equal_vote' or a number"),
        ({"within": "labels"}, "`within` must be 'all' or 'label', got 'labels'"),
        ({"scope": "tensor"}, "`scope` must be 'global' or 'layer'"),
        ({"min_reference_rows": 0}, "`min_reference_rows` must be at least 1"),
        ({"max_factor": 0.5}, "`max_factor` must be at least 1"),
        ({"max_factor": math.nan}, "`max_factor`"),
        ({"label_balance": 0.5}, "0 unless `within` is 'label'"),
        (
            {"label_balance": 0.5, "within": "label", "max_ratio": math.inf},
            "and `max_ratio` finite, got 0.5 with 'label' and inf",
        ),
        ({"label_balance": 1.5, "within": "label"}, r"`label_balance` must be in \[0, 1\]"),
        ({"label_balance": math.nan, "within": "label"}, "`label_balance`"),
        ({"reference": -1}, "`reference` must be"),
        ({"reference": ()}, "`reference` must be"),
        ({"reference": (1, "a")}, "`reference` must be"),
        ({"reference": 1.5}, "`reference` must be"),
    ],
)
def test_rejected_value(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NormCap(**fields)


@pytest.mark.parametrize("fields", [{"max_ratio": "2"}, {"smoothing": None}, {"preserve_norm": 1}])
def test_rejected_type(fields: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=next(iter(fields))):
        NormCap(**fields)


@pytest.mark.parametrize(
    ("cap", "arguments", "message"),
    [
        (NormCap(), {}, "`counts` or `n_groups` must be given"),
        (NormCap(), {"counts": []}, "one number per group"),
        (NormCap(), {"counts": [[50, 50]]}, "one number per group"),
        (NormCap(), {"counts": [50, 50], "n_groups": 3}, "one number per group"),
        (NormCap(), {"counts": [50.0, 50.0]}, "whole numbers"),
        (NormCap(), {"counts": [50, -1]}, "whole numbers"),
        (NormCap(within="label"), {"counts": [50, 50]}, r"GroupEncoder\(with_label=True\)"),
        (NormCap(within="label"), {"counts": [50, 50], "strata": [0]}, "one code per group"),
        (NormCap(reference="sex=male"), {"counts": [50, 50]}, "'sex=male' is a group's name"),
        (NormCap(reference=2), {"counts": [50, 50]}, "below the number of groups 2"),
        (NormCap(reference=(0, 1)), {"counts": [50, 50]}, "one group of each stratum"),
        (
            NormCap(reference=0, within="label"),
            {"counts": [50, 50], "strata": [0, 1]},
            "one group of each stratum",
        ),
    ],
)
def test_rejected_init(cap: NormCap, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cap.init(**arguments)


def test_pooled_groups_are_named() -> None:
    with pytest.warns(FairclipWarning, match=r"Groups \[1, 3\] have fewer than 30 rows") as caught:
        NormCap().init([500, 29, 30, 1])
    assert len(caught) == 1
    assert caught[0].filename == __file__


def test_strata_without_a_reference_are_named() -> None:
    with pytest.warns(FairclipWarning, match=r"Groups \[0, 1\] .* they are not capped") as caught:
        NormCap(within="label").init([20, 10, 90, 40], strata=[0, 0, 1, 1])
    assert len(caught) == 1


def test_without_a_bound_small_groups_do_not_matter() -> None:
    NormCap(max_ratio=math.inf).init([500, 29])  # warnings are errors


def test_a_chosen_reference_is_not_pooled() -> None:
    NormCap(reference=1).init([500, 29])  # warnings are errors


@pytest.mark.parametrize("kind", [np.array, torch.tensor, list])
def test_counts_and_strata_of_any_kind(kind: Any) -> None:
    cap = NormCap(within="label", reference=(1, 2))
    state = cap.init(kind([50, 60, 70]), kind([5, 5, 9]))
    assert state.counts.tolist() == [50, 60, 70]


def test_strata_do_not_matter_within_all() -> None:
    NormCap(reference=0).init([50, 60], strata=[0, 1])


def test_per_step_is_the_literal_rule() -> None:
    cap = NormCap.per_step(3.0)
    assert (cap.max_ratio, cap.smoothing, cap.floor) == (3.0, 0.0, 0.0)
    assert dataclasses.replace(cap, smoothing=0.95, floor="equal_vote", max_ratio=2.0) == NormCap()
