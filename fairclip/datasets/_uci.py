"""The three tables that come with the package, from the UCI Machine Learning Repository."""

from importlib.resources import files

import pandas as pd

from fairclip.datasets._dataset import Dataset

_LICENCE = "CC BY 4.0, https://creativecommons.org/licenses/by/4.0/"


def _read(name: str) -> pd.DataFrame:
    with files("fairclip.datasets").joinpath(f"{name}.csv.gz").open("rb") as file:
        # An empty cell is missing and nothing else is: "None" or "NA" may be a level.
        return pd.read_csv(file, compression="gzip", keep_default_na=False, na_values=[""])


def load_adult() -> Dataset:
    """Adult (Census Income): does a person earn more than 50,000 dollars a year?

    48,842 people from the US census of 1994. ``y`` is 1 above 50K (24 %). ``workclass``,
    ``occupation`` and ``native_country`` have missing values. Left out of ``X``: ``fnlwgt``, a
    sampling weight, and ``split``, UCI's own train and test parts.

    Returns:
        A :class:`Dataset` with 13 features; the sensitive ones are ``sex`` and ``race``.

    Source:
        Becker, B. and Kohavi, R. (1996). Adult. UCI Machine Learning Repository.
        https://doi.org/10.24432/C5XW20, CC BY 4.0. Cleaned: a header, empty cells for missing
        values, the target as 0 and 1.

    Example:
        >>> from fairclip.datasets import load_adult
        >>> load_adult().sensitive_features["sex"].value_counts().to_dict()
        {'Male': 32650, 'Female': 16192}
    """
    frame = _read("adult")
    return Dataset(
        name="adult",
        X=frame.drop(columns=["income", "fnlwgt", "split"]),
        y=frame["income"],
        sensitive_features=frame[["sex", "race"]],
        target="income",
        favourable=1,
        description=(
            "48,842 people from the US census of 1994; income is 1 above 50,000 dollars a year. "
            "Not features: fnlwgt (a sampling weight), split (UCI's train and test parts)."
        ),
        source=(
            "Becker, B. and Kohavi, R. (1996). Adult. UCI Machine Learning Repository. "
            "https://doi.org/10.24432/C5XW20"
        ),
        licence=_LICENCE,
    )


def load_german() -> Dataset:
    """Statlog (German Credit Data): was the credit a good risk?

    1,000 credits of a German bank, 1973 to 1975. ``y`` is 1 for a good risk (70 %); bad credits
    were sampled more often than they occur. Nothing is missing. Left out of ``X``:
    ``foreign_worker``, and ``sex``, which can only be guessed from a code for personal status and
    whose coding is disputed.

    Returns:
        A :class:`Dataset` with 19 features; the sensitive one is ``age_group``, "<=25" or ">25",
        made from ``age``, which is a feature too.

    Source:
        Hofmann, H. (1994). Statlog (German Credit Data). UCI Machine Learning Repository.
        https://doi.org/10.24432/C5NC77, CC BY 4.0. Cleaned: a header, ``age_group``, the target
        as 0 and 1.

    Example:
        >>> from fairclip.datasets import load_german
        >>> load_german().sensitive_features["age_group"].value_counts().to_dict()
        {'>25': 810, '<=25': 190}
    """
    frame = _read("german")
    return Dataset(
        name="german",
        X=frame.drop(columns=["good_credit", "foreign_worker", "sex"]),
        y=frame["good_credit"],
        sensitive_features=frame[["age_group"]],
        target="good_credit",
        favourable=1,
        description=(
            "1,000 credits of a German bank, 1973 to 1975; good_credit is 1 for a good risk, and "
            "bad ones were sampled more often than they occur. Not features: foreign_worker, and "
            "sex, which was guessed from a disputed code for personal status."
        ),
        source=(
            "Hofmann, H. (1994). Statlog (German Credit Data). UCI Machine Learning Repository. "
            "https://doi.org/10.24432/C5NC77"
        ),
        licence=_LICENCE,
    )


def load_credit_default() -> Dataset:
    """Default of Credit Card Clients: does a client fail to pay next month?

    30,000 clients of a bank in Taiwan, 2005. ``y`` is 1 for a default (22 %), so 0 is the
    favourable value. Nothing is missing.

    Returns:
        A :class:`Dataset` with 23 features; the sensitive ones are ``sex``, ``education`` and
        ``marriage``.

    Source:
        Yeh, I. (2009). Default of Credit Card Clients. UCI Machine Learning Repository.
        https://doi.org/10.24432/C55S3H, CC BY 4.0. Cleaned: the sensitive columns as words,
        undocumented codes among them as "other".

    Example:
        >>> from fairclip.datasets import load_credit_default
        >>> load_credit_default().sensitive_features["sex"].value_counts().to_dict()
        {'female': 18112, 'male': 11888}
    """
    frame = _read("credit_default")
    return Dataset(
        name="credit_default",
        X=frame.drop(columns=["default"]),
        y=frame["default"],
        sensitive_features=frame[["sex", "education", "marriage"]],
        target="default",
        favourable=0,
        description=(
            "30,000 credit card clients of a bank in Taiwan, 2005; default is 1 where the next "
            "month's payment was missed."
        ),
        source=(
            "Yeh, I. (2009). Default of Credit Card Clients. UCI Machine Learning Repository. "
            "https://doi.org/10.24432/C55S3H"
        ),
        licence=_LICENCE,
    )
