"""Read a table from a file."""

import zlib
from pathlib import Path

import pandas as pd

from ._report import restore_formulas


def read_predictions(path: str | Path) -> pd.DataFrame:
    r"""Read a table of predictions, one row each, as a run of ``fairclip compare`` writes it.

    As `read_table`; in CSV the apostrophes that `neutralise_formulas` put are taken away.

    Args:
        path: A file named ``*.csv``, ``*.csv.gz`` or ``*.parquet``.

    Returns:
        The table, with at least one row.

    Raises:
        ValueError: As `read_table`.

    Example:
        >>> import pathlib, tempfile
        >>> from fairclip.metrics import read_predictions
        >>> path = pathlib.Path(tempfile.mkdtemp(), "predictions.csv")
        >>> _ = path.write_text("age,y,p\n'-25,1,0\n")
        >>> read_predictions(path)["age"].tolist()
        ['-25']
    """
    frame = read_table(path)
    return frame if str(path).lower().endswith(".parquet") else restore_formulas(frame)


def read_table(path: str | Path) -> pd.DataFrame:
    r"""Read a table from CSV, CSV.gz or Parquet.

    The ending of the name decides. Column names of CSV lose the spaces around them. Empty fields
    and the words that pandas takes for missing (NA, null, ...) are missing values.

    Args:
        path: A file named ``*.csv``, ``*.csv.gz`` or ``*.parquet``.

    Returns:
        The table, with at least one row.

    Raises:
        ValueError: If the file is missing, empty, of another kind or cannot be read, if a CSV has
            two columns of one name, or if Parquet is asked for without pyarrow.

    Example:
        >>> import pathlib, tempfile
        >>> from fairclip.metrics import read_table
        >>> path = pathlib.Path(tempfile.mkdtemp(), "data.csv")
        >>> _ = path.write_text("sex,y\nfemale,1\n")
        >>> read_table(path).columns.tolist()
        ['sex', 'y']
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"`path` must be a file, {path} is none.")
    name = path.name.lower()
    try:
        if name.endswith((".csv", ".csv.gz")):
            frame = _read_csv(path)
        elif name.endswith(".parquet"):
            frame = pd.read_parquet(path)
        else:
            raise ValueError("its name must end in .csv, .csv.gz or .parquet")
    except ImportError as error:
        raise ValueError(
            f'Reading {path} needs pyarrow: pip install "fairclip[parquet]".'
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(f"Cannot read {path}: its text is not UTF-8; save it as UTF-8.") from error
    except (ValueError, OSError, EOFError, zlib.error) as error:
        raise ValueError(f"Cannot read {path}: {error}.") from error
    if frame.empty:
        raise ValueError(f"{path} has no rows.")
    return frame


def _read_csv(path: Path) -> pd.DataFrame:
    header = pd.read_csv(path, header=None, nrows=1, dtype=str, keep_default_na=False)
    names = [name.strip() for name in header.iloc[0]]
    twice = [name for name in names if name and names.count(name) > 1]
    if twice:  # pandas would call the second one `name.1`
        raise ValueError(f"its header has the column `{twice[0]}` more than once; rename one")
    if len(names) == 1 and ";" in names[0]:
        raise ValueError("its columns are separated by semicolons; save it with commas")
    return pd.read_csv(path).rename(columns=str.strip)
