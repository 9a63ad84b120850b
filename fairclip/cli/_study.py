"""`fairclip study`: compares over many settings, and writes one page of what came out."""

from pathlib import Path
from typing import Annotated

import typer

from fairclip.cli._app import app, input_errors, option
from fairclip.cli._console import open_console


@app.command()
def study(
    out: Annotated[
        Path | None,
        option(
            "Run", "Folder to write, and to go on with.", default="runs/study, or runs/study-smoke"
        ),
    ] = None,
    only: Annotated[
        str | None, option("Run", "Names of settings, as adult-sex,german-age.", default="all")
    ] = None,
    smoke: Annotated[
        bool, option("Run", "Two seeds, two epochs, few arms: does it run?", "--smoke")
    ] = False,
    overwrite: Annotated[
        bool, option("Run", "Run finished settings again too.", "--overwrite")
    ] = False,
    jobs: Annotated[
        int | None, option("Run", "Processes; no result depends on it.", default="cores")
    ] = None,
) -> None:
    """Compare fair clipping with its rivals over eight settings, and say where it helps.

    Settings that are finished are not run again, one that was interrupted goes on, one that fails
    does not stop the others. The page holds what is finished. The whole study trains thousands of
    networks.

    **Examples**

        fairclip study --smoke

        fairclip study --only adult-sex,german-age

        fairclip study --jobs 16 --out runs/study
    """
    with input_errors():
        if jobs is not None and jobs < 1:
            raise ValueError(f"`jobs` must be at least 1, got {jobs}.")
        from fairclip.comparison import RunError
        from fairclip.study import run_study

        folder = out or Path("runs/study-smoke" if smoke else "runs/study")
        names = None
        if only is not None:
            names = [name.strip() for name in only.split(",") if name.strip()]
        try:
            report = run_study(
                folder, only=names, smoke=smoke, overwrite=overwrite, jobs=jobs, progress=True
            )
        except KeyboardInterrupt:
            typer.echo(f"Interrupted. The same command goes on with {folder}.", err=True)
            raise typer.Exit(130) from None
        except RunError as error:
            typer.echo("\n".join([f"error: {error}", *getattr(error, "__notes__", ())]), err=True)
            raise typer.Exit(2) from None
    console = open_console()
    console.print(report.lead)
    console.print(f"\nPage: {folder / 'study.html'}", soft_wrap=True)
