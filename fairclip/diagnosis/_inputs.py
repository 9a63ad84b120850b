"""The scale of the data where it enters the first trainable layers."""

import math
from collections.abc import Iterator

from torch import Tensor, nn

from fairclip.diagnosis._finding import Finding
from fairclip.diagnosis._host import values
from fairclip.diagnosis._measurements import Measurements
from fairclip.diagnosis._run import Run
from fairclip.diagnosis._weighted import WEIGHTED, is_convolution

# Inputs should have mean 0 and a common variance of about 1 (LeCun et al. 1998, Efficient BackProp,
# section 4.3). 95 % of a standard normal feature lie within 2, of a long-tailed one within 4; ages
# reach 65 and pixels 255.
_MAX_MAGNITUDE = 10.0
# A feature this small is invisible beside a bias or a feature of unit size, where it is not zero.
_MIN_RMS = 1e-3
# Values that are not zero; fewer say nothing of a scale.
_MIN_NONZERO = 5
# The share of values that must lie within the magnitude, so that one odd row in 20 is no feature.
_SHARE = 0.95


def measure(run: Run, table: Measurements) -> None:
    """Measure each feature of what is data, that is, depends on no parameter.

    Data that the model normalises itself is measured after that.
    """
    for layer in run.layers:
        data = layer.data
        if data is None or not (layer.trains and isinstance(layer.module, WEIGHTED)):
            continue
        if layer.after_frozen:
            note = "frozen layers ran before it: whether they made its inputs cannot be told"
            table.add("input magnitude", layer.name, math.nan, note)
            continue
        features = _features(values(data), layer.module)
        within = int(_SHARE * (features.shape[1] - 1))
        n_nonzero = features.count_nonzero(1)
        sizes = features.norm(dim=1) / n_nonzero.clamp(min=1).sqrt()
        quantities = {
            "input mean": features.mean(1),
            "input std": features.std(1, correction=0),
            "input RMS of non-zero values": sizes.where(n_nonzero >= _MIN_NONZERO, math.nan),
            "input magnitude": features.abs().sort(1).values[:, within],
        }
        for quantity, numbers in quantities.items():
            for i, value in enumerate(numbers.tolist()):
                table.add(quantity, f"{layer.name}, feature {i}", value)


def _features(data: Tensor, module: nn.Module) -> Tensor:
    """Return the values of each feature, (n_features, n)."""
    axis = 1 if is_convolution(module) and data.dim() > 2 else -1
    return data.movedim(axis, 0).flatten(1) if data.dim() > 1 else data.unsqueeze(1)


def check(table: Measurements) -> Iterator[Finding]:
    """Report features that are far too large or too small; constant ones are left alone."""
    means = table.of("input mean")
    spread = {where: std for where, std in table.of("input std").items() if std > 0}
    magnitude = table.of("input magnitude")
    rms = table.of("input RMS of non-zero values")
    large = {where: magnitude[where] for where in spread if magnitude[where] > _MAX_MAGNITUDE}
    small = {where: rms[where] for where in spread if rms[where] < _MIN_RMS}
    if large:
        where = max(large, key=lambda name: large[name])
        yield Finding(
            fault="input scale",
            where=where,
            evidence=f"{len(large)} of {len(means)} features are larger than {_MAX_MAGNITUDE:g}; "
            f"{_SHARE:.0%} of this one lie within {large[where]:.4g} (mean {means[where]:.4g}, "
            f"standard deviation {spread[where]:.4g}).",
            value=large[where],
            threshold=_MAX_MAGNITUDE,
            remedy=_REMEDY,
        )
    elif small:
        where = min(small, key=lambda name: small[name])
        yield Finding(
            fault="input scale",
            where=where,
            evidence=f"{len(small)} of {len(means)} features vary, but with a root mean square "
            f"of what is not zero below {_MIN_RMS:g}; this one has {small[where]:.4g}.",
            value=small[where],
            threshold=_MIN_RMS,
            remedy=_REMEDY,
        )


_REMEDY = (
    "Standardise every feature with the mean and standard deviation of the training part "
    "(sklearn.preprocessing.StandardScaler), skewed amounts after a log."
)
