"""Families of arms as steps."""

import numpy as np
import pandas as pd
import pytest

from fairclip.metrics import plot_fronts

FRONTS = pd.DataFrame(
    {
        "family": ["caps", "caps", "caps", "cuts"],
        "accuracy": [0.9, 0.8, 0.78, 0.85],
        "tpr": [0.5, 0.6, 0.55, 0.55],
    }
)


def test_steps_of_a_family_and_the_arms_behind_them() -> None:
    arms = pd.DataFrame({"accuracy": [0.7, 0.8, 0.9, 0.6], "tpr": [0.1, 0.2, 0.3, 0.4]})
    ax = plot_fronts(FRONTS, "accuracy", "tpr", main=["caps"], arms=arms)
    pale, caps, cuts = ax.lines
    assert np.asarray(pale.get_xdata()).tolist() == arms["accuracy"].tolist()
    # The third point is beaten by the second.
    assert np.asarray(caps.get_xdata()).tolist() == [0.8, 0.9]
    assert np.asarray(caps.get_ydata()).tolist() == [0.6, 0.5]
    assert caps.get_drawstyle() == "steps-pre"
    assert caps.get_linewidth() > cuts.get_linewidth()
    assert cuts.get_markerfacecolor() == "none"


def test_of_a_figure_that_is_better_low_the_lower_points_are_drawn() -> None:
    fronts = FRONTS.rename(columns={"tpr": "equalized_odds_difference"})
    caps = plot_fronts(fronts, "accuracy", "equalized_odds_difference").lines[0]
    assert np.asarray(caps.get_xdata()).tolist() == [0.9]


def test_the_picture_starts_where_it_is_told_and_ends_at_the_best() -> None:
    baseline = pd.Series({"accuracy": 0.92, "tpr": 0.4}, name="unclipped")
    ax = plot_fronts(FRONTS, "accuracy", "tpr", x_from=0.82, baseline=baseline)
    caps, cuts, star = ax.lines
    left, right = ax.get_xlim()
    assert left == 0.82
    assert 0.92 < right < 0.93
    assert np.asarray(caps.get_xdata()).tolist() == [0.82, 0.9]
    assert caps.get_markevery() == [1]  # the edge is no arm
    assert np.asarray(cuts.get_xdata()).tolist() == [0.82, 0.85]
    assert star.get_marker() == "*"
    assert star.get_label() == "unclipped"


def test_the_picture_holds_single_arms_beyond_all_fronts_and_no_missing_figure_ends_it() -> None:
    fronts = pd.concat(
        [pd.DataFrame({"family": ["none"], "accuracy": [np.nan], "tpr": [0.5]}), FRONTS]
    )
    arms = pd.DataFrame({"accuracy": [np.nan, 0.97], "tpr": [0.1, 0.2]})
    right = plot_fronts(fronts, "accuracy", "tpr", x_from=0.82, arms=arms).get_xlim()[1]
    assert 0.97 < right < 0.98


@pytest.mark.parametrize("n", [0, 1])
def test_a_picture_of_nothing_cannot_end_at_the_best(n: int) -> None:
    nothing = FRONTS.iloc[:n].assign(accuracy=np.nan)
    with pytest.raises(ValueError, match="no point with accuracy"):
        plot_fronts(nothing, "accuracy", "tpr", x_from=0.8)


def test_a_family_without_a_point_in_the_picture_is_empty() -> None:
    caps, cuts = plot_fronts(FRONTS, "accuracy", "tpr", x_from=0.88).lines
    assert np.asarray(caps.get_xdata()).tolist() == [0.88, 0.9]
    assert len(np.asarray(cuts.get_xdata())) == 0


def test_thirteen_families_are_told_apart_without_colour() -> None:
    many = pd.DataFrame({"family": [f"f{i}" for i in range(13)], "accuracy": 0.9, "tpr": 0.5})
    lines = plot_fronts(many, "accuracy", "tpr").lines
    looks = {(line.get_marker(), str(line._dash_pattern)) for line in lines}  # type: ignore[attr-defined]
    assert len(looks) == 13


def test_seven_of_them_have_colours_and_markers_of_their_own_and_the_rest_is_grey() -> None:
    names = [f"f{i}" for i in range(13)]
    many = pd.DataFrame({"family": names, "accuracy": 0.9, "tpr": 0.5})
    ax = plot_fronts(many, "accuracy", "tpr", main=names[9:], coloured=names[:3])
    legend = ax.get_legend()
    assert legend is not None
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts == [*names[:3], *names[9:], "others"]
    named = [line for line in ax.lines if line.get_label() in names]
    assert len({line.get_color() for line in named}) == 7
    assert len({line.get_marker() for line in named}) == 7
    others = {line.get_color() for line in ax.lines if line not in named}
    assert others == {"#808080"}


def test_families_are_named_below() -> None:
    legend = plot_fronts(FRONTS, "accuracy", "tpr").get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["caps", "cuts"]
