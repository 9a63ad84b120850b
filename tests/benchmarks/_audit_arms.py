"""The data of the audit benchmark, and what is measured on it; each runs in a process of its own.

Heavy imports are inside the functions: they are no part of a time, but of the peak memory of what
needs them.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

Times = dict[str, float]

FEWER = 1_000_000  # rows of which MetricFrame makes the figures within a minute or two
SMALL = 20_000  # and draws a hundred times
REPLICATES = 10_000
_ROWS_AT_ONCE = 1_000_000
_SENSITIVE = ["sex", "region"]
_COLUMNS: dict[str, Any] = {"y_true": "y", "y_pred": "y_hat", "sensitive_features": _SENSITIVE}
_GROUP_BY = """
    SELECT sex, region, y AS y_true, y_hat AS y_pred, COUNT(*) AS n FROM '{path}' GROUP BY ALL
"""


def write_data(path: Path, n_rows: int, n_groups: int) -> None:
    """Write rows with two sensitive columns of text, labels, predictions and scores."""
    import numpy as np
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    rng = np.random.default_rng(0)
    levels = {"sex": ["female", "male"], "region": [f"region {i}" for i in range(n_groups // 2)]}
    schema = pa.schema(
        [
            *((name, pa.string()) for name in levels),
            ("y", pa.int64()),
            ("y_hat", pa.int64()),
            ("score", pa.float64()),
        ]
    )
    with ParquetWriter(path, schema) as file:
        for start in range(0, n_rows, _ROWS_AT_ONCE):
            n = min(_ROWS_AT_ONCE, n_rows - start)
            codes = {name: rng.integers(0, len(values), n) for name, values in levels.items()}
            truth = (rng.random(n) < 0.2 + 0.1 * codes["sex"]).astype(np.int64)
            score = 1 / (1 + np.exp(-rng.normal(2.0 * truth - 1.5, 1.0)))
            text = {name: np.array(levels[name])[code] for name, code in codes.items()}
            columns = text | {"y": truth, "y_hat": (score > 0.5).astype(np.int64), "score": score}
            file.write_table(pa.table(columns, schema=schema))


def count_and_audit(path: Path) -> Times:
    """Count the rows in one pass, and audit the counts."""
    from fairclip.metrics import CellCounts, audit_counts

    times: Times = {}
    with _timed(times, "pass"):
        counts = CellCounts.read(path, **_COLUMNS)
    with _timed(times, "audit"):
        audit_counts(counts, n_boot=REPLICATES)
    return times


def group_by_and_audit(path: Path) -> Times:
    """Let DuckDB count the rows, and audit the counts."""
    import duckdb

    from fairclip.metrics import audit_counts

    times: Times = {}
    with _timed(times, "pass"):
        counts = duckdb.execute(_GROUP_BY.format(path=path)).df()
    with _timed(times, "audit"):
        audit_counts(counts, n_boot=REPLICATES)
    return times


def replicate_cells(path: Path) -> Times:
    """Draw the cells of the counts anew, with the figures of all rows and each group every time."""
    import numpy as np

    from fairclip.metrics import CellCounts

    counts = CellCounts.read(path, **_COLUMNS).to_frame()
    tally = counts.pivot_table("n", _SENSITIVE, ["y_true", "y_pred"], "sum", fill_value=0)
    return _replicates(tally.to_numpy(np.float64).reshape(-1, 2, 2))


def audit_labels(path: Path) -> Times:
    """Audit a table in memory."""
    return _audit(_read(path), scores=False)


def audit_scores(path: Path) -> Times:
    """Audit a table in memory with scores."""
    return _audit(_read(path), scores=True)


def audit_few(path: Path) -> Times:
    """Audit the first rows, and draw their cells anew."""
    import numpy as np

    frame = _read(path, SMALL)
    counts = frame.groupby([*_SENSITIVE, "y", "y_hat"], observed=False).size()
    return _audit(frame, scores=False) | _replicates(counts.to_numpy(np.float64).reshape(-1, 2, 2))


def metric_frame(path: Path) -> Times:
    """Give the same figures of fewer rows to MetricFrame, without intervals."""
    times: Times = {}
    frame = _read(path, FEWER)
    _metric_frame(frame[:1000], None)  # whatever it imports late
    with _timed(times, "audit"):
        _metric_frame(frame, None)
    return times


def metric_frame_few(path: Path, n_boot: int) -> Times:
    """Give the first rows to MetricFrame, with intervals."""
    times: Times = {}
    frame = _read(path, SMALL)
    _metric_frame(frame[:1000], None)
    with _timed(times, "audit"):
        _metric_frame(frame, n_boot)
    return times


ARMS: dict[str, Callable[..., Times]] = {
    arm.__name__: arm
    for arm in (
        count_and_audit,
        group_by_and_audit,
        replicate_cells,
        audit_labels,
        audit_scores,
        metric_frame,
        audit_few,
        metric_frame_few,
    )
}


@contextmanager
def _timed(times: Times, part: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    times[part] = time.perf_counter() - start


def _read(path: Path, n_rows: int | None = None) -> "pd.DataFrame":
    """Read the table as someone does who spares memory: text as categories, part by part."""
    import pandas as pd
    from pyarrow.parquet import ParquetFile

    with ParquetFile(path, read_dictionary=_SENSITIVE) as file:
        if n_rows is not None:
            frame: pd.DataFrame = next(file.iter_batches(n_rows)).to_pandas()
        else:
            frame = file.read().unify_dictionaries().to_pandas(self_destruct=True)
        return frame


def _audit(frame: "pd.DataFrame", *, scores: bool) -> Times:
    from fairclip.metrics import audit

    times: Times = {}
    with _timed(times, "audit"):
        audit(
            frame["y"],
            frame["y_hat"],
            sensitive_features=frame[_SENSITIVE],
            y_score=frame["score"] if scores else None,
            n_boot=REPLICATES,
        )
    return times


def _replicates(counts: "np.ndarray[Any, Any]") -> Times:
    """Draw cells (K, 2, 2) and make the figures of each draw."""
    import numpy as np

    bootstrap: Any = import_module("fairclip.metrics._bootstrap")
    rates: Any = import_module("fairclip.metrics._rates")
    times: Times = {}
    with _timed(times, "replicates"):
        drawn = bootstrap.cell_replicates(counts.ravel(), REPLICATES, np.random.default_rng(0))
        cells = drawn.reshape(-1, *counts.shape)
        cells = np.concatenate([cells.sum(1, keepdims=True), cells], axis=1)
        tally = rates.Tally(cells, cells, cells)
        figures = [rates.share(tally, rate).value for rate in rates.RATES]
        figures.append(rates.balanced_accuracy(tally))
        np.nanquantile(figures, [0.025, 0.975], axis=1)
    return times


def _base_rate(y_true: "np.ndarray[Any, Any]", _: object) -> float:
    return float(y_true.mean())


def _metric_frame(frame: "pd.DataFrame", n_boot: int | None) -> None:
    from fairlearn import metrics as fairlearn
    from sklearn import metrics as sklearn

    found = fairlearn.MetricFrame(
        metrics={
            "base_rate": _base_rate,
            "accuracy": sklearn.accuracy_score,
            "balanced_accuracy": sklearn.balanced_accuracy_score,
            "selection_rate": fairlearn.selection_rate,
            "tpr": fairlearn.true_positive_rate,
            "fpr": fairlearn.false_positive_rate,
            "fnr": fairlearn.false_negative_rate,
            "precision": sklearn.precision_score,
        },
        y_true=frame["y"],
        y_pred=frame["y_hat"],
        sensitive_features=frame[_SENSITIVE],
        **({} if n_boot is None else {"n_boot": n_boot, "ci_quantiles": [0.025, 0.975]}),
    )
    _ = (found.overall, found.by_group)
