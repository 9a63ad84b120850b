"""What a report is made of."""

import re
from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True, eq=False)
class Table:
    """A table of a report.

    Floats are printed with three decimals, integers with thousands separators, NaN as "n/a"; a
    named index becomes leading columns.

    Args:
        frame: The figures.
        caption: What they are, one sentence.
        name: File name of the CSV, without ending; "" writes none.

    Raises:
        ValueError: If ``name`` has other characters than letters, digits, ``_`` and ``-``.

    Example:
        >>> import pandas as pd
        >>> from fairclip.metrics import Table
        >>> Table(pd.DataFrame({"n": [1200]}), "Rows.", name="rows").name
        'rows'
    """

    frame: pd.DataFrame
    caption: str
    name: str = ""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w-]*", self.name, re.ASCII):
            raise ValueError(f"`name` must be made of letters, digits, _ and -, got {self.name!r}.")


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture of a report; the figures that it shows stand under it.

    Args:
        svg: An ``<svg>`` element from `to_svg`. It is put into the page as it is: never pass one
            from elsewhere.
        caption: What it shows, one sentence.
        table: The figures that it is drawn from.
        name: File name of the table's CSV, without ending; "" writes none.

    Example:
        >>> import pandas as pd
        >>> from fairclip.metrics import Picture
        >>> Picture("<svg></svg>", "Accuracy.", pd.DataFrame({"accuracy": [0.9]})).caption
        'Accuracy.'
    """

    svg: str
    caption: str
    table: pd.DataFrame
    name: str = ""


@dataclass(frozen=True, eq=False)
class Notes:
    """Sentences of a report that are read as a list.

    Args:
        sentences: Plain text.

    Example:
        >>> from fairclip.metrics import Notes
        >>> Notes(("The rows are a sample.", "Labels are taken as given.")).sentences[0]
        'The rows are a sample.'
    """

    sentences: tuple[str, ...]


Item = str | Notes | Table | Picture


@dataclass(frozen=True, eq=False)
class Section:
    """A part of a report under one heading.

    Args:
        heading: A few words.
        body: Paragraphs (plain text), lists, tables and pictures, in reading order.

    Example:
        >>> from fairclip.metrics import Section
        >>> Section("Limits", ("The rows are a sample.",)).heading
        'Limits'
    """

    heading: str
    body: tuple[Item, ...]
