"""Families of arms as lines."""

import numpy as np
import pandas as pd

from fairclip.metrics import plot_fronts

FRONTS = pd.DataFrame(
    {
        "family": ["caps", "caps", "cuts"],
        "accuracy": [0.9, 0.8, 0.85],
        "tpr": [0.5, 0.6, 0.55],
    }
)


def test_a_line_a_family_and_the_arms_behind_them() -> None:
    arms = pd.DataFrame({"accuracy": [0.7, 0.8, 0.9, 0.6], "tpr": [0.1, 0.2, 0.3, 0.4]})
    ax = plot_fronts(FRONTS, "accuracy", "tpr", main=["caps"], arms=arms)
    pale, caps, cuts = ax.lines
    assert np.asarray(pale.get_xdata()).tolist() == arms["accuracy"].tolist()
    assert np.asarray(caps.get_xdata()).tolist() == [0.8, 0.9]
    assert np.asarray(caps.get_ydata()).tolist() == [0.6, 0.5]
    assert caps.get_linewidth() > cuts.get_linewidth()
    assert cuts.get_markerfacecolor() == "none"


def test_thirteen_families_are_told_apart_without_colour() -> None:
    many = pd.DataFrame({"family": [f"f{i}" for i in range(13)], "accuracy": 0.9, "tpr": 0.5})
    lines = plot_fronts(many, "accuracy", "tpr").lines
    looks = {(line.get_marker(), str(line._dash_pattern)) for line in lines}  # type: ignore[attr-defined]
    assert len(looks) == 13


def test_families_are_named_below() -> None:
    legend = plot_fronts(FRONTS, "accuracy", "tpr").get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["caps", "cuts"]
