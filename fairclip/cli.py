"""The command line: reads arguments, calls :func:`fairclip.compare` and `fairclip.metrics.audit`.

What a command needs is imported when it runs: `--help` is quick, and `audit` needs no torch.
Exit codes: 0; 2 for input that cannot be used, with one line that says why; 130 when interrupted.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from fairclip.comparison import Comparison
    from fairclip.metrics import Audit

__all__ = ["app", "main"]

app = typer.Typer(
    help="Bound each demographic group's share of a training update, and report what changes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def main() -> None:
    """Run the command line; warnings take one line each."""
    warnings.showwarning = lambda message, *_, **__: typer.echo(f"warning: {message}", err=True)
    app()


@contextmanager
def _input_errors() -> Iterator[None]:
    """Say what is wrong with the input in one line, and exit with 2."""
    try:
        yield
    except (ValueError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None


def _option(panel: str, text: str, *names: str, default: str | bool = False) -> Any:
    """Describe an option; ``default`` is what the settings take where it is not given."""
    return typer.Option(*names, help=text, rich_help_panel=panel, show_default=default)


@app.command()
def compare(
    data: Annotated[
        str | None,
        typer.Argument(
            help="A CSV, CSV.gz or Parquet file, or one of adult, german, credit_default, loanapp.",
            show_default="adult",
        ),
    ] = None,
    out: Annotated[
        Path | None, _option("Run", "Folder to write.", default="runs/<name of the data>")
    ] = None,
    quick: Annotated[
        bool | None,
        _option("Run", "Main arms only; by default 3 seeds, ratios 2 and 1.", "--quick/--no-quick"),
    ] = None,
    resume: Annotated[bool, _option("Run", "Go on with an interrupted run.", "--resume")] = False,
    overwrite: Annotated[bool, _option("Run", "Replace an earlier run.", "--overwrite")] = False,
    jobs: Annotated[
        int | None, _option("Run", "Processes; no result depends on it.", default="cores")
    ] = None,
    as_json: Annotated[bool, _option("Run", "Print the report as JSON.", "--json")] = False,
    config: Annotated[
        Path | None, _option("Run", "TOML file of settings, such as a run's config.toml.")
    ] = None,
    target: Annotated[str | None, _option("Data", "Column to predict.")] = None,
    sensitive: Annotated[
        str | None, _option("Data", "Sensitive columns, as race,sex; they are intersected.")
    ] = None,
    positive: Annotated[
        str | None, _option("Data", "Target value of class 1; all others are class 0.")
    ] = None,
    favourable: Annotated[
        str | None, _option("Data", "Target value that is good for a person.")
    ] = None,
    drop: Annotated[str | None, _option("Data", "Columns that are no features.")] = None,
    keep_sensitive: Annotated[
        bool | None,
        _option(
            "Data",
            "Let the model see the sensitive columns too.",
            "--keep-sensitive/--no-keep-sensitive",
        ),
    ] = None,
    pool_below: Annotated[
        int | None, _option("Data", "Merge groups with fewer rows into one.", default="0")
    ] = None,
    groups: Annotated[
        str | None, _option("Cap", "Bound cells (group × label) or sensitive.", default="cells")
    ] = None,
    max_ratio: Annotated[
        str | None, _option("Cap", "One arm for each ratio of norms.", default="4,2,1")
    ] = None,
    within: Annotated[
        str | None, _option("Cap", "Compare all cells, those of a label, or both.", default="both")
    ] = None,
    reference: Annotated[
        str | None,
        _option("Cap", "minority, smallest_norm or a group's name.", default="minority"),
    ] = None,
    seeds: Annotated[int | None, _option("Training", "Number of seeds.", default="5")] = None,
    epochs: Annotated[
        int | None, _option("Training", "Passes over the data.", default="10")
    ] = None,
    batch_size: Annotated[
        int | None,
        _option("Training", "Rows in a batch.", default="256, at most a tenth of the rows"),
    ] = None,
    hidden: Annotated[
        str | None, _option("Training", "Widths of the hidden layers.", default="64,64")
    ] = None,
    lr: Annotated[
        float | None, _option("Training", "Learning rate of Adam.", default="0.001")
    ] = None,
    device: Annotated[str | None, _option("Training", "auto, cpu or cuda.", default="cpu")] = None,
) -> None:
    """Train with and without caps and rivals, and report what each group gained and lost.

    The defaults of --epochs and --batch-size were chosen for the unclipped arm, on the validation
    parts of the embedded sets.

    **Examples**

        fairclip compare --quick --out runs/demo

        fairclip compare data.csv --target approved --sensitive race,sex --max-ratio 4,2,1
          --seeds 10 --out runs/x

        fairclip compare --config runs/x/config.toml --out runs/y
    """
    flags = {
        "data": data,
        "target": target,
        "sensitive": sensitive,
        "positive": positive,
        "favourable": favourable,
        "drop": drop,
        "keep_sensitive": keep_sensitive,
        "pool_below": pool_below,
        "groups": groups,
        "max_ratio": max_ratio,
        "within": within,
        "reference": reference,
        "seeds": seeds,
        "epochs": epochs,
        "batch_size": batch_size,
        "hidden": hidden,
        "lr": lr,
        "device": device,
        "quick": quick,
    }
    with _input_errors():
        if jobs is not None and jobs < 1:
            raise ValueError(f"`jobs` must be at least 1, got {jobs}.")
        from fairclip import comparison

        given = {name: value for name, value in flags.items() if value is not None}
        settings = comparison.Settings.read(config, **given)
        folder = out or Path("runs") / Path(settings.data).name.split(".")[0]
        plan = comparison.prepare(settings, out=folder, resume=resume, overwrite=overwrite)
    try:
        result = plan.run(jobs, progress=True)
    except KeyboardInterrupt:
        typer.echo(f"Interrupted. --resume goes on with {folder}.", err=True)
        raise typer.Exit(130) from None
    except comparison.RunError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    if as_json:
        typer.echo((folder / "report.json").read_text(encoding="utf-8"), nl=False)
    else:
        _show_comparison(result, folder)


def _show_comparison(result: "Comparison", folder: Path) -> None:
    from rich.table import Table

    from fairclip.comparison import HEADLINES, format_change, format_worst_cell
    from fairclip.metrics import format_number

    table = Table("arm", *(metric.replace("_", " ") for metric in HEADLINES), box=None)
    for i, row in enumerate(result.tradeoff.to_dict("records")):
        changes = [format_change(row, metric) if i else "" for metric in HEADLINES]
        means = [format_number(row[f"{metric}_mean"]) for metric in HEADLINES]
        table.add_row(row["arm"], *map("  ".join, zip(means, changes, strict=True)))
    console = _console()
    console.print(table, markup=False)
    seeds = result.report.data["settings"]["seeds"]
    console.print(
        "\nTest parts: mean over the seeds, change against unclipped ± half its 95 % interval.\n"
        if seeds > 1
        else "\nTest parts: one seed, change against unclipped; one seed has no interval.\n"
    )
    for row in result.tradeoff.to_dict("records"):
        console.print(f"worst cell of {row['arm']}: {format_worst_cell(row, seeds)}", markup=False)
    console.print()
    for sentence in result.report.data["findings"]:
        console.print(sentence, markup=False)
    for warning in result.report.data["warnings"]:
        console.print(f"Note: {warning}", markup=False)
    console.print(f"\nReport: {folder / 'report.html'}", soft_wrap=True, markup=False)


def _console() -> "Console":
    from rich.console import Console

    console = Console(highlight=False)
    # A pipe has no width; tables are not to be cut to a guess of it.
    return console if console.is_terminal else Console(highlight=False, width=120)


@app.command()
def audit(
    predictions: Annotated[Path, typer.Argument(help="A CSV, CSV.gz or Parquet file.")],
    y_true: Annotated[str, typer.Option(help="Column of the labels, two values.")],
    y_pred: Annotated[str, typer.Option(help="Column of the predictions, of the same values.")],
    sensitive: Annotated[str, typer.Option(help="Sensitive columns, as sex,race.")],
    y_score: Annotated[str | None, typer.Option(help="Column of the scores.")] = None,
    favourable: Annotated[
        str | None, typer.Option(help="The favourable label.", show_default="the greater one")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="New folder for the report.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Assess predictions group by group; any model's, and those of a run of compare.

    **Examples**

        fairclip audit predictions.csv --y-true y --y-pred p --y-score s --sensitive sex,race

        fairclip audit runs/demo/predictions/unclipped__seed0.csv.gz --y-true y_true
          --y-pred y_pred --y-score y_score --sensitive sex --out runs/demo-audit
    """
    with _input_errors():
        from fairclip import metrics

        if out is not None and out.exists():
            raise ValueError(f"{out} exists: choose a new folder.")
        frame = metrics.read_predictions(predictions)
        names = [name.strip() for name in sensitive.split(",")]
        for name in [y_true, y_pred, *names, *([] if y_score is None else [y_score])]:
            if name not in frame.columns:
                columns = ", ".join(map(str, frame.columns))
                raise ValueError(f"There is no column `{name}`; there are {columns}.")
            if names.count(name) > 1:
                raise ValueError(f"`{name}` is named twice in --sensitive.")
        found = metrics.audit(
            frame[y_true],
            frame[y_pred],
            sensitive_features=frame[names],
            y_score=None if y_score is None else frame[y_score],
            favourable=_value(frame[y_true], favourable),
        )
        if out is not None:
            found.save(out)
    if as_json:
        with TemporaryDirectory() as folder:
            found.save(folder, formats=("json",))
            typer.echo((Path(folder) / "report.json").read_text(encoding="utf-8"), nl=False)
    else:
        _show_audit(found, out)


