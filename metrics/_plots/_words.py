"""Names and figures as a picture spells them."""

import re
import textwrap

_HEAD, _TAIL = 24, 15  # characters kept of a long name: intersections differ at the end, too
_LINE = 24  # characters
_UNDRAWABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")

_SHORT = {"auc", "ece", "fnr", "fpr", "mae", "r2", "rmse", "tpr"}
_IN_UNITS = {"bias", "mae", "mean_pred", "mean_true", "rmse", "worst_group_mae", "mae_difference"}
_HIGHER = {
    "accuracy",
    "auc",
    "balanced_accuracy",
    "macro_f1",
    "macro_precision",
    "precision",
    "r2",
    "tpr",
    "worst_cell_accuracy",
    "worst_group_accuracy",
}
_LOWER = {
    "accuracy_difference",
    "bias_difference",
    "brier",
    "demographic_parity_difference",
    "ece",
    "equalized_odds_difference",
    "fnr",
    "fpr",
    "log_loss",
    "mae",
    "mae_difference",
    "rmse",
    "worst_group_mae",
}
_NEITHER = {"base_rate", "bias", "mean_pred", "mean_true", "selection_rate"}


def label(text: object) -> str:
    """Return a user's word as matplotlib shows it: one line, no mathematics, not too long."""
    return _literal(_shortened(text))


def wrapped(text: object) -> str:
    """Return a user's word as `label` does, in lines of 24 characters."""
    return _literal("\n".join(textwrap.wrap(_shortened(text), _LINE, break_on_hyphens=False)))


def axis_label(metric: str) -> str:
    """Return a figure's name, its units and which direction is better, as far as they are known."""
    name = _base(metric)
    facts = ["units of y"] if name in _IN_UNITS else []
    if better := direction(metric):
        facts.append("higher is better" if better > 0 else "lower is better")
    return words(metric) + (f" ({', '.join(facts)})" if facts else "")


def words(metric: str) -> str:
    """Return a figure's name; one that is not ours stays as it is."""
    name = _base(metric)
    if name not in _HIGHER | _LOWER | _NEITHER:
        return label(metric)
    spelt = name.upper() if name in _SHORT else name.replace("_", " ")
    return label(spelt + metric[len(name) :])


def direction(metric: str) -> int:
    """Return 1 if a higher value of the figure is better, -1 if a lower one is, else 0."""
    name = _base(metric)
    return (name in _HIGHER) - (name in _LOWER)


def _base(metric: str) -> str:
    return metric.partition("[")[0]  # "tpr[cat]" is the tpr of a class


def _shortened(text: object) -> str:
    line = _UNDRAWABLE.sub("\ufffd", " ".join(str(text).split())) or "(empty)"
    return line if len(line) <= _HEAD + 1 + _TAIL else f"{line[:_HEAD]}…{line[-_TAIL:]}"


def _literal(line: str) -> str:
    line = line.replace("$", r"\$")
    return f" {line}" if line.startswith("_") else line  # "_" would keep it out of the legend
