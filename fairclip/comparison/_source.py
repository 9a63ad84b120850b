"""Where the rows come from: a file, a table in memory or an embedded set."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from fairclip import datasets
from fairclip.comparison._settings import Settings
from fairclip.metrics import read_table

EMBEDDED = {
    "adult": datasets.load_adult,
    "german": datasets.load_german,
    "credit_default": datasets.load_credit_default,
    "loanapp": datasets.load_loanapp,
    "digits": datasets.make_digits,
    "two_concepts": datasets.make_two_concepts,
}


@dataclass(frozen=True)
class Source:
    """A table as it was found.

    Attributes:
        frame: All columns, ``(N, ...)``.
        name: Of the file or the embedded set.
        sha256: Of the file's bytes; of the table as CSV where there is no file.
        origin: Who published an embedded set, and its licence.
    """

    frame: pd.DataFrame
    name: str
    sha256: str
    origin: str = ""


def open_source(settings: Settings, frame: pd.DataFrame | None = None) -> tuple[Source, Settings]:
    """Return the table, and the settings with what an embedded set knows filled in.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it holds no table.
    """
    if frame is not None:
        return Source(frame, settings.data, _hash(frame)), settings
    if settings.data in EMBEDDED:
        dataset = EMBEDDED[settings.data]()
        sensitive = tuple(map(str, dataset.sensitive_features))
        others = dataset.X.drop(columns=list(sensitive))
        frame = pd.concat([others, dataset.sensitive_features, dataset.y], axis=1)
        known = settings.target in {"", dataset.target} and settings.positive is None
        settings = replace(
            settings,
            target=settings.target or dataset.target,
            sensitive=settings.sensitive or sensitive[:1],
            favourable=settings.favourable or (str(dataset.favourable) if known else None),
        )
        origin = f"{dataset.source} ({dataset.licence})"
        return Source(frame, settings.data, _hash(frame), origin), settings
    path = Path(settings.data)
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no file {path} and no embedded set of that name ({', '.join(EMBEDDED)})."
        )
    frame = read_table(path)
    return Source(frame, path.name, hashlib.sha256(path.read_bytes()).hexdigest()), settings


def _hash(frame: pd.DataFrame) -> str:
    return hashlib.sha256(frame.to_csv(index=False).encode()).hexdigest()