def _value(labels: "pd.Series[Any]", text: str | None) -> Any:
    """Return the label that is written as ``text``."""
    if text is None:
        return None
    return next((label for label in labels.unique() if str(label) == text), text)


def _show_audit(found: "Audit", out: Path | None) -> None:
    from rich.table import Table

    from fairclip.metrics import format_number

    rates = found.intervals["value"].unstack("metric", sort=False)
    shown = rates.columns.drop(["fnr", "precision", "brier", "ece"], errors="ignore")
    table = Table("group", *(name.replace("_", " ") for name in shown), box=None)
    for group, row in rates[shown].iterrows():
        table.add_row(str(group), *map(format_number, row))
    console = _console()
    console.print(table, markup=False)
    for name, gap in found.gaps.iterrows():
        console.print(
            f"{name}: {format_number(gap['value'])} (p = {format_number(gap['p'], 4)})",
            markup=False,
        )
    for name, least in found.worst.iterrows():
        console.print(
            f"{name}: {format_number(least['value'])} in {least['name']} ({least['n']} rows)",
            markup=False,
        )
    for warning in found.warnings:
        console.print(f"Note: {warning}", markup=False)
    if out is not None:
        console.print(f"\nReport: {out / 'report.html'}", soft_wrap=True, markup=False)
