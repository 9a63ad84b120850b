import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairclip.comparison import Settings

NUMBERS = st.floats(min_value=1e-3, max_value=1e3)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@settings(derandomize=True, deadline=None, max_examples=50)
@given(
    target=TEXTS,
    positive=st.none() | TEXTS,
    max_ratio=st.lists(NUMBERS, min_size=1, unique_by="{:g}".format),
    quick=st.booleans(),
)
def test_toml_gives_the_settings_back(
    target: str, positive: str | None, max_ratio: list[float], quick: bool
) -> None:
    chosen = Settings(target=target, positive=positive, max_ratio=tuple(max_ratio), quick=quick)
    assert Settings(**tomllib.loads(chosen.to_toml())) == chosen


def test_flags_override_the_file(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('epochs = 7\nseeds = 4\nfloor = 0.5\nsensitive = ["a", "b"]\n')
    chosen = Settings.read(config, seeds=2)
    assert (chosen.epochs, chosen.seeds, chosen.floor) == (7, 2, 0.5)
    assert chosen.sensitive == ("a", "b")
    assert chosen.cap(3.0).floor == 0.5


def test_quick_changes_defaults_only() -> None:
    quick = Settings.of({"quick": True, "seeds": 9})
    assert (quick.seeds, quick.max_ratio) == (9, (2.0, 1.0))


def test_text_of_the_command_line_is_split() -> None:
    chosen = Settings.of({"max_ratio": "4, 2", "hidden": "8,4", "sensitive": "race, sex,,race"})
    assert (chosen.max_ratio, chosen.hidden, chosen.sensitive) == (
        (4.0, 2.0),
        (8, 4),
        ("race", "sex"),
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_ratio": 0}, "`max_ratio` must be positive"),
        ({"max_ratio": "-1"}, "`max_ratio` must be positive"),
        ({"max_ratio": "nan"}, "`max_ratio` must be positive"),
        ({"max_ratio": "two"}, "`max_ratio` must be numbers"),
        ({"max_ratio": [2, 2]}, "`max_ratio` needs different numbers"),
        ({"max_ratio": "inf"}, "`max_ratio` must be finite"),
        ({"seeds": 0}, "`seeds` must be at least 1"),
        ({"seeds": 1.5}, "`seeds` must be an integer"),
        ({"quick": "yes"}, "`quick` must be true or false"),
        ({"lr": 0}, "`lr` must be positive"),
        ({"hidden": "0"}, "`hidden` needs widths"),
        ({"groups": "rows"}, "`groups` must be one of cells, sensitive"),
        ({"groups": "sensitive", "within": "label"}, "`within='label'` needs cells"),
        ({"smoothing": 1}, "`smoothing` must be in"),
        ({"data": 5}, "`data` must be a file or the name of an embedded set, got 5"),
        ({"reference": True}, "`reference` must be minority, smallest_norm, or"),
        ({"sede": 3}, "There is no setting `sede`"),
    ],
)
def test_bad_values_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Settings.of(values)


def test_a_file_that_is_no_toml_is_named(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("epochs 7")
    with pytest.raises(ValueError, match="not valid TOML"):
        Settings.read(config)
