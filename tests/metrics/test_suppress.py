import json
from collections.abc import Iterator
from contextlib import nullcontext
from importlib import import_module
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fairclip.metrics import Audit, MetricsWarning, Tradeoff, audit, tradeoff

suppression: Any = import_module("fairclip.metrics._suppress")

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
    rows = _tables(folder)["rows"].set_index("group")
    return {str(group) for group in rows.index[rows["n"].isna()]}


@pytest.mark.parametrize(
    ("cells", "hidden"),
    [
        ([(50, 50), (40, 40), (30, 30)], set()),
        # One is small, so a second goes with it.
        ([(50, 50), (40, 40), (30, 3)], {"g=g2", "g=g1"}),
        ([(50, 50), (40, 4), (30, 3)], {"g=g2", "g=g1", "g=g0"}),  # 4 + 3 is a small cell as well
        ([(50, 50), (40, 9), (30, 3)], {"g=g2", "g=g1"}),
        ([(50, 50), (40, 40), (30, 0)], set()),  # no cell is not a small cell
        # Twelve groups of one row have no other way to share twelve rows.
        ([(50, 50), (40, 40), *[(0, 1)] * 12], {f"g=g{k}" for k in range(1, 14)}),
    ],
)
def test_small_cells_and_what_would_give_them_away_are_hidden(
    tmp_path: Path, cells: list[tuple[int, int]], hidden: set[str]
) -> None:
    _audit(cells).save(tmp_path, ("csv", "json"), suppress_below=BELOW)
    assert _hidden(tmp_path) == hidden


@pytest.mark.parametrize("cells", [[(50, 3)], [(1, 0), (0, 1)]])
def test_what_the_totals_give_away_cannot_be_hidden(
    tmp_path: Path, cells: list[tuple[int, int]]
) -> None:
    with pytest.raises(ValueError, match="can hide nothing here: the totals alone"):
        _audit(cells).save(tmp_path / "new", suppress_below=BELOW)
    assert not (tmp_path / "new").exists()


@settings(derandomize=True, deadline=None, max_examples=15)
@given(cells=st.lists(st.tuples(*[st.integers(0, 40)] * 2), min_size=2, max_size=5))
def test_no_small_cell_is_shown_or_left_over(
    tmp_path_factory: pytest.TempPathFactory, cells: list[tuple[int, int]]
) -> None:
    present = [cell for cell in cells if sum(cell)]
    assume(len(present) > 1 and all(np.sum(present, axis=0) > 0))
    folder = tmp_path_factory.mktemp("audit")
    _audit(present).save(folder, ("csv",), suppress_below=BELOW)
    rows = _tables(folder)["rows"].iloc[1:]  # the first is of all
    shown = rows.dropna(subset=["n"])[["y=0", "y=1"]].to_numpy()
    assert not ((shown > 0) & (shown < BELOW)).any()
    rest = np.array(present).sum(0) - shown.sum(0)
    n_hidden = len(present) - len(shown)
    if 0 < n_hidden < len(present):
        assert n_hidden > 1
        assert not ((rest > 0) & (rest < BELOW)).any()


def _right(y_true: Any, y_pred: Any, sample_weight: Any = None) -> float:
    return float(np.average(y_true == y_pred, weights=sample_weight))


