"""`fairclip audit`: any model's predictions, group by group."""

import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fairclip.cli._app import app, input_errors, option
from fairclip.cli._console import one_line, open_console
from fairclip.cli._show import show

if TYPE_CHECKING:
    import pandas as pd

    from fairclip.metrics import Audit, Tradeoff

_FORMATS = "html,md,json,csv"


@app.command()
def audit(
    predictions: Annotated[Path, typer.Argument(help="A CSV, CSV.gz or Parquet file.")],
    y_true: Annotated[str, option("Columns", "The truth: two labels, several, or numbers.")],
    y_pred: Annotated[
        list[str],
        option("Columns", "The predictions; once more for each model to compare with the first."),
    ],
    sensitive: Annotated[
        str, option("Columns", "Sensitive columns, as sex,race; they are intersected.")
    ],
    y_score: Annotated[
        list[str] | None,
        option(
            "Columns",
            "Scores of the favourable label, one for each --y-pred; of several labels their "
            "columns in ascending order of the labels, as p_cat,p_dog,p_emu.",
            default="none",
        ),
    ] = None,
    sample_weight: Annotated[
        str | None, option("Columns", "What each row counts.", default="1")
    ] = None,
    task: Annotated[
        str,
        option("Figures", "auto, binary, multiclass or regression.", default="auto, by --y-true"),
    ] = "auto",
    favourable: Annotated[
        str | None, option("Figures", "The favourable of two labels.", default="the greater one")
    ] = None,
    reference: Annotated[
        str | None,
        option("Figures", "Group to compare with, as sex=male.", default="the one of most rows"),
    ] = None,
    metric: Annotated[
        list[str] | None,
        option("Figures", "A further metric of fairlearn or scikit-learn by name; repeatable."),
    ] = None,
    confidence: Annotated[
        float, option("Figures", "Coverage of the intervals.", default=True)
    ] = 0.95,
    n_boot: Annotated[
        int, option("Figures", "Draws of each bootstrap and permutation.", default=True)
    ] = 10_000,
    random_state: Annotated[int, option("Figures", "Seed of the draws.", default=True)] = 0,
    min_group_size: Annotated[
        int, option("Figures", "Flag cells with fewer rows.", default=True)
    ] = 30,
    suppress_below: Annotated[
        int | None,
        option("Figures", "Hide groups with a cell of fewer rows, wherever figures are shown."),
    ] = None,
    fail_under: Annotated[
        list[str] | None,
        option("Checks", "Exit with 1 if a figure is less: worst_group_accuracy=0.6; repeatable."),
    ] = None,
    fail_over: Annotated[
        list[str] | None,
        option(
            "Checks", "Exit with 1 if a figure is more: equalized_odds_difference=0.1; repeatable."
        ),
    ] = None,
    use_bounds: Annotated[
        bool,
        option(
            "Checks",
            "Check the lower bound in --fail-under and the upper one in --fail-over.",
            "--use-bounds",
        ),
    ] = False,
    out: Annotated[Path | None, option("Output", "New folder for the report.")] = None,
    formats: Annotated[
        str | None, option("Output", "What to write there.", "--format", default=_FORMATS)
    ] = None,
    thresholds: Annotated[
        Path | None,
        option("Output", "TOML file of thresholds for the report.", default="fairclip's own"),
    ] = None,
    as_json: Annotated[bool, option("Output", "Print the report as JSON.", "--json")] = False,
) -> None:
    """Assess predictions group by group; any model's, and those of a run of compare.

    A figure to check is any that the report has: one of all rows (accuracy), of the groups together
    (worst_group_accuracy, equalized_odds_difference), or of a group (tpr[sex=female]). With several
    --y-pred the checks are of every model but the first. An undefined or hidden figure fails.

    Exit codes: 0; 1 where a check failed; 2 for input that cannot be used; 130 when interrupted.

    **Examples**

        fairclip audit predictions.parquet --y-true y --y-pred p --y-score s --sensitive sex,race
          --out audits/today --suppress-below 10

        fairclip audit predictions.csv --y-true y --y-pred old --y-pred new --sensitive sex

        fairclip audit predictions.csv --y-true y --y-pred p --sensitive sex
          --fail-under worst_group_accuracy=0.6 --fail-over equalized_odds_difference=0.1

        fairclip audit runs/demo/predictions/unclipped__seed0.csv.gz --y-true y_true
          --y-pred y_pred --y-score y_score --sensitive sex
    """
    with input_errors():
        from fairclip import metrics

        columns = _Columns(
            y_true, y_pred, _names(sensitive), list(map(_names, y_score or [])), sample_weight
        )
        under, over = _thresholds(fail_under, "--fail-under"), _thresholds(fail_over, "--fail-over")
        wanted = _wanted(formats, out)
        frame = _narrow(metrics.read_predictions(predictions, columns.all, progress=True))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", metrics.MetricsWarning)  # the audit's notes say it too
            found = columns.assess(
                frame,
                task=task,
                metrics=metric or (),
                favourable=_value(frame[y_true], favourable),
                reference=reference,
                confidence=confidence,
                n_boot=n_boot,
                min_group_size=min_group_size,
                random_state=random_state,
            )
        if suppress_below is not None:
            found = found.suppress(suppress_below)
        checks = [
            (prefix, check)
            for prefix, checked in _checked(found).items()
            for check in metrics.check(
                checked, fail_under=under, fail_over=over, use_bounds=use_bounds
            )
        ]
        if out is not None:
            found.save(out, wanted, thresholds=thresholds)
        if as_json:
            with TemporaryDirectory() as folder:
                found.save(folder, ("json",), thresholds=thresholds)
                typer.echo((Path(folder) / "report.json").read_text(encoding="utf-8"), nl=False)
    if not as_json:
        show(found, open_console(), out)
    for prefix, check in checks:
        typer.echo(one_line(f"{prefix}{check}"), err=True)
    if any(check.failed for _, check in checks):
        raise typer.Exit(1)


