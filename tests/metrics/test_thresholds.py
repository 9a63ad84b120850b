from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fairclip.metrics import Audit, audit
from tests.metrics._properties import at

thresholds: Any = import_module("fairclip.metrics._report._thresholds")
read_thresholds, compare = thresholds.read_thresholds, thresholds.compare
suppress: Any = import_module("fairclip.metrics._suppress").suppress

_ENTRY = """
[[threshold]]
name = "own"
source = "A house rule."
url = "https://example.org"
text_date = 2026-01-02
checked = 2026-01-03
figure = "tpr"
comparison = "value"
value = 0.5
"""


def _audit(sizes: dict[str, tuple[int, int]]) -> Audit:
    """Audit groups of which some rows are selected: {name: (selected, rows)}."""
    groups = np.repeat(list(sizes), [n for _, n in sizes.values()])
    selected = np.concatenate([np.arange(n) < k for k, n in sizes.values()]).astype(int)
    y = np.tile([0, 1], len(selected))[: len(selected)]
    return audit(y, selected, sensitive_features={"g": groups}, n_boot=9)


def test_the_file_is_dated_and_sourced() -> None:
    four_fifths, local_law = read_thresholds()
    assert (four_fifths.value, four_fifths.figure) == (0.8, "selection_rate")
    assert local_law.value is None  # the rules name none
    assert local_law.min_share == 0.02
    for threshold in (four_fifths, local_law):
        assert threshold.url.startswith("https://")
        assert threshold.text_date < threshold.checked


def test_the_word_rests_on_the_interval_of_the_ratio() -> None:
    found = _audit(
        {"high": (500, 1000), "low": (300, 1000), "near": (410, 1000), "as": (490, 1000)}
    )
    table = compare(found, read_thresholds()).loc["Four-fifths rule"]
    assert table["word"].to_dict() == {
        "g=high": "not below",
        "g=low": "below threshold",
        "g=near": "insufficient data",
        "g=as": "not below",
    }
    assert at(table, "g=low")["compared"] == pytest.approx(0.6)
    assert at(table, "g=high")[["compared", "low", "high"]].tolist() == [1, 1, 1]
    near = at(table, "g=near")
    assert near["low"] < 0.8 < near["high"]


def test_small_groups_have_no_word_and_are_not_the_highest() -> None:
    found = _audit({"tiny": (10, 10), "a": (500, 1000), "b": (495, 1000)})
    four_fifths, local_law = (
        compare(found, read_thresholds()).loc[t.name] for t in read_thresholds()
    )
    assert at(four_fifths, "g=tiny")["word"] == "insufficient data"
    assert np.isnan(at(four_fifths, "g=tiny")["compared"])
    assert at(four_fifths, "g=a")["compared"] == 1
    assert at(four_fifths, "g=b")["word"] == "not below"
    assert np.isnan(at(local_law, "g=tiny")["compared"])  # 10 of 2,010 rows
    assert at(local_law, "g=tiny")["figure"] == 1  # the rate is shown all the same
    assert local_law["word"].isna().all()


def test_undefined_ratios_are_insufficient_data() -> None:
    table = compare(_audit({"a": (0, 100), "b": (0, 100)}), read_thresholds())
    assert set(table.loc["Four-fifths rule"]["word"]) == {"insufficient data"}


def test_hidden_groups_are_not_compared() -> None:
    found = _audit({"a": (40, 100), "b": (50, 100), "c": (6, 7), "d": (5, 8)})
    table = compare(suppress(found, 5), read_thresholds())
    assert set(table.index.unique("group")) == {"g=a", "g=b"}


def test_an_own_file_compares_the_figure_itself(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(_ENTRY, encoding="utf-8")
    found = _audit({"a": (950, 1000), "b": (100, 1000), "c": (500, 1000)})
    table = compare(found, read_thresholds(tmp_path / "own.toml")).loc["own"]
    assert table["word"].tolist() == ["not below", "below threshold", "insufficient data"]
    expected = found.by_group["tpr"].tolist()
    assert table["compared"].tolist() == expected


def test_figures_that_the_audit_lacks_are_left_out() -> None:
    numbers = audit([0.5, 1.0, 2.0], [1.0, 1.0, 1.0], sensitive_features=["a", "a", "b"], n_boot=9)
    assert compare(numbers, read_thresholds()).empty


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"must hold \[\[threshold\]\] entries"),
        ("[threshold]\nname = 'a'\n", r"must hold \[\[threshold\]\] entries"),
        (f"x = 1\n{_ENTRY}", r"must hold \[\[threshold\]\] entries"),
        ("a = [", "is not TOML"),
        (_ENTRY + "extra = 1\n", r"entry 1 of .*unknown fields \['extra'\]"),
        (_ENTRY.replace('url = "https://example.org"\n', ""), r"lacks the fields \['url'\]"),
        (_ENTRY + _ENTRY, "two entries of one name"),
        (_ENTRY.replace('"value"\n', '"ratio"\n'), "`comparison` must be one of"),
        (_ENTRY.replace("0.5", '"0.5"'), "`value` must be a number, got '0.5'"),
        (_ENTRY.replace("0.5", "nan"), "`value` must be a number, got nan"),
        (_ENTRY.replace("2026-01-02", '"soon"'), "`text_date` must be a date"),
        (_ENTRY + "min_share = 2\n", r"`min_share` must be a share in \[0, 1\], got 2"),
        (_ENTRY + "min_rows = 1.5\n", "`min_rows` must be a count, got 1.5"),
        (_ENTRY.replace('"own"', '""'), "`name` must be a text"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "own.toml").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=f"`thresholds`.*{message}"):
        read_thresholds(tmp_path / "own.toml")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`thresholds` must be a file, cannot read"):
        read_thresholds(tmp_path / "none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="is not TOML"):
        read_thresholds(tmp_path / "bytes.toml")


def test_an_entry_cannot_be_changed() -> None:
    threshold = read_thresholds()[0]
    assert isinstance(threshold, thresholds.Threshold)
    with pytest.raises(AttributeError):
        threshold.value = 0.5
