"""`fairclip compare`: trains, and reports what each group gained and lost."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fairclip.cli._app import app, input_errors, option
from fairclip.cli._console import open_console

if TYPE_CHECKING:
    from fairclip.comparison import Comparison


@app.command()
def compare(
    data: Annotated[
        str | None,
        typer.Argument(
            help="A CSV, CSV.gz or Parquet file, or one of adult, german, credit_default, loanapp, "
            "digits (synthetic), two_concepts (synthetic).",
            show_default="adult",
        ),
    ] = None,
    out: Annotated[
        Path | None, option("Run", "Folder to write.", default="runs/<name of the data>")
    ] = None,
    quick: Annotated[
        bool | None,
        option("Run", "Main arms only; by default 3 seeds, ratios 2 and 1.", "--quick/--no-quick"),
    ] = None,
    resume: Annotated[
        bool, option("Run", "Go on with an interrupted run, or add arms and seeds.", "--resume")
    ] = False,
    overwrite: Annotated[bool, option("Run", "Replace an earlier run.", "--overwrite")] = False,
    jobs: Annotated[
        int | None, option("Run", "Processes; no result depends on it.", default="cores")
    ] = None,
    as_json: Annotated[bool, option("Run", "Print the report as JSON.", "--json")] = False,
    config: Annotated[
        Path | None, option("Run", "TOML file of settings, such as a run's config.toml.")
    ] = None,
    target: Annotated[str | None, option("Data", "Column to predict.")] = None,
    sensitive: Annotated[
        str | None, option("Data", "Sensitive columns, as race,sex; they are intersected.")
    ] = None,
    positive: Annotated[
        str | None, option("Data", "Target value of class 1; all others are class 0.")
    ] = None,
    favourable: Annotated[
        str | None, option("Data", "Target value that is good for a person.")
    ] = None,
    drop: Annotated[str | None, option("Data", "Columns that are no features.")] = None,
    keep_sensitive: Annotated[
        bool | None,
        option(
            "Data",
            "Let the model see the sensitive columns too.",
            "--keep-sensitive/--no-keep-sensitive",
        ),
    ] = None,
    pool_below: Annotated[
        int | None, option("Data", "Merge groups with fewer rows into one.", default="0")
    ] = None,
    groups: Annotated[
        str | None, option("Cap", "Bound cells (group × label) or sensitive.", default="cells")
    ] = None,
    max_ratio: Annotated[
        str | None, option("Cap", "One arm for each ratio of norms.", default="4,2,1")
    ] = None,
    within: Annotated[
        str | None, option("Cap", "Compare all cells, those of a label, or both.", default="both")
    ] = None,
    reference: Annotated[
        str | None,
        option("Cap", "minority, smallest_norm or a group's name.", default="minority"),
    ] = None,
    arms: Annotated[
        str | None,
        option("Arms", "These arms instead of the main ones, as fair_cap@2,reweight@0.5."),
    ] = None,
    rivals: Annotated[
        str | None,
        option(
            "Arms",
            "Further arms: exponentiated_gradient, threshold_optimizer, torchjd:UPGrad or any "
            "other.",
        ),
    ] = None,
    select: Annotated[
        str | None,
        option(
            "Arms",
            "Name one arm, chosen on the validation parts: a metric, then constraints, as "
            '"worst_cell_accuracy, accuracy >= unclipped - 0.02".',
        ),
    ] = None,
    seeds: Annotated[int | None, option("Training", "Number of seeds.", default="5")] = None,
    epochs: Annotated[int | None, option("Training", "Passes over the data.", default="10")] = None,
    batch_size: Annotated[
        int | None,
        option("Training", "Rows in a batch.", default="256, at most a tenth of the rows"),
    ] = None,
    model: Annotated[
        str | None,
        option("Training", "mlp, or cnn for the pixels of a square image.", default="mlp"),
    ] = None,
    hidden: Annotated[
        str | None,
        option("Training", "Widths of the hidden layers; none is logistic.", default="64,64"),
    ] = None,
    optimizer: Annotated[
        str | None, option("Training", "adam, or sgd with momentum 0.9.", default="adam")
    ] = None,
    lr: Annotated[
        float | None,
        option(
            "Training", "Learning rate.", default="0.001; sgd 0.05; adam for --hidden none 0.03"
        ),
    ] = None,
    device: Annotated[str | None, option("Training", "auto, cpu or cuda.", default="cpu")] = None,
) -> None:
    """Train with and without caps and rivals, and report what each group gained and lost.

    The defaults of --epochs and --batch-size were chosen for the unclipped arm, on the validation
    parts of the embedded sets.

    **Examples**

        fairclip compare --quick --out runs/demo

        fairclip compare data.csv --target approved --sensitive race,sex --max-ratio 4,2,1
          --seeds 10 --out runs/x

        fairclip compare german --rivals torchjd:UPGrad,threshold_optimizer

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
        "arms": arms,
        "rivals": rivals,
        "select": select,
        "seeds": seeds,
        "epochs": epochs,
        "batch_size": batch_size,
        "model": model,
        "hidden": hidden,
        "optimizer": optimizer,
        "lr": lr,
        "device": device,
        "quick": quick,
    }
    with input_errors():
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
    from rich.table import Column, Table

    from fairclip.comparison import HEADLINES, format_change, format_worst_cell
    from fairclip.metrics import format_number

    arm = Column("arm", overflow="fold")  # a name says all of it, so that none is cut short
    table = Table(arm, *(metric.replace("_", " ") for metric in HEADLINES), box=None)
    for i, row in enumerate(result.tradeoff.to_dict("records")):
        changes = [format_change(row, metric) if i else "" for metric in HEADLINES]
        means = [format_number(row[f"{metric}_mean"]) for metric in HEADLINES]
        table.add_row(row["arm"], *map("  ".join, zip(means, changes, strict=True)))
    console = open_console()
    console.print(f"{result.report.title}. {result.report.lead}\n")
    console.print(table)
    seeds = result.report.data["settings"]["seeds"]
    console.print(
        "\nTest parts: mean over the seeds, change against unclipped ± half its 95 % interval.\n"
        if seeds > 1
        else "\nTest parts: one seed, change against unclipped; one seed has no interval.\n"
    )
    for row in result.tradeoff.to_dict("records"):
        console.print(f"worst cell of {row['arm']}: {format_worst_cell(row, seeds)}")
    console.print()
    for sentence in result.report.data["findings"]:
        console.print(sentence)
    for warning in result.report.data["warnings"]:
        console.print(f"Note: {warning}")
    console.print(f"\nReport: {folder / 'report.html'}", soft_wrap=True)