class _Table:
    """Rows of each label in each group, the last of them without a group."""

    def __init__(self, cells: list[list[int]], seed: int) -> None:
        self.cells = np.array(cells)
        k, c = self.cells.shape
        rng = np.random.default_rng(seed)
        part, label = np.indices(self.cells.shape)
        order = rng.permutation(int(self.cells.sum()))
        self.part = np.repeat(part.ravel(), self.cells.ravel())[order]
        self.label = np.repeat(label.ravel(), self.cells.ravel())[order]
        self.prediction = rng.integers(0, c, len(order))
        self.score = rng.integers(0, 11, len(order)) / 10
        self.weight = rng.choice([1.0, 2.5], len(order))
        self.names = [f"g={i}" for i in range(k - 1)]

    def features(self, part: NDArray[np.int64] | None = None) -> dict[str, Any]:
        names = np.array([*(str(i) for i in range(len(self.names))), None], dtype=object)
        return {"g": names[self.part if part is None else part]}

    def audit(self, task: str, part: NDArray[np.int64] | None = None) -> Audit:
        is_label = task != "regression"
        return audit(
            self.label if is_label else self.label + self.score,
            self.prediction if is_label else self.prediction + self.score**2,
            sensitive_features=self.features(part),
            y_score=self.score if task == "binary" else None,
            sample_weight=self.weight,
            metrics={"right": _right},
            task=task,
            n_boot=30,
            min_group_size=3,
            reference="g=0",  # without one, whether the largest group is hidden is published
        )

    def tradeoff(self, task: str, part: NDArray[np.int64] | None = None) -> Tradeoff:
        arms: dict[str, Any] = {"unclipped": self.prediction, "cap": np.roll(self.prediction, 1)}
        scores = {"unclipped": self.score, "cap": np.roll(self.score, 1)}
        return tradeoff(
            arms,
            self.label,
            sensitive_features=self.features(part),
            y_scores=scores if task == "binary" else None,
            sample_weight=self.weight,
            task=task,
            n_boot=30,
            min_group_size=3,
            reference="g=0",
        )


@st.composite
def tables(draw: st.DrawFn, most: int = 6) -> tuple[str, _Table]:
    task = draw(st.sampled_from(["binary", "multiclass", "regression"]))
    c = {"binary": 2, "multiclass": 3, "regression": 1}[task]
    k = draw(st.integers(2, 4))
    count = st.one_of(st.integers(0, 3), st.integers(0, most))
    cells = draw(st.lists(st.lists(count, min_size=c, max_size=c), min_size=k + 1, max_size=k + 1))
    kept = [cell for cell in cells[:-1] if sum(cell)]
    found = [*kept, cells[-1]]
    assume(len(kept) > 1 and np.array(found).sum(0).min() > 0)
    assume(len(kept) <= max(2, np.sum(kept) / 2))  # more would be taken for an identifier
    return task, _Table(found, draw(st.integers(0, 2**32 - 1)))


def _can_hide(cells: NDArray[np.int64], below: int) -> bool:
    is_hidden = _hidden_parts(cells, below)
    return is_hidden is not None and bool(is_hidden.any())


def _hidden_parts(cells: NDArray[np.int64], below: int) -> NDArray[np.bool_] | None:
    try:
        return np.asarray(suppression.hidden_parts(cells, below))
    except ValueError:
        return None  # the totals give the rows away, and nothing is written


def _others(
    parts: int, totals: NDArray[np.int64], label: int, true: NDArray[np.int64]
) -> Iterator[NDArray[np.int64]]:
    """Yield every table (parts, C) with these totals, those nearest to the true one first.

    The rows of `label` vary fastest.
    """
    ways = []
    for c, total in enumerate(totals):
        ends = list(combinations(range(total + parts - 1), parts - 1))
        edges = np.pad(
            np.array(ends), ((0, 0), (1, 1)), constant_values=((0, 0), (-1, total + parts - 1))
        )
        splits = np.diff(edges, axis=1) - 1
        ways.append(splits[np.abs(splits - true[:, c]).sum(1).argsort(kind="stable")])
    order = [c for c in range(len(totals)) if c != label] + [label]
    for chosen in product(*(ways[c] for c in order)):
        cells = np.empty((parts, len(totals)), dtype=np.int64)
        for c, column in zip(order, chosen, strict=True):
            cells[:, c] = column
        yield cells


