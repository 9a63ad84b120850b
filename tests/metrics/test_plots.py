import itertools
import re
import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from cycler import cycler
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fairclip.metrics import (
    audit,
    over_seeds,
    pareto_front,
    plot_by_group,
    plot_calibration,
    plot_changes,
    plot_roc,
    plot_stages,
    plot_telemetry,
    plot_tradeoff,
    to_svg,
)
from tests.metrics._inputs import HOSTILE_NAMES

COLOURS: Any = import_module("fairclip.metrics._plots._canvas").COLOURS
notable: Any = import_module("fairclip.metrics._plots._choice").notable
label: Any = import_module("fairclip.metrics._plots._words").label

NAMES = [
    *HOSTILE_NAMES,
    "$",
    "a\\$b$c$",
    '" style="stroke: #000000"',
    'id="x" url(#x)',
    "שלום עולם",
    "مرحبا",
    "\x00\x1b[31m\x9f",
    "",
    " ",
    "x" * 10_000,
    "sex=female, " + "y" * 10_000 + "=1",
    "overall_",
]


def intervals(names: list[str], metric: str = "accuracy", seed: int = 0) -> pd.DataFrame:
    """Return what `Audit.intervals` has of one metric."""
    groups = ["overall", *names]
    value = np.random.default_rng(seed).random(len(groups))
    n = np.random.default_rng(seed + 1).integers(1, 1000, len(groups))
    index = pd.MultiIndex.from_product([groups, [metric]], names=["group", "metric"])
    columns = {"value": value, "low": value - 0.1, "high": value + 0.1, "n": n}
    return pd.DataFrame(columns, index=index)


def changes(names: list[str]) -> pd.DataFrame:
    rows = intervals(names).droplevel("metric")
    return rows.rename(columns={"value": "change"}).drop(columns="n")


def arms(names: list[str], seed: int = 0) -> pd.DataFrame:
    values = np.random.default_rng(seed).random((len(names), 2))
    return pd.DataFrame(values, index=names, columns=["accuracy", "tpr"])


