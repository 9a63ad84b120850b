from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from fairclip.metrics import over_seeds


def _runs(n_seeds: int = 6) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    arms = np.repeat(["unclipped", "cap"], n_seeds)
    seeds = np.tile(np.arange(n_seeds), 2)
    level = rng.normal(0.8, 0.05, n_seeds)[seeds] - 0.02 * (arms == "cap")
    return pd.DataFrame(
        {"arm": arms, "seed": seeds, "accuracy": level + rng.normal(0, 0.01, 2 * n_seeds)}
    )


def test_without_overlap_the_interval_is_students() -> None:
    runs = _runs()
    found = over_seeds(runs, test_over_train=0.0)
    values = runs.set_index(["arm", "seed"])["accuracy"].unstack("arm")
    level = stats.ttest_1samp(values["cap"], 0).confidence_interval(0.95)
    change = stats.ttest_rel(values["cap"], values["unclipped"]).confidence_interval(0.95)
    row = found.loc["cap"]
    assert (row["accuracy_low"], row["accuracy_high"]) == pytest.approx(tuple(level))
    assert (row["accuracy_change_low"], row["accuracy_change_high"]) == pytest.approx(tuple(change))


def test_the_overlap_widens_the_interval_as_nadeau_and_bengio_say() -> None:
    plain, corrected = (over_seeds(_runs(), test_over_train=r).loc["cap"] for r in (0.0, 0.5))
    widths = [row["accuracy_high"] - row["accuracy_low"] for row in (plain, corrected)]
    assert widths[1] / widths[0] == pytest.approx(np.sqrt((1 / 6 + 0.5) / (1 / 6)))


def test_the_layout() -> None:
    found = over_seeds(_runs().assign(auc=0.5), test_over_train=0.2)
    assert found.index.name == "arm"
    assert found.index.tolist() == ["unclipped", "cap"]
    assert found.columns.tolist() == [
        f"{metric}_{part}"
        for metric in ("accuracy", "auc")
        for part in ("mean", "low", "high", "change", "change_low", "change_high")
    ]
    unchanged = found[["accuracy_change", "accuracy_change_high"]].loc["unclipped"]
    assert (unchanged == 0).all()


def test_order_of_rows_and_missing_seeds_do_not_break_the_pairs() -> None:
    runs = _runs()
    shuffled = pd.concat([runs.iloc[[0]], runs.iloc[1:].sample(frac=1, random_state=0)])
    first, second = (over_seeds(frame, test_over_train=0.2) for frame in (runs, shuffled))
    pd.testing.assert_frame_equal(first, second)
    fewer = over_seeds(runs.iloc[:-1], test_over_train=0.2).loc["cap"]  # seed 5 of cap is gone
    paired = runs[runs["seed"] < 5].groupby("arm")["accuracy"].mean()
    assert fewer["accuracy_change"] == pytest.approx(paired["cap"] - paired["unclipped"])


def test_one_seed_has_means_without_bounds_and_nan_stays() -> None:
    one = over_seeds(_runs(1), test_over_train=0.2).loc["cap"]
    assert one[["accuracy_mean", "accuracy_change"]].notna().all()
    assert one[["accuracy_low", "accuracy_change_high"]].isna().all()
    runs = _runs()
    runs.loc[0, "accuracy"] = np.nan
    found = over_seeds(runs, test_over_train=0.2)
    assert found.loc["unclipped"].isna().all()
    assert found["accuracy_mean"].notna()["cap"]


@pytest.mark.parametrize(
    ("runs", "options", "message"),
    [
        (_runs().drop(columns="seed"), {}, "columns arm and seed"),
        (_runs().drop(columns="accuracy"), {}, "numeric metrics, got none"),
        (_runs().assign(worst_cell="x"), {}, r"numeric metrics, got \['worst_cell'\]"),
        (_runs().assign(loss=2.0), {}, r"in \[0, 1\], \['loss'\] are not"),
        (pd.concat([_runs(), _runs()]), {}, "one row for each arm and seed"),
        (_runs(), {"baseline": "x"}, "`baseline` must be an arm"),
        (_runs(), {"test_over_train": -0.1}, "`test_over_train` must be 0 or more"),
        (_runs(), {"test_over_train": np.nan}, "`test_over_train` must be 0 or more"),
        (_runs(), {"confidence": 1}, "`confidence` must be between"),
    ],
)
def test_bad_input_is_refused(runs: pd.DataFrame, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        over_seeds(runs, **({"test_over_train": 0.2} | options))


def test_bounds_stop_at_the_range_of_a_share() -> None:
    runs = pd.DataFrame(
        {"arm": ["unclipped"] * 2 + ["cap"] * 2, "seed": [0, 1] * 2, "auc": [0.1, 0.9, 0.9, 0.1]}
    )
    row = over_seeds(runs, test_over_train=0.3).loc["cap"]
    assert list(row[["auc_low", "auc_high"]]) == [0, 1]
    assert list(row[["auc_change_low", "auc_change_high"]]) == [-1, 1]