@pytest.mark.parametrize("below", [2, 3])
@settings(derandomize=True, deadline=None, max_examples=20)
@given(drawn=tables())
def test_no_hidden_count_is_the_only_possible_one(
    tmp_path_factory: pytest.TempPathFactory,
    below: int,
    drawn: tuple[str, _Table],
) -> None:
    """Every table of counts that fits what is published is tried, until one differs."""
    task, table = drawn
    assume(_can_hide(table.cells, below))
    folder = tmp_path_factory.mktemp("audit")
    _quietly(table.audit, task).save(folder, ("csv", "json"), suppress_below=below)
    published = _tables(folder)
    setting = json.loads((folder / "report.json").read_text())["settings"]
    rows: Any = published["rows"].set_index("group")
    labels = [name for name in rows.columns if str(name).startswith("y=")] or ["n"]
    n_unknown = setting["n_unknown"]
    is_hidden = np.array([bool(np.isnan(rows["n"][g])) for g in table.names] + [n_unknown is None])
    assert is_hidden.any()
    assert published["gaps"].drop(columns="gap").isna().all().all()
    assert published["worst"].drop(columns="figure").isna().all().all()
    shown = rows.loc[[g for g, hide in zip(table.names, is_hidden, strict=False) if not hide]]
    # Of unknown rows that are not hidden the labels are not published: grant them.
    unknown = 0 if n_unknown is None else table.cells[-1]
    totals = rows.loc["overall", labels].to_numpy() - shown[labels].sum().to_numpy() - unknown
    true = table.cells[is_hidden]
    np.testing.assert_array_equal(totals, true.sum(0))
    for k, c in np.argwhere((true > 0) & (true < below)):
        assert any(
            cells[k, c] != true[k, c] and cells.sum(1).all()  # a group without rows is shown
            for cells in _others(len(true), totals.astype(np.int64), int(c), true)
        ), (true, k, c)


def _quietly(build: Any, *arguments: Any) -> Any:
    with pytest.warns(MetricsWarning) if build.__self__.cells[-1].any() else nullcontext():
        return build(*arguments)


@pytest.mark.parametrize("kind", ["audit", "tradeoff"])
@settings(derandomize=True, deadline=None, max_examples=20)
@given(drawn=tables(most=30), seed=st.integers(0, 2**32 - 1))
def test_files_are_the_same_whoever_has_the_hidden_rows(
    tmp_path_factory: pytest.TempPathFactory, kind: str, drawn: tuple[str, _Table], seed: int
) -> None:
    """So nothing in them tells the tables apart that share totals and shown groups."""
    task, table = drawn
    assume(kind == "audit" or task != "regression")
    is_hidden = _hidden_parts(table.cells, 3)
    assume(is_hidden is not None and is_hidden.any())
    moved = np.asarray(is_hidden)[table.part]
    rng = np.random.default_rng(seed)
    part, cells = table.part.copy(), table.cells
    for _ in range(20):
        part[moved] = rng.choice(np.unique(table.part[moved]), int(moved.sum()))
        cells = np.zeros_like(table.cells)
        np.add.at(cells, (part, table.label), 1)
        if (cells != table.cells).any() and np.array_equal(_hidden_parts(cells, 3), is_hidden):  # type: ignore[arg-type]
            break
    else:
        assume(False)
    folder = tmp_path_factory.mktemp(kind)
    build = getattr(table, kind)
    for name, arguments in (("first", (task,)), ("second", (task, part))):
        _quietly(build, *arguments).save(folder / name, ("csv", "json", "md"), suppress_below=3)
    for path in sorted((folder / "first").iterdir()):
        assert path.read_text() == (folder / "second" / path.name).read_text(), path.name