def trace(names: list[str], n_steps: int = 50, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    columns: dict[str, Any] = {"step": np.arange(n_steps)}
    for name in names:
        columns |= {f"n[{name}]": rng.integers(1, 9, n_steps), f"factor[{name}]": rng.random()}
    return pd.DataFrame(columns)


def stages(names: list[str]) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame({"cap": rng.random(len(names)), "a_b$c$": 0.0}, index=names)


def calibration(names: list[str], seed: int = 0) -> pd.DataFrame:
    index = pd.MultiIndex.from_product([names, range(1, 11)], names=["group", "bin"])
    rng = np.random.default_rng(seed)
    score = (index.get_level_values("bin") - 0.5) / 10
    observed = np.clip(score + rng.normal(0, 0.1, len(index)), 0, 1)
    columns = {
        "n": rng.integers(1, 99, len(index)),
        "mean_score": score,
        "observed": observed,
        "low": observed - 0.05,
        "high": observed + 0.05,
    }
    return pd.DataFrame(columns, index=index)


def sweep(names: list[str], seed: int = 0) -> pd.DataFrame:
    thresholds = [np.inf, 0.8, 0.5, 0.3, 0.1]
    index = pd.MultiIndex.from_product(
        [["overall", *names], thresholds], names=["group", "threshold"]
    )
    fpr = np.tile([0, 0.1, 0.2, 0.6, 1.0], len(names) + 1)
    power = np.random.default_rng(seed).uniform(0.2, 1, len(names) + 1).repeat(5)
    return pd.DataFrame({"n": 20, "fpr": fpr, "tpr": fpr**power}, index=index)


# Every plot from a list of names.
PLOTS: dict[str, Callable[..., Axes]] = {
    "by_group": lambda names, **ax: plot_by_group(intervals(names), "accuracy", **ax),
    "changes": lambda names, **ax: plot_changes(changes(names), **ax),
    "tradeoff": lambda names, **ax: plot_tradeoff(arms(names), "accuracy", "tpr", **ax),
    "telemetry": lambda names, **ax: plot_telemetry(trace(names or ["a"]), **ax),
    "stages": lambda names, **ax: plot_stages(stages(names), **ax),
    "calibration": lambda names, **ax: plot_calibration(calibration(names), **ax),
    "roc": lambda names, **ax: plot_roc(sweep(names), threshold=0.5, **ax),
}
every_plot = pytest.mark.parametrize("plot", PLOTS.values(), ids=PLOTS)


def drawn(svg: str) -> list[str]:
    """Return the pieces of text in a picture, as a reader sees them."""
    texts = ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
    return ["".join(text.itertext()).strip() for text in texts]


def legend(ax: Axes) -> list[str]:
    return ax.get_legend_handles_labels()[1]


def points(line: Any) -> NDArray[np.float64]:
    """Return where a line goes, (points, 2)."""
    return np.asarray(line.get_xydata(), np.float64)


# All plots


@every_plot
@pytest.mark.parametrize("names", [[], ["a"], ["a", "b", "c"]], ids=len)
def test_it_draws_into_new_axes_or_into_the_given_ones(
    plot: Callable[..., Axes], names: list[str]
) -> None:
    assert to_svg(plot(names).figure).startswith("<svg")
    left, right = Figure().subplots(1, 2)
    assert plot(names, ax=right) is right
    assert right.get_xlabel()
    assert not left.has_data()


@every_plot
def test_hostile_names_are_drawn_as_they_are(plot: Callable[..., Axes]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        svgs = [to_svg(plot(names).figure) for names in (NAMES[:10], NAMES[10:])]
    text = "".join(itertools.chain(*map(drawn, svgs))).replace(" ", "")
    short = [name for name in NAMES if name.isprintable() and len(name) < 40]
    assert len(short) >= 13
    for name in [
        *short,
        "👩‍🔬",
        "\ufffd\ufffd[31m\ufffd",
        "x" * 24 + "…" + "x" * 15,
        "yyy=1",
        "(empty)",
    ]:
        assert name.replace(" ", "") in text, name
    assert "x" * 41 not in text


def test_a_broken_character_is_replaced() -> None:  # one that no SVG could be written with
    assert label("a\ud800\x00") == "a\ufffd\ufffd"


@pytest.mark.parametrize("name", sorted(PLOTS.keys() - {"tradeoff", "stages"}))  # those are of arms
def test_of_500_groups_the_page_shows_those_that_matter(name: str) -> None:
    ax = PLOTS[name]([f"group {i}" for i in range(500)])
    title = ax.get_title(loc="left").replace("\n", " ")
    assert re.search("40 of 50[01] groups, the lowest", title)
    assert re.search("46[01] are left out", title)
    svg = to_svg(ax.figure)
    assert len(svg) < 200_000
    n_named = sum(text.startswith("group ") for text in drawn(svg))
    assert n_named in (7, 39, 40)


@every_plot
def test_the_svg_depends_on_nothing_but_the_figures(plot: Callable[..., Axes]) -> None:
    first = to_svg(plot(["a", "b"]).figure)
    odd: Any = {
        "text.color": "white",
        "xtick.color": "red",
        "figure.facecolor": "black",
        "text.usetex": True,
        "path.sketch": (1, 100, 2),
        "font.size": 30,
        "lines.linewidth": 9,
        "axes.grid": True,
        "savefig.bbox": "tight",
        "svg.fonttype": "path",
        "axes.prop_cycle": cycler(color=["pink"]),
    }
    with mpl.rc_context(odd):
        assert to_svg(plot(["a", "b"]).figure) == first


@every_plot
def test_the_svg_takes_ink_ground_fonts_and_size_from_the_page(plot: Callable[..., Axes]) -> None:
    svg = to_svg(plot(["a", "b"]).figure)
    root = ElementTree.fromstring(svg)
    assert set(root.attrib) >= {"viewBox", "fill"}
    assert root.get("fill") == "currentColor"
    assert not {"width", "height"} & set(root.attrib)
    assert "font-family" not in svg
    assert "<style" not in svg
    inks = set(re.findall(r"#[0-9a-f]{6}\b", svg)) - {colour.lower() for colour in COLOURS}
    assert not inks
    assert "stroke: currentColor" in svg


def test_the_font_sizes_stay() -> None:
    svg = to_svg(PLOTS["by_group"](["a"]).figure)
    assert set(re.findall(r"font[^;\"]*", svg)) == {"font-size: 10px"}


def test_pictures_on_a_page_share_no_identifiers() -> None:
    svgs = [to_svg(plot(["a", "b"]).figure) for plot in PLOTS.values()]
    identifiers = re.findall(r'\bid="([^"]+)"', "".join(svgs))
    assert len(identifiers) == len(set(identifiers)) > 20
    for svg in svgs:
        own = set(re.findall(r'\bid="([^"]+)"', svg))
        used = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', svg))
        assert {a or b for a, b in used} <= own


def test_what_is_not_black_keeps_its_colour() -> None:
    ax = Figure().subplots()
    ax.plot([0, 1], color="#123456")
    ax.set_title("stroke: #000000 font-family: x; <g id=")
    svg = to_svg(ax.figure)
    assert "stroke: #123456" in svg
    assert "stroke: #000000 font-family: x; <g id=" in drawn(svg)


# Colours


def luminance(rgb: NDArray[np.float64]) -> float:
    return float(linear(rgb) @ [0.2126, 0.7152, 0.0722])


def linear(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def rgb(colour: str) -> NDArray[np.float64]:
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255


def contrast(a: str, b: str) -> float:
    low, high = sorted(luminance(rgb(colour)) for colour in (a, b))
    return (high + 0.05) / (low + 0.05)


def test_colours_stand_out_on_light_and_dark_ground() -> None:
    ratios = {
        colour: (round(contrast(colour, "#ffffff"), 1), round(contrast(colour, "#0d1117"), 1))
        for colour in COLOURS
    }
    assert ratios == {
        "#1A67BB": (5.7, 3.3),
        "#D37605": (3.3, 5.7),
        "#22A574": (3.1, 6.0),
        "#B61D8A": (5.9, 3.2),
        "#A083D7": (3.1, 6.1),
        "#676700": (6.0, 3.2),
        "#A81AFC": (5.0, 3.8),
    }


def test_colours_differ_for_dichromats() -> None:
    # G. Machado et al. (2009), https://doi.org/10.1109/TVCG.2009.113, severity 1.
    eyes = {
        "all": np.eye(3),
        "no red": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
        "no green": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
        "no blue": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
    }
    for eye, matrix in eyes.items():
        seen = [oklab(np.asarray(matrix) @ linear(rgb(colour))) for colour in COLOURS]
        least = min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2))
        assert least > 0.1, eye  # Okabe and Ito's six, without yellow and black: 0.076


def oklab(light: NDArray[np.float64]) -> NDArray[np.float64]:
    """B. Ottosson, https://bottosson.github.io/posts/oklab/."""
    cones = [[0.41222, 0.53633, 0.05145], [0.2119, 0.6807, 0.1074], [0.0883, 0.28172, 0.62998]]
    lab = [[0.21045, 0.79362, -0.00407], [1.978, -2.42859, 0.45059], [0.0259, 0.78277, -0.80868]]
    found: NDArray[np.float64] = lab @ np.cbrt(cones @ np.clip(light, 0, 1))
    return found


# Which groups


@settings(derandomize=True, deadline=None, max_examples=25)
@given(st.lists(st.floats(-5, 5) | st.just(np.nan), max_size=30), st.integers(1, 12))
def test_extremes_and_the_largest_are_among_the_notable(values: list[float], most: int) -> None:
    sizes = np.arange(len(values), dtype=float)
    found = notable(np.array(values), sizes, most)
    assert len(found) == min(most, len(values)) == len(set(found))
    assert (np.diff(found) > 0).all()
    defined = [value for value in values if not np.isnan(value)]
    if most >= 3 and defined:
        kept = np.array(values)[found]
        assert np.nanmin(kept) == min(defined)
        assert np.nanmax(kept) == max(defined)
        assert len(values) - 1 in found


def test_twelve_lines_are_told_apart_without_colour_alone() -> None:
    ax = plot_roc(sweep([f"g{i}" for i in range(12)]), threshold=0.5)
    lines = ax.lines[1:-1]
    assert len(lines) == 12
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == 12
    dashes = re.findall(r"stroke-dasharray: [^;]*", to_svg(ax.figure))
    assert len(set(dashes)) == 4  # three, and the diagonal's
    assert len({line.get_label() for line in lines}) == 12


def test_of_more_than_twelve_lines_seven_are_named() -> None:
    table = sweep([f"g{i}" for i in range(20)])
    ax = plot_roc(table)
    areas = {
        group: np.trapezoid(part["tpr"], part["fpr"])
        for group, part in table.groupby("group")
        if group != "overall"
    }
    named = [name for name in legend(ax) if name != "overall"]
    assert len(named) == 7
    assert {max(areas, key=areas.__getitem__), min(areas, key=areas.__getitem__)} <= set(named)
    assert "In colour: the 7" in ax.get_title(loc="left")
    pale = [line for line in ax.lines if line.get_alpha() is not None]
    assert len(pale) == 13


# One by one


def test_by_group_shows_values_and_intervals() -> None:
    frame = intervals(["a", "b"])
    ax = plot_by_group(frame, "accuracy")
    rows = frame.droplevel("metric")
    overall, *lines = ax.lines
    assert points(overall)[:, 0].tolist() == [rows.loc["overall", "value"]] * 2
    for i, name in enumerate("ab"):
        whisker, dot = lines[2 * i : 2 * i + 2]
        assert points(whisker).tolist() == [[rows.loc[name, end], i] for end in ("low", "high")]
        assert points(dot).tolist() == [[rows.loc[name, "value"], i]]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["a", "b"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first on top
    with pytest.raises(KeyError, match="tpr"):
        plot_by_group(frame, "tpr")


def test_by_group_shows_figures_in_units() -> None:
    frame = intervals(["a", "b"], "bias")
    frame[["value", "high", "low"]] *= -1000
    ax = plot_by_group(frame, "bias")
    assert ax.get_xlabel() == "bias (units of y)"
    assert ax.get_xlim()[0] < frame["high"].iloc[1:].min()
    assert [points(line)[0, 0] for line in ax.lines[:2]] == [frame["value"].iloc[0], 0]


@pytest.mark.parametrize(
    ("metric", "label"),
    [
        ("fpr", "FPR (lower is better)"),
        ("tpr[>50K]", "TPR[>50K] (higher is better)"),
        ("mae", "MAE (units of y, lower is better)"),
        ("selection_rate", "selection rate"),
        ("equalized_odds_difference", "equalized odds difference (lower is better)"),
        ("my_$own$", r"my_\$own\$"),
    ],
)
def test_axes_say_units_and_direction(metric: str, label: str) -> None:
    assert plot_by_group(intervals(["a"], metric), metric).get_xlabel() == label
    assert plot_changes(changes(["a"]), metric=metric).get_xlabel() == f"change of {label}"


def test_an_audit_is_drawn_as_it_is() -> None:
    groups = np.repeat(NAMES[:3], 4)
    found = audit(
        np.tile([0, 1], 6), np.tile([0, 1], 6), sensitive_features={"g": groups}, n_boot=1
    )
    ax = plot_by_group(found.intervals, "accuracy")
    assert [points(dot)[0, 0] for dot in ax.lines[2::2]] == [1, 1, 1]


@pytest.mark.parametrize("missing", [np.nan, np.inf, -np.inf, pd.NA, None])
def test_what_is_undefined_leaves_a_gap(missing: Any) -> None:
    frame = intervals(["a", "b"]).astype(object)
    frame.loc[("a", "accuracy"), ["value", "low", "high"]] = [missing] * 3
    frame.loc[("overall", "accuracy"), "value"] = missing
    ax = plot_by_group(frame, "accuracy")
    assert np.isnan(points(ax.lines[2])[0, 0])
    assert [text.get_text() for text in ax.get_yticklabels()] == ["a", "b"]

    acted = stages(["a", "b"]).astype(object)
    acted.iloc[0, 0] = missing
    assert sorted(text.get_text() for text in plot_stages(acted).texts) == ["0 %", "0 %", "27 %"]

    bins = calibration(["a", "b"]).astype(object)
    bins.iloc[3, 1:] = missing
    curves = sweep(["a", "b"]).astype(object)
    curves.loc["a", "tpr"] = [missing] * 5
    roc = plot_roc(curves, threshold=0.5)
    assert legend(roc) == ["a (n/a)", "b", "overall"]
    steps = trace(["a", "b"]).astype(object)
    steps.iloc[:, 2] = [missing] * 50
    table = arms(["x", "y"]).astype(object)
    table.iloc[0, 0] = missing
    assert legend(plot_tradeoff(table, "accuracy", "tpr")) == ["x (n/a)", "y"]
    figures = (ax, plot_calibration(bins), roc, plot_telemetry(steps), plot_stages(acted))
    for figure in (*figures, plot_tradeoff(table, "accuracy", "tpr")):
        assert "<svg" in to_svg(figure.figure)
    assert np.isnan(points(plot_calibration(bins).lines[1])[3]).any()


def test_changes_set_all_rows_apart() -> None:
    frame = changes(["a"])
    zero, *lines = plot_changes(frame).lines
    assert points(zero)[:, 0].tolist() == [0, 0]
    assert [line.get_marker() for line in lines[1::2]] == ["D", "o"]
    assert [points(dot)[0, 0] for dot in lines[1::2]] == frame["change"].tolist()
    assert points(lines[2])[:, 0].tolist() == [frame["low"]["a"], frame["high"]["a"]]


def test_arms_are_where_their_figures_are() -> None:
    table = arms(["unclipped", "cap"])
    ax = plot_tradeoff(table, "accuracy", "tpr")
    dots: list[Any] = [next(iter(bars.get_children())) for bars in ax.containers]
    assert [points(dot)[0].tolist() for dot in dots] == table.to_numpy().tolist()


def test_means_over_seeds_have_bars_and_their_runs_behind_them() -> None:
    runs = pd.DataFrame(
        {"arm": ["unclipped"] * 3, "seed": range(3), "accuracy": [0.7, 0.8, 1.0], "tpr": 1.0}
    )
    table = over_seeds(runs, test_over_train=0.2).reset_index()
    table["tpr_high"] = 1 - 1e-12  # as rounding leaves it
    ax = plot_tradeoff(table, "accuracy", "tpr", runs=runs)
    (bars,) = ax.containers
    dot, *whiskers = bars.get_children()
    assert points(dot)[0].tolist() == pytest.approx([2.5 / 3, 1])
    assert len(whiskers) == 2
    behind = next(line for line in ax.lines if len(points(line)) == 3)
    assert points(behind).tolist() == runs[["accuracy", "tpr"]].to_numpy().tolist()
    assert behind.get_zorder() < dot.get_zorder()
    assert "seeds" in ax.get_title(loc="left")


def front(ax: Axes) -> list[list[float]]:
    lines, names = ax.get_legend_handles_labels()
    return points(lines[names.index("Pareto front")]).tolist() if "Pareto front" in names else []


def test_the_front_is_that_of_the_figures_drawn() -> None:
    table = pd.DataFrame(
        {
            "accuracy": [0.7, 0.8, 0.9, 0.75],
            "worst_cell_accuracy": [0.6, 0.5, 0.2, 0.4],
            "equalized_odds_difference": [0.3, 0.1, 0.2, 0.05],
            "selection_rate": [0.1, 0.2, 0.3, 0.4],
        },
        index=list("abcd"),
    ).assign(pareto=lambda frame: pareto_front(frame))
    assert table["pareto"].tolist() == [True, True, True, False]
    worst = table.loc[["a", "b", "c"], ["accuracy", "worst_cell_accuracy"]]
    assert front(plot_tradeoff(table, *worst)) == worst.to_numpy().tolist()
    odds = table.loc[["d", "b", "c"], ["accuracy", "equalized_odds_difference"]]
    assert front(plot_tradeoff(table, *odds)) == odds.to_numpy().tolist()
    marked = table.loc[["a", "b", "c"], ["accuracy", "selection_rate"]]  # no better direction
    assert front(plot_tradeoff(table, *marked)) == marked.to_numpy().tolist()
    assert front(plot_tradeoff(table.drop(columns="pareto"), *marked)) == []


def test_long_traces_are_drawn_as_means() -> None:
    steps = np.arange(10_000)
    table = pd.DataFrame({"step": steps, "factor[a]": 1.0, "factor[b]": steps / 1e4, "norm[a]": 2})
    ax = plot_telemetry(table)
    assert len(ax.lines) == 2
    line = points(ax.lines[1])
    assert line[:, 0].tolist() == np.arange(49.5, 1e4, 100).tolist()
    assert line[:, 1].tolist() == pytest.approx((np.arange(49.5, 1e4, 100) / 1e4).tolist())
    assert "mean of 100 steps" in ax.get_title(loc="left")
    with pytest.raises(KeyError, match="share"):
        plot_telemetry(table, quantity="share")


def test_names_beside_the_lines_do_not_overlap() -> None:
    table = pd.DataFrame({"step": [0, 1], **{f"factor[{name}]": 1.0 for name in "abcdefg"}})
    ax = plot_telemetry(table)
    assert ax.get_legend() is None
    heights = sorted(text.get_position()[1] for text in ax.texts)
    points_high = np.diff(ax.transData.transform([(0, y) for y in heights])[:, 1]) / 100 * 72
    assert len(heights) == 7
    assert (points_high >= 10).all()
    low = plot_telemetry(table.assign(**{f"factor[{name}]": 0.0 for name in "abcdef"}))
    assert min(text.get_position()[1] for text in low.texts) >= 0
    assert plot_telemetry(trace([f"group {i}" for i in range(8)])).get_legend() is not None


def test_layers_of_a_trace_are_named() -> None:
    table = pd.DataFrame({"step": [0, 1], "factor[fc.1][a]": [1.0, 0.5]})
    assert plot_telemetry(table).texts[0].get_text() == "fc.1: a"


def test_stages_have_a_bar_each() -> None:
    table = pd.DataFrame({"cap": [1.0, 0.25], "clip": [np.nan, 0.0012]}, index=["a", "b"])
    ax = plot_stages(table)
    widths = [[bar.get_width() for bar in bars] for bars in ax.containers]
    np.testing.assert_array_equal(widths, table.T)
    assert [text.get_text() for text in ax.texts] == ["100 %", "25 %", "0.1 %"]
    assert legend(ax) == ["cap", "clip"]


def test_calibration_shows_shares_intervals_and_rows() -> None:
    table = calibration(["a"])
    ax = plot_calibration(table)
    diagonal, line = ax.lines
    assert points(diagonal).tolist() == [[0, 0], [1, 1]]
    assert points(line).tolist() == table[["mean_score", "observed"]].to_numpy().tolist()
    whiskers, dots = ax.collections
    ends = [segment[:, 1].tolist() for segment in whiskers.get_segments()]  # type: ignore[attr-defined]
    assert ends == table[["low", "high"]].to_numpy().tolist()
    assert np.argsort(dots.get_sizes()).tolist() == np.argsort(table["n"]).tolist()  # type: ignore[attr-defined]


def test_roc_marks_the_threshold_in_use() -> None:
    table = sweep(["a"])
    for threshold, position in ((0.5, 2), (0.4, 2), (0.9, 0), (0.0, 4)):
        ax = plot_roc(table, threshold=threshold)
        _, line, everyone = ax.lines
        assert points(line).tolist() == table.loc["a", ["fpr", "tpr"]].to_numpy().tolist()
        assert line.get_markevery() == everyone.get_markevery() == [position]
        assert f"{threshold:g}" in ax.get_title(loc="left")
    assert plot_roc(table).lines[1].get_markevery() == []
