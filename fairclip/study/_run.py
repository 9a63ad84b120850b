"""Run the comparisons of the study that are not finished, and write the page."""

from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from fairclip.comparison import Plan, Settings, prepare
from fairclip.metrics import Report
from fairclip.study._page import write_page
from fairclip.study._settings import Setting, study_settings


def run_study(
    out: Path,
    *,
    only: Sequence[str] = (),
    smoke: bool = False,
    overwrite: bool = False,
    jobs: int | None = None,
    progress: bool = False,
) -> Report:
    """Run what is not finished, go on with what was interrupted, and write the page.

    The page holds whatever is finished, and names what is missing.

    Args:
        out: Folder of the study, with a folder for each setting.
        only: Names of the settings to run; empty: all.
        smoke: As for `study_settings`.
        overwrite: Run finished settings again too.
        jobs: Processes; no result depends on it. None: one for each core.
        progress: Show bars on stderr.

    Returns:
        The page.

    Raises:
        ModuleNotFoundError: If an extra is not installed.
        RunError: If training cannot use the data or the settings.
        ValueError: If a name is unknown, or ``out`` holds runs of other settings.
    """
    settings = study_settings(smoke=smoke)
    names = [setting.name for setting in settings]
    if unknown := [name for name in only if name not in names]:
        raise ValueError(f"`only` (--only) has no {unknown[0]!r}; there are {', '.join(names)}.")
    chosen = [setting for setting in settings if not only or setting.name in only]
    # All are checked before the first is trained.
    plans = [
        _prepare(setting, out / setting.name, overwrite)
        for setting in chosen
        if overwrite or not _is_finished(setting, out / setting.name)
    ]
    try:
        with tqdm(
            total=len(chosen),
            initial=len(chosen) - len(plans),
            unit="setting",
            disable=not progress,
        ) as bar:
            for plan in plans:
                bar.set_description(plan.folder.final.name)
                plan.measure(jobs, progress)
                bar.update()
    finally:
        report = write_page(out, settings)
    return report


def _prepare(setting: Setting, folder: Path, overwrite: bool) -> Plan:
    settings = Settings.of(setting.values)
    return prepare(settings, out=folder, resume=not overwrite, overwrite=overwrite)


def _is_finished(setting: Setting, folder: Path) -> bool:
    """Return whether all of it is there; what has fewer arms or seeds is gone on with."""
    if not folder.exists():
        return False
    there, wanted = Settings.read(folder / "config.toml"), Settings.of(setting.values)
    return all(getattr(there, name) == getattr(wanted, name) for name in setting.values)
