"""On what the study compares: tables, groups and models."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairclip.comparison import Settings
from fairclip.study._families import arms_of_study

_LOGISTIC = {"hidden": (), "optimizer": "sgd"}
_SMOKE = {"seeds": 2, "epochs": 2}


@dataclass(frozen=True)
class Setting:
    """One comparison of the study.

    Attributes:
        name: Of its folder.
        title: On the page.
        about: What the table is, a sentence.
        values: Of :class:`fairclip.comparison.Settings`.
        main: Whether it counts for the goal; the others are reported apart.
    """

    name: str
    title: str
    about: str
    values: Mapping[str, Any]
    main: bool = True

    def is_finished(self, out: Path) -> bool:
        """Return whether all of it is there; what has fewer arms or seeds is gone on with.

        Args:
            out: The folder of the study.
        """
        try:
            there = Settings.read(out / self.name / "config.toml")
        except (OSError, ValueError):  # none, or not one of ours
            return False
        wanted = Settings.of(self.values)
        return all(getattr(there, name) == getattr(wanted, name) for name in self.values)


@dataclass(frozen=True)
class _Data:
    name: str
    title: str
    about: str
    values: Mapping[str, Any]
    costly: bool = False
    synthetic: bool = False


_TABLES = (
    _Data(
        "adult-sex",
        "Adult, sex",
        "Census rows of 1994; the label is an income above 50,000 dollars.",
        {"data": "adult", "sensitive": ("sex",)},
        costly=True,
    ),
    _Data(
        "adult-race-sex",
        "Adult, race × sex",
        "The same rows; intersections with fewer than 1,000 rows are one group.",
        {"data": "adult", "sensitive": ("race", "sex"), "pool_below": 1000},
        costly=True,
    ),
    _Data(
        "german-age",
        "German credit, age",
        "1,000 loans of a bank; the label is that a loan was paid back.",
        {"data": "german", "sensitive": ("age_group",)},
    ),
    _Data(
        "credit-education",
        "Credit default, education",
        "Credit card customers in Taiwan, 2005; the label is a payment not made. Levels with fewer "
        "than 5,000 rows, which are highschool and other, are one group.",
        {"data": "credit_default", "sensitive": ("education",), "pool_below": 5000},
        costly=True,
    ),
    _Data(
        "credit-sex",
        "Credit default, sex",
        "The same customers.",
        {"data": "credit_default", "sensitive": ("sex",)},
        costly=True,
    ),
    _Data(
        "loanapp-race",
        "Mortgages, race",
        "Applications in Boston, 1990. The label is a past decision to approve, not an outcome: "
        "every rate here is agreement with those decisions. Groups with fewer than 200 rows, which "
        "are black and hispanic, are one group.",
        {"data": "loanapp", "sensitive": ("race",), "pool_below": 200},
    ),
    _Data(
        "digits",
        "Digits, rotated (synthetic)",
        "Synthetic: handwritten digits, a minority of them rotated, and a rare class.",
        {"data": "digits", "model": "cnn", "hidden": (16, 32), "epochs": 20},
        costly=True,
        synthetic=True,
    ),
    _Data(
        "two-concepts",
        "Two concepts (synthetic)",
        "Synthetic: the labels of the two groups follow different directions of the same features.",
        {"data": "two_concepts"},
        synthetic=True,
    ),
)


def study_settings(*, smoke: bool = False) -> tuple[Setting, ...]:
    """Return the settings in the order of the page.

    Args:
        smoke: Two seeds, two epochs and one arm of each family, and logistic regression on the
            small tables alone: to see that all of it runs, not to conclude from.
    """
    main = [_setting(data, smoke=smoke) for data in _TABLES]
    logistic = [
        _setting(data, smoke=smoke, logistic=True)
        for data in _TABLES
        if not (data.synthetic or (smoke and data.costly))
    ]
    return (*main, *logistic)


def _setting(data: _Data, *, smoke: bool, logistic: bool = False) -> Setting:
    return Setting(
        name=f"{data.name}-logistic" if logistic else data.name,
        title=f"{data.title}, logistic regression" if logistic else data.title,
        about=data.about,
        values={
            "seeds": 10,
            **data.values,
            **(_LOGISTIC if logistic else {}),
            **(_SMOKE if smoke else {}),
            "arms": arms_of_study(costly=data.costly, smoke=smoke),
        },
        main=not logistic,
    )
