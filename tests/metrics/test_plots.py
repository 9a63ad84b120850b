import warnings
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from fairclip.metrics import (
    audit,
    over_seeds,
    plot_by_group,
    plot_changes,
    plot_telemetry,
    plot_tradeoff,
    to_svg,
)
from tests.metrics._inputs import HOSTILE_NAMES

ARMS = pd.DataFrame({"accuracy": [0.9, 0.8], "tpr": [0.5, 0.6]}, index=["unclipped", "cap"])


def _text(svg: str) -> str:
    return "\n".join(ElementTree.fromstring(svg).itertext())


def test_svg_is_the_same_again_and_loads_nothing() -> None:
    first, second = (to_svg(plot_tradeoff(ARMS, "accuracy", "tpr").figure) for _ in range(2))
    assert first == second
    assert first.startswith("<svg")
    for element in ElementTree.fromstring(first).iter():
        for name, value in element.attrib.items():
            assert not (name.endswith("href") and not value.startswith("#"))


def test_points_are_where_the_figures_are() -> None:
    ax = plot_tradeoff(ARMS, "accuracy", "tpr")
    points: list[Any] = [next(iter(bars.get_children())) for bars in ax.containers]
    assert [point.get_xydata().ravel().tolist() for point in points] == [[0.9, 0.5], [0.8, 0.6]]


def test_means_over_seeds_have_error_bars() -> None:
    runs = pd.DataFrame(
        {"arm": ["unclipped"] * 3, "seed": range(3), "accuracy": [0.7, 0.8, 0.9], "tpr": 0.5}
    )
    table = over_seeds(runs, test_over_train=0.2).reset_index()
    ax = plot_tradeoff(table, "accuracy", "tpr")
    lines = [len(bars.get_children()) for bars in ax.containers]
    assert lines == [3]  # the point and a bar in each direction
    assert "unclipped" in _text(to_svg(ax.figure))


def test_hostile_names_are_drawn_as_they_are() -> None:
    groups = np.repeat(HOSTILE_NAMES, 4)
    found = audit(
        np.tile([0, 1], 16), np.tile([0, 1], 16), sensitive_features={"g": groups}, n_boot=1
    )
    arms = pd.DataFrame({"x": range(8), "y": range(8)}, index=HOSTILE_NAMES)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        by_group = _text(to_svg(plot_by_group(found.intervals, "accuracy").figure))
        tradeoff = _text(to_svg(plot_tradeoff(arms, "x", "y").figure))
    for text in (by_group, tradeoff):
        for name in ("<script>alert(1)</script>", "👩‍🔬", "$x^2$ and $y_", "_leading"):
            assert name in text


def test_long_traces_are_drawn_as_means() -> None:
    steps = np.arange(10_000)
    trace = pd.DataFrame({"step": steps, "factor[a]": 1.0, "factor[b]": steps / 1e4, "norm[a]": 2})
    ax = plot_telemetry(trace)
    assert len(ax.lines) == 2
    points = np.asarray(ax.lines[1].get_xydata())  # (points, 2)
    assert len(points) <= 300
    assert points[:, 1].mean() == pytest.approx(0.5, abs=0.01)
    with pytest.raises(KeyError):
        plot_telemetry(trace, quantity="share")


def test_plots_draw_into_given_axes() -> None:
    first, second = Figure().subplots(1, 2)
    changes = pd.DataFrame({"change": [0.1], "low": [0.0], "high": [0.2]}, index=["a"])
    assert plot_changes(changes, ax=first) is first
    assert plot_tradeoff(ARMS, "accuracy", "tpr", ax=second) is second
    assert "tpr" in _text(to_svg(first.figure))


def test_undefined_figures_leave_a_gap() -> None:
    changes = pd.DataFrame({"change": [0.1, np.nan], "low": [0, np.nan], "high": [0.2, np.nan]})
    assert "<svg" in to_svg(plot_changes(changes).figure)
