import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairclip.metrics import Audit, Tradeoff, audit, tradeoff
from tests.metrics._properties import at

BELOW = 10


def _audit(cells: list[tuple[int, int]]) -> Audit:
    """Audit groups g0, g1, ... with these numbers of rows of each label."""
    names = np.repeat([f"g{i}" for i in range(len(cells))], [sum(cell) for cell in cells])
    y = np.concatenate([np.repeat([0, 1], cell) for cell in cells])
    p = np.arange(len(y)) % 2
    return audit(y, p, sensitive_features={"g": names}, n_boot=9)


def _tables(folder: Path) -> dict[str, pd.DataFrame]:
    return {path.stem: pd.read_csv(path) for path in folder.glob("*.csv")}


def _hidden(folder: Path) -> set[str]:
    by_group = _tables(folder)["by_group"]
    return set(by_group["g"][by_group["n"].isna()])


@pytest.mark.parametrize(
    ("cells", "hidden"),
    [
        ([(50, 50), (40, 40), (30, 30)], set()),
        # One is small, so a second goes with it.
        ([(50, 50), (40, 40), (30, 3)], {"g2", "g1"}),
        ([(50, 50), (40, 4), (30, 3)], {"g2", "g1", "g0"}),  # 4 + 3 is a small cell as well
        ([(50, 50), (40, 9), (30, 3)], {"g2", "g1"}),
        ([(50, 50), (40, 40), (30, 0)], set()),  # no cell is not a small cell
    ],
)
def test_small_cells_and_what_would_give_them_away_are_hidden(
    tmp_path: Path, cells: list[tuple[int, int]], hidden: set[str]
) -> None:
    _audit(cells).save(tmp_path, ("csv", "json"), suppress_below=BELOW)
    assert _hidden(tmp_path) == hidden


@settings(derandomize=True, deadline=None, max_examples=30)
@given(cells=st.lists(st.tuples(*[st.integers(0, 40)] * 2), min_size=1, max_size=5))
def test_no_small_cell_can_be_worked_out_from_the_totals(
    tmp_path_factory: pytest.TempPathFactory, cells: list[tuple[int, int]]
) -> None:
    present = [cell for cell in cells if sum(cell)]
    if not sum(cell[0] for cell in present) or not sum(cell[1] for cell in present):
        return
    folder = tmp_path_factory.mktemp("audit")
    _audit(present).save(folder, ("csv",), suppress_below=BELOW)
    shown = _tables(folder)["cells"].dropna()[["y=0", "y=1"]].to_numpy()
    assert not ((shown > 0) & (shown < BELOW)).any()
    rest = np.array(present).sum(0) - shown.sum(0)
    n_hidden = len(present) - len(shown)
    if 0 < n_hidden < len(present):
        assert n_hidden > 1
        assert not ((rest > 0) & (rest < BELOW)).any()


def test_a_hidden_group_is_nowhere(tmp_path: Path) -> None:
    found = _audit([(60, 50), (40, 40), (30, 3)])
    found.save(tmp_path, suppress_below=BELOW)
    tables = _tables(tmp_path)
    for name, columns in (("intervals", ["value", "low"]), ("disparities", ["difference"])):
        rows = tables[name]
        assert rows[rows["group"].isin(["g=g1", "g=g2"])][columns].isna().all().all()
    assert tables["cells"].iloc[1:, 1:].isna().all().all()
    assert tables["worst"]["bound"].isna().all()
    content = json.loads((tmp_path / "report.json").read_text())
    assert content["warnings"][0].startswith("2 groups are hidden")
    assert not any("g=g2" in message for message in content["warnings"])
    assert content["settings"]["suppress_below"] == BELOW
    assert found.by_group.loc["g2", "n"] == 33  # the audit itself is as it was


def test_rows_without_a_group_are_a_part_of_the_total(tmp_path: Path) -> None:
    names = np.repeat(np.array(["a", "b", None], dtype=object), [40, 40, 4])
    y = np.arange(84) % 2
    with pytest.warns(UserWarning, match="4 of 84"):
        found = audit(y, y, sensitive_features={"g": names}, n_boot=9)
    found.save(tmp_path, ("json", "csv"), suppress_below=BELOW)
    assert len(_hidden(tmp_path)) == 1  # else 84 - 40 - 40 gives 4
    content = json.loads((tmp_path / "report.json").read_text())
    assert content["settings"]["n_unknown"] is None
    assert not any("4 of 84" in message for message in content["warnings"])


def _tradeoff() -> Tradeoff:
    names = np.repeat(["g0", "g1", "g2"], [200, 80, 33])
    y = np.arange(313) % 2
    y[-33:] = np.arange(33) < 3
    worse = np.where(names == "g2", 1 - y, y)
    return tradeoff({"unclipped": y, "cap": worse}, y, sensitive_features={"g": names}, n_boot=9)


def test_a_comparison_hides_the_same_groups(tmp_path: Path) -> None:
    _tradeoff().save(tmp_path, suppress_below=BELOW)
    tables = _tables(tmp_path)
    assert _hidden(tmp_path) == {"g1", "g2"}
    changes = tables["changes"]
    assert changes[changes["group"] == "g=g2"]["change"].isna().all()
    assert changes[changes["group"] == "g=g0"]["change"].notna().all()
    table = tables["tradeoff"].set_index("arm")
    assert table.loc["cap", ["worst_cell", "worst_cell_accuracy", "worst_cell_n"]].isna().all()
    assert np.isnan(at(table, "cap")["demographic_parity_difference"])
    messages = json.loads((tmp_path / "report.json").read_text())["warnings"]
    assert not any("g=g2" in message for message in messages)


def test_a_negative_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`suppress_below` must be 0 or more"):
        _audit([(20, 20), (20, 20)]).save(tmp_path / "new", suppress_below=-1)
    assert not (tmp_path / "new").exists()
