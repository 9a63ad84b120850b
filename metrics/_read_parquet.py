"""A Parquet file -> tables."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

_ROWS_AT_ONCE = 250_000


def names_of_parquet(path: Path) -> list[str]:
    """Return the column names, from the end of the file alone."""
    with _open(path) as file:
        names = list(file.schema_arrow.names)
        n_rows = file.metadata.num_rows
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"it has the column `{twice}` more than once; rename one")
    if n_rows == 0:
        raise ValueError("it has no rows")
    return names


def read_parquet(path: Path) -> pd.DataFrame:
    """Return all columns, with the index that pandas stored."""
    with _open(path) as file:
        frame: pd.DataFrame = file.read().to_pandas()
        return frame


def read_parquet_parts(
    path: Path, columns: Sequence[str], *, progress: bool
) -> Iterator[pd.DataFrame]:
    """Yield these columns in parts, text as categories."""
    import pyarrow as pa
    from tqdm import tqdm

    with _open(path) as file:
        schema = file.schema_arrow
    for name in columns:
        if pa.types.is_nested(schema.field(name).type):
            raise ValueError(
                f"its column `{name}` holds {schema.field(name).type}; name one of plain values"
            )
    text = [field.name for field in schema if field.type in (pa.string(), pa.large_string())]
    with (
        _open(path, text) as file,
        tqdm(
            total=file.metadata.num_rows,
            desc="reading",
            unit=" rows",
            unit_scale=True,
            delay=1,  # second; a short wait needs no bar
            leave=False,
            disable=None if progress else True,  # None: where there is a terminal
        ) as bar,
    ):
        for part in file.iter_batches(_ROWS_AT_ONCE, columns=list(columns)):
            frame = pa.Table.from_batches([part]).to_pandas(ignore_metadata=True)[list(columns)]
            yield frame.assign(**{name: _sorted(frame[name]) for name in columns if name in text})
            bar.update(len(part))


def _sorted(column: "pd.Series[Any]") -> "pd.Series[Any]":
    """Put the categories in the order that text has everywhere else, not that of the rows."""
    return column.cat.set_categories(column.cat.categories.sort_values())


@contextmanager
def _open(path: Path, as_categories: Sequence[str] = ()) -> Iterator["ParquetFile"]:
    try:
        import pyarrow as pa
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise ValueError('it needs pyarrow: pip install "fairclip[parquet]"') from error
    try:
        with ParquetFile(path, read_dictionary=list(as_categories)) as file:
            yield file
    except (pa.ArrowException, OSError, MemoryError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ValueError(f"it is not Parquet, or damaged ({reason})") from error
