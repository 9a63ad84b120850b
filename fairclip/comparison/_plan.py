"""A comparison that has been checked, and how it runs."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import pandas as pd
import torch
from joblib import Parallel, cpu_count, delayed
from tqdm import tqdm

from fairclip.comparison._arms import Arm, TrainedArm, make_arms
from fairclip.comparison._caps import FairArm
from fairclip.comparison._environment import describe_environment
from fairclip.comparison._errors import RunError
from fairclip.comparison._folder import RunFolder, open_folder
from fairclip.comparison._outcome import TaskFiles, write_table
from fairclip.comparison._report import make_report
from fairclip.comparison._results import Results, collect
from fairclip.comparison._select import BASELINE
from fairclip.comparison._settings import Settings
from fairclip.comparison._source import open_source
from fairclip.comparison._split import split
from fairclip.comparison._start import Start
from fairclip.comparison._table import Table, make_table
from fairclip.comparison._task import TRACED_SEED, run_task
from fairclip.metrics import Report
from fairclip.training import make_mlp

Task: TypeAlias = tuple[Arm, int]

_BATCH_SIZE = 256


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A finished comparison.

    Attributes:
        tradeoff: One row for each arm, as in ``tradeoff.csv``.
        by_group: One row for each arm and group, as in ``by_group.csv``.
        runs: One row for each arm, seed and part of the rows, as in ``runs.csv``.
        runs_by_group: One row for each of these and each group, as in ``runs_by_group.csv``.
        trace: One row for each training step of the first seed, as in ``trace.csv``.
        report: The pages; ``report.save(folder)`` writes them.
        folder: Where all of it was written, None if it was not.
    """

    tradeoff: pd.DataFrame
    by_group: pd.DataFrame
    runs: pd.DataFrame
    runs_by_group: pd.DataFrame
    trace: pd.DataFrame
    report: Report
    folder: Path | None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A comparison that has been checked and not yet run.

    Attributes:
        settings: With what an embedded set knows filled in.
        table: The data.
        arms: What is compared, the baseline first.
        environment: As in ``environment.json``.
        folder: Where results go as they come.
    """

    settings: Settings
    table: Table
    arms: tuple[Arm, ...]
    environment: dict[str, Any]
    folder: RunFolder

    def run(self, jobs: int | None = None, progress: bool = False) -> Comparison:
        """Do what is not done yet, and put tables and the report beside it.

        Args:
            jobs: Processes; no result depends on it. None: one for each core.
            progress: Show a bar on stderr.

        Raises:
            RunError: If training cannot use the data or the settings.
        """
        results = self._measure(jobs, progress)
        traces = {
            arm.name: pd.read_csv(files.trace)
            for arm in self.arms
            if (files := self._files((arm, TRACED_SEED))).trace.exists()
        }
        report = make_report(
            self.settings, self.table, self.arms, self.environment, results, traces
        )
        trace = pd.concat([frame.assign(arm=arm) for arm, frame in traces.items()])
        trace = trace[["arm", *trace.columns.drop("arm")]].reset_index(drop=True)
        report.save(self.folder.work)
        write_table(self.folder.work / "trace.csv", trace)
        self.folder.finish()
        return Comparison(
            tradeoff=results.tradeoff,
            by_group=results.by_group,
            runs=results.runs,
            runs_by_group=results.runs_by_group,
            trace=trace,
            report=report,
            folder=self.folder.final,
        )

    def measure(self, jobs: int | None = None, progress: bool = False) -> Results:
        """Do what is not done yet, and leave the tables without a report.

        Args:
            jobs: As for :meth:`run`.
            progress: Likewise.

        Raises:
            RunError: As for :meth:`run`.
        """
        results = self._measure(jobs, progress)
        self.folder.finish()
        return results

    def _measure(self, jobs: int | None, progress: bool) -> Results:
        tasks = [(arm, seed) for seed in range(self.settings.seeds) for arm in self.arms]
        left = [task for task in tasks if not self._files(task).outcome.exists()]
        baselines = [task for task in left if task[0].name == BASELINE]
        others = [task for task in left if task[0].name != BASELINE]
        threads = torch.get_num_threads()  # a task sets it, and a single job runs in this process
        try:
            with tqdm(
                total=len(tasks), initial=len(tasks) - len(left), unit="run", disable=not progress
            ) as bar:
                self._run(baselines, jobs or cpu_count(), bar)
                self._run(others, jobs or cpu_count(), bar)
        except RunError as error:
            if not any(self._files(task).outcome.exists() for task in tasks):
                self.folder.discard()
                raise
            raise RunError(
                f"{error} What is finished is in {self.folder.work}: `resume` (--resume) goes on "
                "with the same settings, `overwrite` (--overwrite) starts anew."
            ) from error
        finally:
            torch.set_num_threads(threads)
        outcomes = [self._files(task).read() for task in tasks]
        rows = split(self.table, seed=0)
        results = collect(outcomes, test_over_train=len(rows.test) / len(rows.train))
        for name in ("tradeoff", "by_group", "runs", "runs_by_group"):
            write_table(self.folder.work / f"{name}.csv", getattr(results, name))
        return results

    def _files(self, task: Task) -> TaskFiles:
        return TaskFiles.of(self.folder.work, task[0].name, task[1])

    def _run(self, tasks: Sequence[Task], jobs: int, bar: "tqdm[NoReturn]") -> None:
        if not tasks:
            return
        done = Parallel(n_jobs=min(jobs, len(tasks)), return_as="generator_unordered")(
            delayed(run_task)(self.table, self.settings, *task, self.folder.work) for task in tasks
        )
        for _ in done:
            bar.update()


def prepare(
    settings: Settings,
    frame: pd.DataFrame | None = None,
    *,
    out: Path,
    resume: bool = False,
    overwrite: bool = False,
) -> Plan:
    """Check everything, then open the run folder.

    Args:
        settings: ``data`` names the table, unless there is a ``frame``.
        frame: A table in memory.
        out: As for :func:`compare`.
        resume: Likewise.
        overwrite: Likewise.

    Raises:
        ModuleNotFoundError: If a rival needs an extra.
        OSError: If a file cannot be read or a folder cannot be made.
        ValueError: If data or settings cannot be used; nothing has been written then.
    """
    source, settings = open_source(settings, frame)
    if settings.device != "cpu":
        cuda = torch.cuda.is_available()
        if settings.device == "cuda" and not cuda:
            raise ValueError("`device` is cuda and torch finds none here: use cpu or auto.")
        settings = replace(settings, device="cuda" if cuda else "cpu")
    table, arms = make_table(source, settings), make_arms(settings)
    train = split(table, seed=0).train
    if settings.batch_size is None:
        settings = replace(settings, batch_size=min(_BATCH_SIZE, max(1, len(train) // 10)))
    start = Start.of(make_mlp(1, 1, (), seed=0), table, train, settings, median_norm=1.0, seed=0)
    _check_steps(arms, start, settings)
    environment = describe_environment(source, settings)
    folder = open_folder(out, settings, environment, resume=resume, overwrite=overwrite)
    return Plan(settings=settings, table=table, arms=arms, environment=environment, folder=folder)


def _check_steps(arms: Sequence[Arm], start: Start, settings: Settings) -> None:
    """Build each step once, so that what does not fit the groups is known before training."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # training says the same
        for arm in arms:
            if not isinstance(arm, TrainedArm):
                continue
            try:
                arm.step(start)
            except ValueError as error:
                is_named = settings.reference not in {"minority", "smallest_norm"}
                if not (isinstance(arm, FairArm) and is_named):
                    raise ValueError(f"The arm {arm.name} cannot be trained: {error}") from error
                raise ValueError(
                    f"`reference` {settings.reference!r} does not suit the arm {arm.name}: name a "
                    "cell and use within='all' (--within all), or a group and use within='label' "
                    f"(--within label). There are: {'; '.join(start.encoder.names_)}. {error}"
                ) from error
