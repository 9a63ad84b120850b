"""Synthetic tables: who is in which group is drawn here, so that what happens is known."""

import numpy as np
import pandas as pd
from sklearn.datasets import load_digits

from fairclip.datasets._dataset import Dataset

_ROTATED_SHARE = 1 / 4
_MINORITY_SHARE = 0.15
_ANGLE = np.deg2rad(120)
_NOISE = 0.3


def make_digits() -> Dataset:
    """Synthetic: handwritten digits, a quarter of them rotated; is it an 8 or a 9?

    1,797 images of 8 × 8 pixels. The images are real, the groups are made: a quarter of each
    digit's images, drawn with a fixed seed, is rotated by 90 degrees. ``y`` is 1 for an 8 or a 9
    (20 %), a rare class. Nothing is about people: ``favourable`` is 1 because a value is needed.

    Returns:
        A :class:`Dataset` with 65 features: ``rotated``, "yes" or "no", which is the sensitive
        one, and the 64 pixels, 0 to 16, row by row.

    Source:
        Alpaydin, E. and Kaynak, C. (1998). Optical Recognition of Handwritten Digits. UCI Machine
        Learning Repository. https://doi.org/10.24432/C50P49, CC BY 4.0; its test set, as
        ``sklearn.datasets.load_digits``.

    Example:
        >>> from fairclip.datasets import make_digits
        >>> make_digits().sensitive_features["rotated"].value_counts().to_dict()
        {'no': 1347, 'yes': 450}
    """
    digits = load_digits()
    rng = np.random.default_rng(0)
    rotated = np.zeros(len(digits.target), dtype=bool)
    for digit in np.unique(digits.target):
        rows = np.flatnonzero(digits.target == digit)
        rotated[rng.choice(rows, round(len(rows) * _ROTATED_SHARE), replace=False)] = True
    images = digits.images.copy()
    images[rotated] = np.rot90(images[rotated], axes=(1, 2))
    pixels = images.reshape(len(images), -1).astype(np.int64)
    X = pd.DataFrame(pixels, columns=digits.feature_names)
    X.insert(0, "rotated", np.where(rotated, "yes", "no"))
    return Dataset(
        name="digits",
        X=X,
        y=pd.Series((digits.target >= 8).astype(np.int64), name="eight_or_nine"),
        sensitive_features=X[["rotated"]],
        target="eight_or_nine",
        favourable=1,
        description=(
            "Synthetic: 1,797 images of handwritten digits, a quarter of each digit's rotated by "
            "90 degrees at random; eight_or_nine is 1 for an 8 or a 9. No value is better for "
            "anyone."
        ),
        source=(
            "Synthetic groups on images of Alpaydin, E. and Kaynak, C. (1998). Optical Recognition "
            "of Handwritten Digits. UCI Machine Learning Repository. "
            "https://doi.org/10.24432/C50P49, as sklearn.datasets.load_digits"
        ),
        licence="CC BY 4.0, https://creativecommons.org/licenses/by/4.0/",
    )


def make_two_concepts() -> Dataset:
    r"""Synthetic: two groups with the same features, whose labels follow different directions.

    .. math:: y = 1 \;\text{where}\; x \cdot w_g + 0.3\, \varepsilon > 0

    6,000 rows of ten standard normal features x, drawn with a fixed seed; 15 % are of the minority.
    The unit vectors :math:`w_g` of the two groups enclose 120 degrees, :math:`\varepsilon` is
    standard normal. Nothing in the features tells the groups apart, so a model that is not told
    the group serves one of them at the cost of the other. Nothing is about people: ``favourable``
    is 1 because a value is needed.

    Returns:
        A :class:`Dataset` with 11 features: ``group``, "majority" or "minority", which is the
        sensitive one, and ``x0`` to ``x9``.

    Source:
        Drawn here.

    Example:
        >>> from fairclip.datasets import make_two_concepts
        >>> make_two_concepts().sensitive_features["group"].value_counts().to_dict()
        {'majority': 5100, 'minority': 900}
    """
    n_rows, n_features = 6_000, 10
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n_rows, n_features))
    minority = rng.permutation(n_rows) < round(n_rows * _MINORITY_SHARE)
    angle = np.where(minority, _ANGLE, 0.0)
    along = x[:, 0] * np.cos(angle) + x[:, 1] * np.sin(angle)
    y = along + _NOISE * rng.normal(size=n_rows) > 0
    X = pd.DataFrame(x, columns=[f"x{i}" for i in range(n_features)])
    X.insert(0, "group", np.where(minority, "minority", "majority"))
    return Dataset(
        name="two_concepts",
        X=X,
        y=pd.Series(y.astype(np.int64), name="label"),
        sensitive_features=X[["group"]],
        target="label",
        favourable=1,
        description=(
            "Synthetic: 6,000 rows of ten normal features, 15 % of the minority; label is 1 on one "
            "side of a plane that is turned by 120 degrees between the groups, with noise. No "
            "value is better for anyone."
        ),
        source="Synthetic: drawn by fairclip.datasets.make_two_concepts",
        licence="Apache-2.0, as the code",
    )
