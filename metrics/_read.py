"""Read a table from a file."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from ._read_csv import names_of_csv, read_csv
from ._read_parquet import names_of_parquet, read_parquet, read_parquet_parts
from ._report import restore_formulas


def read_predictions(
    path: str | Path, columns: Sequence[str] | None = None, *, progress: bool = False
) -> pd.DataFrame:
    r"""Read a table of predictions, one row each, as a run of ``fairclip compare`` writes it.

    As `read_table`, with text as categories, which take a byte or two a row; in CSV the apostrophes
    that `neutralise_formulas` put are taken away. Of 10 million rows read the columns that are
    needed, from Parquet: a CSV is gone through three times, since it does not say of what types it
    is, nor whether a row lacks a field.

    Args:
        path: A file named ``*.csv``, ``*.csv.gz`` or ``*.parquet``.
        columns: The columns to read, in this order; None reads all.
        progress: Show a bar on stderr where that is a terminal and reading takes over a second.

    Returns:
        The table, with at least one row.

    Raises:
        ValueError: As `read_table`, and if a column is not there or holds lists or structs.

    Example:
        >>> import pathlib, tempfile
        >>> from fairclip.metrics import read_predictions
        >>> path = pathlib.Path(tempfile.mkdtemp(), "predictions.csv")
        >>> _ = path.write_text("age,y,p\n'-25,1,0\n")
        >>> read_predictions(path, ["y", "age"]).to_dict("list")
        {'y': [1], 'age': ['-25']}
    """
    return _joined(read_batches(path, columns, progress=progress))


def read_table(path: str | Path) -> pd.DataFrame:
    r"""Read a table from CSV, CSV.gz or Parquet.

    The ending of the name decides. Column names of CSV lose the spaces around them. Empty fields
    and the words that pandas takes for missing (NA, null, ...) are missing values. A column of CSV
    that holds any text is all text. What is no table is refused at its first strange bytes, however
    large the file; nothing is ever unpickled.

    Args:
        path: A file named ``*.csv``, ``*.csv.gz`` or ``*.parquet``.

    Returns:
        The table, with at least one row.

    Raises:
        ValueError: If the file is missing, empty, of another kind or cannot be read, if a row has
            more or fewer fields than the header, if two columns have one name, or if Parquet is
            asked for without pyarrow.

    Example:
        >>> import pathlib, tempfile
        >>> from fairclip.metrics import read_table
        >>> path = pathlib.Path(tempfile.mkdtemp(), "data.csv")
        >>> _ = path.write_text("sex,y\nfemale,1\n")
        >>> read_table(path).columns.tolist()
        ['sex', 'y']
    """
    with _opened(path) as file:
        if _is_parquet(file):
            names_of_parquet(file)
            return read_parquet(file)
        names = names_of_csv(file, progress=False)
        return _joined(read_csv(file, names, names, progress=False))


def read_batches(
    path: str | Path, columns: Sequence[str] | None = None, *, progress: bool = False
) -> Iterator[pd.DataFrame]:
    """Yield what `read_predictions` returns in parts of up to a million rows."""
    with _opened(path) as file:
        if _is_parquet(file):
            names = _chosen(columns, names_of_parquet(file))
            yield from read_parquet_parts(file, names, progress=progress)
            return
        header = names_of_csv(file, progress=progress)
        header = list(restore_formulas(pd.DataFrame(columns=header)).columns)
        names = _chosen(columns, header)
        for part in read_csv(file, header, names, progress=progress):
            text = part.select_dtypes(["object", "string"]).astype("category")
            yield part.assign(**restore_formulas(text).astype("category"))


@contextmanager
def _opened(path: str | Path) -> Iterator[Path]:
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"`path` must be a file, {path} is none.")
    try:
        if not path.name.lower().endswith((".csv", ".csv.gz", ".parquet")):
            raise ValueError("its name must end in .csv, .csv.gz or .parquet")
        yield path
    except (ValueError, OSError) as error:
        raise ValueError(f"Cannot read {path}: {error}.") from error


def _is_parquet(path: Path) -> bool:
    return path.name.lower().endswith(".parquet")


def _chosen(columns: Sequence[str] | None, names: Sequence[str]) -> list[str]:
    for name in columns or ():
        if name not in names:
            listed = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
            raise ValueError(f"it has no column `{name}`; there are {listed}")
    return list(names if columns is None else columns)


def _joined(batches: Iterator[pd.DataFrame]) -> pd.DataFrame:
    parts: dict[str, list[pd.Series[Any]]] = {}
    for batch in batches:
        for name, column in batch.items():
            parts.setdefault(str(name), []).append(column)
    # One column after the other, so that there are two copies of one column only.
    return pd.DataFrame({name: _joined_column(parts.pop(name)) for name in list(parts)}, copy=False)


def _joined_column(parts: "list[pd.Series[Any]]") -> "pd.Series[Any]":
    if not isinstance(parts[0].dtype, pd.CategoricalDtype):
        return pd.concat(parts, ignore_index=True)
    # A part without a value has categories of no type.
    filled = next((part.cat.categories for part in parts if len(part.cat.categories)), None)
    if filled is not None:
        parts = [
            part if len(part.cat.categories) else part.cat.set_categories(filled) for part in parts
        ]
    if all(part.dtype == parts[0].dtype for part in parts):  # in an order of their own, it may be
        return pd.concat(parts, ignore_index=True)
    return pd.Series(pd.api.types.union_categoricals(parts, sort_categories=True))
