import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator, ValidationError

import fairclip
from fairclip.metrics import Report, Section, audit, report_schema, tradeoff
from tests.comparison._inputs import TINY, loans
from tests.metrics._inputs import table_sample


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    Draft202012Validator.check_schema(report_schema())
    return Draft202012Validator(report_schema())


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Save a report of each kind and read it again."""
    folder = tmp_path_factory.mktemp("reports")
    sample = table_sample(600)
    of_one = audit(
        sample.y_true,
        sample.y_pred,
        sensitive_features=sample.features,
        y_score=sample.y_score,
        n_boot=99,
    )
    of_two = tradeoff(
        {"unclipped": sample.y_pred, "constant": 0 * sample.y_pred},
        sample.y_true,
        sensitive_features=sample.features,
        n_boot=99,
    )
    classes = np.array(["cat", "dog", "emu"])[np.arange(600) % 3]
    of_classes = audit(classes, np.roll(classes, 1), sensitive_features=sample.features, n_boot=99)
    of_numbers = audit(
        sample.y_score, sample.y_score**2, sensitive_features=sample.features, n_boot=99
    )
    paths = {
        "classes": of_classes.save(folder / "classes", ("json",)),
        "numbers": of_numbers.save(folder / "numbers", ("json",)),
        "audit": of_one.save(folder / "audit", ("json",)),
        "suppressed": of_one.save(folder / "suppressed", ("json",), suppress_below=10),
        "tradeoff": of_two.save(folder / "tradeoff", ("json",)),
        "bare": Report("t", "l", (Section("s", ("Words.",)),), {}).save(folder, ("json",)),
    }
    of_runs = fairclip.compare(loans(200), jobs=1, **TINY | {"seeds": 1, "max_ratio": 2.0}).report
    paths["comparison"] = of_runs.save(folder / "comparison", ("json",))
    return {kind: json.loads(Path(p["report.json"]).read_text()) for kind, p in paths.items()}


KINDS = ("audit", "suppressed", "classes", "numbers", "tradeoff", "comparison", "bare")


@pytest.mark.parametrize("kind", KINDS)
def test_a_report_follows_the_schema(
    kind: str, contents: dict[str, dict[str, Any]], validator: Draft202012Validator
) -> None:
    content = contents[kind]
    validator.validate(content)
    assert content["$schema"] == report_schema()["$id"]
    for table in content["tables"]:  # what the schema only says in words
        assert {len(row) for row in table["rows"]} <= {len(table["columns"])}
    names = [table["name"] for table in content["tables"] if table["name"]]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("schema_version",), 2),
        (("$schema",), "https://example.org"),
        (("title",), None),
        (("warnings",), "a sentence"),
        (("warnings",), [1]),
        (("settings", "confidence"), 95),
        (("settings", "n_rows"), -1),
        (("settings", "n_rows"), 1.5),
        (("settings", "data_sha256"), "abc"),
        (("settings", "versions"), {"python": "3.11"}),
        (("sections", 0, "sentences"), [None]),
        (("tables", 0, "name"), "../x"),
        (("tables", 0, "columns"), [1]),
        (("tables", 0, "rows", 0, 0), {"value": 1}),
    ],
)
def test_a_broken_report_does_not(
    path: tuple[str | int, ...],
    value: Any,
    contents: dict[str, dict[str, Any]],
    validator: Draft202012Validator,
) -> None:
    content: Any = copy.deepcopy(contents["audit"])
    part = content
    for step in path[:-1]:
        part = part[step]
    part[path[-1]] = value
    with pytest.raises(ValidationError):
        validator.validate(content)


@pytest.mark.parametrize("key", ["$schema", "schema_version", "title", "lead", "tables"])
def test_a_report_that_lacks_a_field_does_not(
    key: str, contents: dict[str, dict[str, Any]], validator: Draft202012Validator
) -> None:
    content = {name: value for name, value in contents["tradeoff"].items() if name != key}
    with pytest.raises(ValidationError):
        validator.validate(content)


def test_the_schema_says_what_every_field_is(contents: dict[str, dict[str, Any]]) -> None:
    schema = report_schema()
    undescribed = [
        name
        for name, field in _fields(schema)
        if "description" not in field and "$ref" not in field
    ]
    assert undescribed == []
    top = {key for content in contents.values() for key in content}
    assert top <= set(schema["properties"])
    for kind in ("audit", "suppressed", "tradeoff"):
        assert set(contents[kind]["settings"]) <= set(
            schema["$defs"]["audit_settings"]["properties"]
        )


def _fields(part: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(part, dict):
        yield from part.get("properties", {}).items()
        yield from part.get("$defs", {}).items()
        for value in part.values():
            yield from _fields(value)
