"""The README's table, in Markdown, from the results."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from tests.benchmarks._step_results import MEASURED_ONCE, Row, Setting

SETTINGS = ((2, "20"), (8, "40"), (16, "40"))  # groups, and the minority's share in percent
COLUMNS = ("exact", "floor", "lagged", "autograd loop", "TorchJD", "Opacus hooks")


def table(rows: Iterable[Row]) -> Iterator[str]:
    """Yield the lines of the table, and one that says what it was measured with."""
    settings: dict[Setting, dict[str, Row]] = {}
    for row in rows:
        settings.setdefault(row.setting, {})[row.arm] = row
    head = ["model", "K", "minority", "plain step", *COLUMNS, "peak memory"]
    yield _line(head)
    yield _line(["---"] * 3 + ["---:"] * (len(head) - 3))
    measured_with = set()
    for setting, measured in settings.items():
        if (setting.n_groups, setting.minority) not in SETTINGS:
            continue
        once = settings.get(replace(setting, minority=MEASURED_ONCE), {})
        arms, plain = once | measured, measured["plain"]
        measured_with.add((setting.device, plain.threads, plain.versions))
        yield _line(
            [
                setting.model,
                str(setting.n_groups),
                f"{setting.minority} %",
                f"{plain.plain_ms:.3g} ms",
                *(_ratio(arms[arm].wall if arm in arms else None) for arm in COLUMNS),
                _ratio(once["exact"].memory if "exact" in once else None),
            ]
        )
    yield ""
    for device, threads, versions in sorted(measured_with):
        yield f"Measured with {versions} on {device}, {threads} threads."


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}" if value < 10 else f"{value:.0f}"