def test_the_page_is_the_same_whoever_has_the_hidden_rows(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y, p, score = rng.integers(0, 2, 400), rng.integers(0, 2, 400), rng.random(400)
    names = np.repeat(["a", "b", "c", "d", "e"], [180, 150, 12, 8, 50])
    moved = np.isin(names, ["c", "d"])
    y[moved] = np.arange(20) % 2
    y[names == "e"] = np.arange(50) % 2
    pages = []
    for hidden in (names[moved], names[moved][::-1], rng.permutation(names[moved])):
        g = names.copy()
        g[moved] = hidden
        found = audit(y, p, sensitive_features={"g": g}, y_score=score, n_boot=99)
        path = found.save(tmp_path, ("html",), suppress_below=BELOW)["report.html"]
        pages.append(path.read_text())
    assert pages[0] == pages[1] == pages[2]
    assert "<svg" in pages[0]
    assert "2 groups are hidden" in pages[0]


def test_a_hidden_group_is_nowhere(tmp_path: Path) -> None:
    found = _audit([(60, 50), (40, 40), (30, 3)])
    found.save(tmp_path, suppress_below=BELOW)
    tables = _tables(tmp_path)
    for name, columns in (("intervals", ["value", "low"]), ("disparities", ["difference"])):
        found_ = tables[name]
        assert found_[found_["group"].isin(["g=g1", "g=g2"])][columns].isna().all().all()
    shown = tables["intervals"].query("group == 'g=g0'")
    assert shown[["value", "low"]].notna().all().all()
    rows: Any = tables["rows"].set_index("group")
    assert rows.loc[["g=g1", "g=g2"]].isna().all().all()
    assert rows.loc["g=g0", ["n", "y=0", "y=1"]].tolist() == [110, 60, 50]
    content = json.loads((tmp_path / "report.json").read_text())
    assert content["warnings"][0].startswith("2 groups are hidden")
    assert not any("g=g" in message for message in content["warnings"])
    assert content["settings"]["suppress_below"] == BELOW
    assert content["settings"]["data_sha256"] is None
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


def test_curves_are_left_out_whoever_is_hidden(tmp_path: Path) -> None:
    y = np.arange(200) % 2
    score = np.linspace(0, 1, 200)
    found = audit(y, y, sensitive_features={"g": np.arange(200) // 100}, y_score=score, n_boot=9)
    assert {"sweep", "calibration"} <= {path.stem for path in _csv(found, tmp_path / "all")}
    kept = {path.stem for path in _csv(found, tmp_path / "some", suppress_below=BELOW)}
    assert not {"sweep", "calibration"} & kept


def _csv(found: Audit, folder: Path, **options: Any) -> list[Path]:
    return list(found.save(folder, ("csv",), **options).values())


def test_a_comparison_hides_the_same_groups(tmp_path: Path) -> None:
    names = np.repeat(["g0", "g1", "g2"], [200, 80, 33])
    y = np.arange(313) % 2
    y[-33:] = np.arange(33) < 3
    arms = {"unclipped": y, "cap": np.where(names == "g2", 1 - y, y)}
    found = tradeoff(arms, y, sensitive_features={"g": names}, n_boot=9)
    found.save(tmp_path, suppress_below=BELOW)
    tables = _tables(tmp_path)
    assert _hidden(tmp_path) == {"g=g1", "g=g2"}
    changes = tables["changes"]
    assert changes[changes["group"] == "g=g2"]["change"].isna().all()
    assert changes[changes["group"] == "g=g0"]["change"].notna().all()
    table = tables["tradeoff"].set_index("arm")
    assert "pareto" not in table
    made_of_all = [c for c in map(str, table) if c[:5] == "worst" or c.endswith("_difference")]
    assert len(made_of_all) == 7
    assert table[made_of_all].isna().all().all()
    assert table["accuracy"].notna().all()
    messages = json.loads((tmp_path / "report.json").read_text())["warnings"]
    assert not any("g=g" in message for message in messages)


def test_a_negative_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`suppress_below` must be 0 or more"):
        _audit([(20, 20), (20, 20)]).save(tmp_path / "new", suppress_below=-1)
    assert not (tmp_path / "new").exists()


def test_a_hidden_group_leaves_no_difference_and_is_hidden_once() -> None:
    hidden = _audit([(60, 50), (40, 40), (30, 3)]).suppress(BELOW)
    assert hidden.difference().isna().all()
    assert hidden.group_min().isna().all()
    with pytest.raises(ValueError, match="hidden already"):
        hidden.suppress(20)
    with pytest.raises(ValueError, match="hidden already"):
        hidden.save("unused", suppress_below=20)


def test_hidden_groups_do_not_all_lack_a_label() -> None:
    hidden = suppression.hidden_parts(np.array([(50, 50), (40, 40), (6, 0), (7, 0), (0, 0)]), BELOW)
    assert hidden.tolist() == [False, True, True, True, False]
