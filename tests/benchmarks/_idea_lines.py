"""The lines of docs/ideas.md, from the table of all runs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TypeAlias

import pandas as pd

from tests.benchmarks._idea_gains import VIEWS, Gain, area, gain, pooled, start_of
from tests.benchmarks._idea_rules import rules

_WORDS = ("kept", "open", "dropped")
# On one table: by rule, for each view the areas by seed.
_Areas: TypeAlias = Mapping[str, Sequence["pd.Series[float]"]]


@dataclass(frozen=True)
class Result:
    """What one form of an idea gains over one rule that there is.

    Attributes:
        idea: What it is a form of.
        form: Name of the rule.
        against: Name of the other.
        gains: Of each view, on each table.
        overall: Of each view, over the tables.
    """

    idea: str
    form: str
    against: str
    gains: Sequence[Sequence[Gain]]
    overall: Sequence[Gain]

    @property
    def word(self) -> str:
        """Return "kept", "dropped" or "open".

        Kept: a gain in a view, on each table and with an interval over all tables above 0, and no
        loss in the other. Dropped: a loss in a view, with an interval below 0, or no gain in any.
        """
        if any(g.high < 0 for g in self.overall) or all(g.mean <= 0 for g in self.overall):
            return "dropped"
        for overall, each in zip(self.overall, self.gains, strict=True):
            if overall.low > 0 and all(g.mean > 0 for g in each):
                return "kept"
        return "open"

    def __str__(self) -> str:
        parts = [
            f"{view.name} {overall}, more on {sum(g.mean > 0 for g in each)} of {len(each)} tables"
            for view, overall, each in zip(VIEWS, self.overall, self.gains, strict=True)
        ]
        return f"against `{self.against}` {'; '.join(parts)}"


@dataclass(frozen=True)
class Form:
    """One form of an idea, with all that it is measured against."""

    name: str
    results: Sequence[Result]

    @property
    def word(self) -> str:
        """Return the worst of the results' words."""
        return max((result.word for result in self.results), key=_WORDS.index)

    @property
    def least_gain(self) -> float:
        """Return the gain over the rule that does best, both views added."""
        return min(sum(g.mean for g in result.overall) for result in self.results)

    def __str__(self) -> str:
        return (
            f"`{self.name}`: {'. '.join(map(str, self.results)).replace('. against', '. Against')}."
        )


def _results(tables: Mapping[str, _Areas]) -> list[Result]:
    found = []
    for idea, form, against in _compared():
        there = [t for t in tables.values() if {form, against} <= set(t)]
        if not there:
            continue
        gains = [[gain(t[form][v], t[against][v]) for t in there] for v in range(len(VIEWS))]
        found.append(Result(idea, form, against, gains, [pooled(g) for g in gains]))
    return sorted(found, key=lambda result: result.idea)


def lines(runs: pd.DataFrame) -> Iterator[str]:
    """Yield a line for each idea, one for each of its forms, and the areas on each table."""
    tables = _tables(runs)
    found = _results(tables)
    for idea, of_idea in groupby(found, key=lambda result: result.idea):
        by_name = groupby(sorted(of_idea, key=lambda r: r.form), key=lambda r: r.form)
        forms = [Form(name, list(of_form)) for name, of_form in by_name]
        best = min(forms, key=lambda form: (_WORDS.index(form.word), -form.least_gain))
        yield f"- **{idea}: {best.word}.** {best}"
    yield ""
    views = [f"{view.name}, {what}" for view in VIEWS for what in ("all tables", "each table")]
    yield from _table_head(["form", "against", "result", *views])
    for result in found:
        cells = [
            cell
            for overall, each in zip(result.overall, result.gains, strict=True)
            for cell in (str(overall), ", ".join(f"{g.mean:+.1f}" for g in each))
        ]
        yield _row([result.form, result.against, result.word, *cells])
    yield ""
    yield from _areas(tables)
    yield ""
    for name, table in tables.items():
        yield f"- {name}: {len(table['unclipped'][0])} seeds."


def _tables(runs: pd.DataFrame) -> dict[str, _Areas]:
    tables: dict[str, _Areas] = {}
    for setting, rows in runs.groupby("setting"):
        of_rule = {str(name): of_name for name, of_name in rows.groupby("rule", sort=False)}
        few = {n: pd.concat([of_rule[m] for m in {n, start_of(n)}]) for n in of_rule}
        tables[str(setting)] = {n: [area(few[n], n, view) for view in VIEWS] for n in few}
    return tables


def _compared() -> Iterator[tuple[str, str, str]]:
    """Yield idea, form and what it is measured against."""
    for rule in rules():
        for against in rule.against:
            yield rule.idea, rule.name, against
        if rule.then_cut:
            for against in ("threshold", rule.name):
                yield "a cap followed by thresholds", rule.then_cut, against


def _areas(tables: Mapping[str, _Areas]) -> Iterator[str]:
    """Yield what each rule gains over no intervention."""
    yield from _table_head(["rule", *(f"{name}: {view.name}" for name in tables for view in VIEWS)])
    for name in dict.fromkeys(name for table in tables.values() for name in table):
        if name != start_of(name):
            cells = [
                f"{(t[name][v] - t[start_of(name)][v]).mean():+.1f}" if name in t else ""
                for t in tables.values()
                for v in range(len(VIEWS))
            ]
            yield _row([name, *cells])


def _table_head(names: Sequence[str]) -> Iterator[str]:
    yield _row(names)
    yield _row(["---"] * len(names))


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
