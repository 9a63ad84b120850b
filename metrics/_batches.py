"""Some columns of a file -> tables, a part of its rows at a time."""

import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from tqdm import tqdm

_ROWS_AT_ONCE = 100_000


def read_batches(
    path: str | Path, columns: Sequence[str], *, progress: bool = False
) -> Iterator[pd.DataFrame]:
    """Yield the named columns in parts of up to 100,000 rows, text as categories.

    Memory is that of one part, however many rows the file or its row groups have. Parquet is read
    once; a CSV twice, since only the whole column shows of what type it is: one that holds any text
    is all text.

    Args:
        path: A file named ``*.csv``, ``*.csv.gz`` or ``*.parquet``.
        columns: The columns to read, in this order.
        progress: Show a bar on stderr, over rows of Parquet and bytes of CSV.

    Yields:
        Tables of one row at least.

    Raises:
        ValueError: If the file is missing, of another kind, has no rows or cannot be read, or if a
            column is not there.
    """
    from tqdm import tqdm

    path = Path(path)
    if not path.is_file():
        raise ValueError(f"`path` must be a file, {path} is none.")
    name = path.name.lower()
    n_rows = 0
    try:
        if not name.endswith((".csv", ".csv.gz", ".parquet")):
            raise ValueError("its name must end in .csv, .csv.gz or .parquet")
        parts = _parts_of_parquet if name.endswith(".parquet") else _parts_of_csv
        with tqdm(desc="reading", unit_scale=True, leave=False, disable=not progress) as bar:
            for part in parts(path, list(columns), bar):
                n_rows += len(part)
                yield part
    except ImportError as error:
        raise ValueError(
            f'Reading {path} needs pyarrow: pip install "fairclip[parquet]".'
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(f"Cannot read {path}: its text is not UTF-8; save it as UTF-8.") from error
    except (ValueError, OSError, EOFError, zlib.error) as error:
        raise ValueError(f"Cannot read {path}: {error}.") from error
    if n_rows == 0:
        raise ValueError(f"{path} has no rows.")


def _parts_of_parquet(path: Path, columns: list[str], bar: "tqdm[Any]") -> Iterator[pd.DataFrame]:
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile, read_schema

    schema = read_schema(path)
    _check_columns(columns, schema.names)
    text = [name for name in columns if schema.field(name).type in (pa.string(), pa.large_string())]
    with ParquetFile(path, read_dictionary=text) as file:
        bar.unit, bar.total = " rows", file.metadata.num_rows
        for part in file.iter_batches(_ROWS_AT_ONCE, columns=columns):
            yield pa.Table.from_batches([part]).to_pandas(ignore_metadata=True)[columns]
            bar.update(len(part))


def _parts_of_csv(path: Path, columns: list[str], bar: "tqdm[Any]") -> Iterator[pd.DataFrame]:
    first = pd.read_csv(path, header=None, nrows=1, dtype=str, keep_default_na=False)
    header = [name.strip() or f"Unnamed: {i}" for i, name in enumerate(first.iloc[0])]
    _check_columns(columns, header)
    bar.unit, bar.total = "B", 2 * path.stat().st_size
    found: dict[str, set[str]] = {name: set() for name in columns}
    for part in _chunks_of_csv(path, header, {}, bar):
        for name in columns:
            found[name].add(pd.api.types.infer_dtype(part[name]) if part[name].count() else "empty")
    dtype = {name: kind for name in columns if (kind := _common(found[name])) is not None}
    text = [name for name, kind in dtype.items() if kind is str]
    for part in _chunks_of_csv(path, header, dtype, bar):
        yield part[columns].astype(dict.fromkeys(text, "category"))


def _chunks_of_csv(
    path: Path, header: list[str], dtype: dict[str, type], bar: "tqdm[Any]"
) -> Iterator[pd.DataFrame]:
    with (
        path.open("rb") as file,
        pd.read_csv(
            file,
            compression="gzip" if path.name.lower().endswith(".gz") else None,
            names=header,
            header=0,
            index_col=False,
            dtype=dtype,
            chunksize=_ROWS_AT_ONCE,
        ) as parts,
    ):
        start = bar.n
        for part in parts:
            yield part
            bar.update(start + file.tell() - bar.n)


def _common(found: set[str]) -> type | None:
    """Return the type of a column from those of its parts, None for what pandas makes of it."""
    if found <= {"integer", "floating", "empty"}:
        return int if found == {"integer"} else float
    # In a part before the first text of its column pandas read 01 as the number 1.
    return None if found <= {"boolean", "empty"} else str


def _check_columns(columns: list[str], there: list[str]) -> None:
    for name in there:
        if there.count(name) > 1:
            raise ValueError(f"it has the column `{name}` more than once; rename one")
    for name in columns:
        if name not in there:
            listed = ", ".join(there[:20]) + (", ..." if len(there) > 20 else "")
            raise ValueError(f"it has no column `{name}`; there are {listed}")
