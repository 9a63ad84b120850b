"""Run the comparisons of the study that are not finished, and write the page."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from fairclip._extras import require
from fairclip.comparison import RunError, Settings, prepare
from fairclip.metrics import Report
from fairclip.study._page import write_page
from fairclip.study._settings import Setting, study_settings


def run_study(
    out: Path,
    *,
    only: Sequence[str] | None = None,
    smoke: bool = False,
    overwrite: bool = False,
    jobs: int | None = None,
    progress: bool = False,
) -> Report:
    """Run what is not finished, go on with what was interrupted, and write the page.

    The page holds whatever is finished, and names what is missing. A setting that fails does not
    keep the others from running.

    Args:
        out: Folder of the study, with a folder for each setting.
        only: Names of the settings to run. None: all.
        smoke: As for `study_settings`.
        overwrite: Run finished settings again too.
        jobs: Processes; no result depends on it. None: one for each core.
        progress: Show bars on stderr.

    Returns:
        The page.

    Raises:
        ModuleNotFoundError: If an extra is not installed.
        RunError: If settings failed, after all others ran and the page was written.
        ValueError: If a name is unknown, or there is none.
    """
    require("moocore", "study")  # the page needs it, hours later
    settings = study_settings(smoke=smoke)
    chosen = _named(settings, only)
    failed: dict[str, str] = {}
    with _page_on_error(out, settings), tqdm(chosen, unit="setting", disable=not progress) as bar:
        for setting in bar:
            bar.set_description(setting.name)
            if overwrite or not setting.is_finished(out):
                try:
                    _measure(setting, out, overwrite, jobs, progress)
                except (OSError, ValueError) as error:
                    failed[setting.name] = _reason(error)
        if failed:
            raise RunError(_all_failed(failed))
    return write_page(out, settings)


def _named(settings: Sequence[Setting], only: Sequence[str] | None) -> list[Setting]:
    names = [setting.name for setting in settings]
    if only is None:
        return list(settings)
    if not only:
        raise ValueError(f"`only` (--only) names no setting; there are {', '.join(names)}.")
    if unknown := [name for name in only if name not in names]:
        raise ValueError(f"`only` (--only) has no {unknown[0]!r}; there are {', '.join(names)}.")
    return [setting for setting in settings if setting.name in only]


def _measure(
    setting: Setting, out: Path, overwrite: bool, jobs: int | None, progress: bool
) -> None:
    # Not before its turn: until then an earlier run of it stays as it is.
    plan = prepare(
        Settings.of(setting.values),
        out=out / setting.name,
        resume=not overwrite,
        overwrite=overwrite,
    )
    plan.measure(jobs, progress)


@contextmanager
def _page_on_error(out: Path, settings: Sequence[Setting]) -> Iterator[None]:
    """Write the page when something ends the study, and let that be what is raised."""
    try:
        yield
    except BaseException as first:
        try:
            write_page(out, settings)
        except Exception as second:
            first.add_note(f"Nor could the page be written: {second}")
        raise


def _reason(error: Exception) -> str:
    # The cause lacks the remedy, which is a flag of `compare`.
    return str(error.__cause__ if isinstance(error.__cause__, RunError) else error)


def _all_failed(failed: Mapping[str, str]) -> str:
    reasons = " ".join(f"{name}: {reason}" for name, reason in failed.items())
    return (
        f"{len(failed)} of the settings failed. {reasons} The others are finished and on the page; "
        "run the same command again to go on with these."
    )