@dataclass(frozen=True, slots=True)
class _Columns:
    """The columns that the options name."""

    y_true: str
    y_pred: list[str]
    sensitive: list[str]
    y_score: list[list[str]]  # one list a model, of one column or one a label
    sample_weight: str | None

    def __post_init__(self) -> None:
        for names, name in ((self.y_pred, "--y-pred"), (self.sensitive, "--sensitive")):
            twice = next((column for column in names if names.count(column) > 1), None)
            if twice is not None:
                raise ValueError(f"`{twice}` is named twice in {name}.")
        if self.y_score and len(self.y_score) != len(self.y_pred):
            raise ValueError(
                f"--y-score must be given once for each --y-pred or not at all, got "
                f"{len(self.y_score)} for {len(self.y_pred)}."
            )

    @property
    def all(self) -> list[str]:
        """Every name once."""
        weight = [] if self.sample_weight is None else [self.sample_weight]
        scores = [name for names in self.y_score for name in names]
        return list(dict.fromkeys([self.y_true, *self.y_pred, *self.sensitive, *scores, *weight]))

    def assess(self, frame: "pd.DataFrame", **options: Any) -> "Audit | Tradeoff":
        """Audit the one model, or compare the models with the first."""
        from fairclip import metrics

        options["sensitive_features"] = frame[self.sensitive]
        if self.sample_weight is not None:
            options["sample_weight"] = frame[self.sample_weight]
        scores = [frame[names[0] if len(names) == 1 else names] for names in self.y_score]
        truth = frame[self.y_true]
        if len(self.y_pred) == 1:
            options["y_score"] = scores[0] if scores else None
            return metrics.audit(truth, frame[self.y_pred[0]], **options)
        return metrics.tradeoff(
            {name: frame[name] for name in self.y_pred},
            truth,
            y_scores=dict(zip(self.y_pred, scores, strict=True)) if scores else None,
            baseline=self.y_pred[0],
            **options,
        )


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def _thresholds(texts: list[str] | None, option: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for text in texts or ():
        name, _, number = text.rpartition("=")  # a group's name has signs of its own
        try:
            threshold = float(number)
        except ValueError:
            threshold = math.nan
        if not name or math.isnan(threshold):
            raise ValueError(f"{option} must be as accuracy=0.6, got {text!r}.")
        if name.strip() in found:
            raise ValueError(f"`{name.strip()}` is named twice in {option}.")
        found[name.strip()] = threshold
    return found


def _wanted(formats: str | None, out: Path | None) -> list[str]:
    if formats is not None and out is None:
        raise ValueError("--format says what to write: name a new folder with --out.")
    if out is not None and out.exists():
        raise ValueError(f"{out} exists: choose a new folder.")
    wanted = _names(formats or _FORMATS)
    for name in wanted:
        if name not in _FORMATS.split(","):
            raise ValueError(f"--format must be of {_FORMATS}, got {name!r}.")
    return wanted


def _narrow(frame: "pd.DataFrame") -> "pd.DataFrame":
    """Store whole numbers in as few bytes as they need: labels in one of eight."""
    import pandas as pd

    whole = frame.select_dtypes("integer").columns
    return frame.assign(**{name: pd.to_numeric(frame[name], downcast="integer") for name in whole})


def _value(labels: "pd.Series[Any]", text: str | None) -> Any:
    """Return the label that is written as ``text``; 1.0 and True are written 1 too."""
    if text is None:
        return None
    found = labels.unique().tolist()
    whole = [each for each in found if isinstance(each, int | float) and float(each).is_integer()]
    written = {str(int(each)): each for each in whole} | {str(each): each for each in found}
    return written.get(text, text)


def _checked(found: "Audit | Tradeoff") -> dict[str, "Audit"]:
    """Return the audits that checks are of, by what their lines begin with."""
    from fairclip.metrics import Audit

    if isinstance(found, Audit):
        return {"": found}
    return {f"{arm}: ": audit for arm, audit in list(found.audits.items())[1:]}
