"""What a comparison is asked to do: one flat record, kept as TOML beside its results."""

import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, Self

from fairclip.capping import NormCap
from fairclip.comparison._convert import CONVERT
from fairclip.comparison._select import Selection

_CHOICES = {
    "groups": ("cells", "sensitive"),
    "within": ("all", "label", "both"),
    "model": ("mlp", "cnn"),
    "optimizer": ("adam", "sgd"),
    "device": ("auto", "cpu", "cuda"),
}
_QUICK = {"seeds": 3, "max_ratio": (2.0, 1.0)}
_CAP_FIELDS = (
    "reference",
    "smoothing",
    "floor",
    "preserve_norm",
    "scope",
    "min_reference_rows",
    "max_factor",
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of :func:`fairclip.compare`, each a key of ``config.toml``.

    The fields from ``reference`` to ``max_factor`` are those of :class:`fairclip.NormCap` and
    hold for every fair-cap arm except ``fair_cap_step``.

    Args:
        data: A file (CSV, CSV.gz, Parquet) or ``adult``, ``german``, ``credit_default``,
            ``loanapp``, or the synthetic ``digits``, ``two_concepts``.
        target: Column to predict; embedded sets know theirs.
        sensitive: Columns whose levels, intersected, are the demographic groups; embedded sets
            use the first of theirs.
        positive: The target value that is class 1; needed with more than two values. None: the
            larger of the two.
        favourable: The target value that is good for a person; it is named in the report and
            changes no number. None: the positive one.
        drop: Columns that are not features.
        keep_sensitive: Let the model see the sensitive columns too. Where decisions about people
            follow, that is often not allowed; without it other columns can still stand for them.
        pool_below: Groups with fewer rows become one group ``other`` (0: none).
        groups: What the cap bounds: ``cells`` (group × label) or ``sensitive`` (groups alone).
        max_ratio: One fair-cap arm for each, dimensionless and positive.
        within: Ratios over all cells, within each label, or an arm of both kinds.
        arms: The arms beside ``unclipped``, by name. None given: the main arms, for which
            ``max_ratio``, ``within`` and ``quick`` are.
        rivals: Further arms, by name.
        seeds: Number of seeds, 0, 1, ...; each has its own split, weights and batches.
        epochs: Passes over the training part. The defaults of ``epochs`` and ``batch_size`` were
            chosen for the arm ``unclipped``, by accuracy and log loss on the validation parts of
            the embedded sets.
        batch_size: Rows in a batch. None: 256, or a tenth of the training part where that is less.
            With few rows of a group in a batch its norm is mostly sampling noise.
        model: ``mlp``, or ``cnn`` where all features are the pixels of a square image, row by row.
        hidden: Widths of the hidden layers; of the ``cnn`` the channels of its convolutions. Empty
            (``none`` on the command line): logistic regression.
        optimizer: ``adam``, or ``sgd`` with momentum 0.9.
        lr: Learning rate. None: 0.001 for Adam, and chosen as ``epochs`` was 0.03 for it without
            hidden layers and 0.05 for SGD.
        device: ``auto`` is CUDA where there is one; on small tables the CPU is faster.
        select: Name one arm: the metric to have the best of, then constraints, as in
            ``worst_cell_accuracy, accuracy >= unclipped - 0.02``. It is chosen on the validation
            parts and changes no figure. Empty: none is named.
        quick: Train the main arms only; where they are not given, 3 seeds and the ratios
            2 and 1.

    Raises:
        ValueError: If a value is out of range, with the name of the field.
    """

    data: str = "adult"
    target: str = ""
    sensitive: tuple[str, ...] = ()
    positive: str | None = None
    favourable: str | None = None
    drop: tuple[str, ...] = ()
    keep_sensitive: bool = False
    pool_below: int = 0
    groups: str = "cells"
    max_ratio: tuple[float, ...] = (4.0, 2.0, 1.0)
    within: str = "both"
    reference: str | int = "minority"
    smoothing: float = 0.95
    floor: str | float = "equal_vote"
    preserve_norm: bool = False
    scope: str = "global"
    min_reference_rows: int = 30
    max_factor: float = 10.0
    arms: tuple[str, ...] = ()
    rivals: tuple[str, ...] = ()
    seeds: int = 5
    epochs: int = 10
    batch_size: int | None = None
    model: str = "mlp"
    hidden: tuple[int, ...] = (64, 64)
    optimizer: str = "adam"
    lr: float | None = None
    device: str = "cpu"
    select: str = ""
    quick: bool = False

    def __post_init__(self) -> None:
        for name, (convert, kind) in CONVERT.items():
            value = getattr(self, name)
            try:
                object.__setattr__(self, name, convert(value))
            except (TypeError, ValueError, OverflowError):
                raise ValueError(f"`{name}` must be {kind}, got {value!r}.") from None
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"`{name}` must be one of {', '.join(choices)}, got {getattr(self, name)!r}."
                )
        for name, least in {"seeds": 1, "epochs": 1, "batch_size": 1, "pool_below": 0}.items():
            if getattr(self, name) is not None and getattr(self, name) < least:
                raise ValueError(f"`{name}` must be at least {least}, got {getattr(self, name)}.")
        if self.select:
            Selection.parse(self.select)
        if self.lr is None:
            object.__setattr__(self, "lr", _default_lr(self.optimizer, self.hidden))
        elif not 0 < self.lr < math.inf:
            raise ValueError(f"`lr` must be positive and finite, got {self.lr}.")
        if min(self.hidden, default=1) < 1:
            raise ValueError(f"`hidden` needs widths of at least 1, got {list(self.hidden)}.")
        names = {f"{ratio:g}" for ratio in self.max_ratio}  # as in the arms' names
        if not names or len(names) < len(self.max_ratio):
            raise ValueError(f"`max_ratio` needs different numbers, got {list(self.max_ratio)}.")
        if math.inf in self.max_ratio:
            raise ValueError("`max_ratio` must be finite: the arm `unclipped` is the one without.")
        if self.groups == "sensitive" and self.within == "label":
            raise ValueError("`within='label'` needs cells: use groups='cells' or within='all'.")
        for ratio in self.max_ratio:
            self.cap(ratio)

    def cap(self, max_ratio: float, within: Literal["all", "label"] = "all") -> NormCap:
        """Return the cap of one arm."""
        return NormCap(
            max_ratio=max_ratio,
            within=within,
            **{name: getattr(self, name) for name in _CAP_FIELDS},
        )

    @classmethod
    def read(cls, path: Path | None, **flags: Any) -> Self:
        """Return the settings in the TOML file ``path``, overridden by ``flags``."""
        values: dict[str, Any] = {}
        if path is not None:
            try:
                values = tomllib.loads(path.read_text(encoding="utf-8"))
            except tomllib.TOMLDecodeError as error:
                raise ValueError(f"{path} is not valid TOML: {error}.") from None
        return cls.of({**values, **flags})

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Return the settings with these fields; ``quick`` has its own defaults for the others."""
        known = [field.name for field in fields(cls)]
        for name in values:
            if name not in known:
                raise ValueError(f"There is no setting `{name}`; there are {', '.join(known)}.")
        defaults: Mapping[str, Any] = _QUICK if values.get("quick") else {}
        return cls(**{**defaults, **values})

    def to_toml(self) -> str:
        """Return the settings as TOML; fields that are None are left out."""
        values = {name: value for name, value in asdict(self).items() if value is not None}
        return "".join(f"{name} = {_toml(value)}\n" for name, value in values.items())


def _default_lr(optimizer: str, hidden: tuple[int, ...]) -> float:
    if optimizer == "sgd":
        return 0.05
    return 1e-3 if hidden else 0.03


def _toml(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, str):
        # A JSON string is a TOML basic string, but for the control character DEL.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value).lower() if isinstance(value, bool) else repr(value)
