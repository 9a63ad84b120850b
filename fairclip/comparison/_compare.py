"""Arms × seeds, from a table to a run folder."""

import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import pandas as pd
import torch
from joblib import Parallel, cpu_count, delayed
from tqdm import tqdm

from fairclip.comparison._arms import BASELINE, Arm, Start, ThresholdArm, make_arms
from fairclip.comparison._environment import describe_environment
from fairclip.comparison._folder import RunFolder, open_folder
from fairclip.comparison._outcome import TaskFiles
from fairclip.comparison._report import make_report
from fairclip.comparison._results import collect
from fairclip.comparison._settings import Settings
from fairclip.comparison._source import open_source
from fairclip.comparison._split import split
from fairclip.comparison._table import Table, make_table
from fairclip.comparison._task import TRACED_SEED, run_task
from fairclip.groups import GroupEncoder
from fairclip.metrics import Report, neutralise_formulas
from fairclip.training import make_mlp

Task: TypeAlias = tuple[Arm, int]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A finished comparison.

    Attributes:
        tradeoff: One row for each arm, as in ``tradeoff.csv``.
        by_group: One row for each arm and group, as in ``by_group.csv``.
        trace: One row for each training step of the first seed, as in ``trace.csv``.
        report: The pages; ``report.save(folder)`` writes them.
        folder: Where all of it was written, None if it was not.
    """

    tradeoff: pd.DataFrame
    by_group: pd.DataFrame
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
        """Do what is not done yet, and put the report beside it.

        Args:
            jobs: Processes; no result depends on it. None: one for each core.
            progress: Show a bar on stderr.
        """
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
        finally:
            torch.set_num_threads(threads)
        return self._finish(tasks)

    def _files(self, task: Task) -> TaskFiles:
        return TaskFiles.of(self.folder.work, task[0].name, task[1])

    def _run(self, tasks: Sequence[Task], jobs: int, bar: "tqdm[NoReturn]") -> None:
        if not tasks:
            return
        jobs = min(jobs, len(tasks))
        done = Parallel(n_jobs=jobs, return_as="generator_unordered")(
            delayed(run_task)(self.table, self.settings, *task, self.folder.work) for task in tasks
        )
        running = [(arm.name, seed) for arm, seed in tasks]  # the first `jobs` of what is left
        bar.set_postfix_str(_names(running[:jobs]))
        for task in done:
            running.remove(task)
            bar.set_postfix_str(_names(running[:jobs]), refresh=False)
            bar.update()

    def _finish(self, tasks: Sequence[Task]) -> Comparison:
        """Collect the results, write the pages and rename the folder."""
        outcomes = [self._files(task).read() for task in tasks]
        rows = split(self.table, seed=0)
        results = collect(outcomes, test_over_train=len(rows.test) / len(rows.train))
        traces = {
            arm.name: pd.read_csv(files.trace)
            for arm in self.arms
            if (files := self._files((arm, TRACED_SEED))).trace.exists()
        }
        report = make_report(
            self.settings,
            self.table,
            self.arms,
            self.environment,
            results,
            traces,
            warnings=sorted({message for outcome in outcomes for message in outcome.warnings}),
        )
        trace = pd.concat([frame.assign(arm=arm) for arm, frame in traces.items()])
        trace = trace[["arm", *trace.columns.drop("arm")]].reset_index(drop=True)
        report.save(self.folder.work)
        for name, frame in {
            "tradeoff": results.tradeoff,
            "by_group": results.by_group,
            "trace": trace,
        }.items():
            frame = neutralise_formulas(frame)
            frame.to_csv(self.folder.work / f"{name}.csv", index=False, lineterminator="\n")
        self.folder.finish()
        return Comparison(
            tradeoff=results.tradeoff,
            by_group=results.by_group,
            trace=trace,
            report=report,
            folder=self.folder.final,
        )


def _names(tasks: Sequence[tuple[str, int]]) -> str:
    return ", ".join(f"{arm} (seed {seed})" for arm, seed in tasks)


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
    _check_steps(table, settings, arms)
    environment = describe_environment(source, settings)
    folder = open_folder(out, settings, environment, resume=resume, overwrite=overwrite)
    return Plan(settings=settings, table=table, arms=arms, environment=environment, folder=folder)


def _check_steps(table: Table, settings: Settings, arms: Sequence[Arm]) -> None:
    """Build each step once, so that what does not fit the groups is known before training."""
    encoder = GroupEncoder(with_label=settings.groups == "cells").fit(table.sensitive, table.y)
    codes = encoder.transform(table.sensitive, table.y)
    start = Start(
        model=make_mlp(1, 1, (), seed=0),
        encoder=encoder,
        codes={"groups": codes, "cells": table.cells, "labels": table.y},
        median_norm=1.0,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # training says the same
        for arm in arms:
            if not isinstance(arm, ThresholdArm):
                arm.step(start)


def compare(
    data: str | Path | pd.DataFrame = "adult",
    *,
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    jobs: int | None = None,
    progress: bool = False,
    **settings: Any,
) -> Comparison:
    """Train every arm with every seed and report what each group gained and lost.

    The arms: ``unclipped``, the baseline; ``clip_norm``, clipped at the baseline's median norm;
    ``fair_cap@R`` and, within the label, ``fair_cap_label@R`` for each ratio; ``fair_cap_step@2``,
    the rule without memory or floor; ``fair_cap@2+clip``; the rivals ``reweight@p`` (rows weighted
    by n^-p of their cell) and ``group_dro``; and the group-blind rivals ``label_reweight@p`` and
    ``threshold`` (the baseline with the cut that gives the best worst cell of the validation part
    within 2 points of accuracy). All arms of a seed share the split into training, validation and
    test part (60/20/20, stratified by cell), the initial weights and the order of the batches.
    Nothing is learned from or chosen on the test part.

    Args:
        data: A file (CSV, CSV.gz, Parquet), a table, or ``adult``, ``german``,
            ``credit_default``, ``loanapp``.
        out: Folder to write; it is called ``<out>.partial`` until it is complete. None: nothing
            is kept on disk.
        resume: Go on with ``<out>.partial``; refused if data, settings or versions differ.
        overwrite: Replace an earlier run.
        jobs: Processes; no result depends on it. None: one for each core.
        progress: Show a bar on stderr.
        settings: The fields of :class:`fairclip.comparison.Settings`, such as ``target``,
            ``sensitive``, ``max_ratio`` and ``seeds``.

    Raises:
        OSError: If a file cannot be read or a folder cannot be made.
        ValueError: If data or settings cannot be used; nothing has been written then.

    Example:
        >>> import fairclip
        >>> result = fairclip.compare("german", seeds=2, epochs=2, quick=True, jobs=1)
        >>> list(result.tradeoff["arm"])[:3]
        ['unclipped', 'clip_norm', 'fair_cap@2']
    """
    frame = data if isinstance(data, pd.DataFrame) else None
    name = "table in memory" if frame is not None else str(data)
    chosen = Settings.of({**settings, "data": name})
    if out is not None:
        plan = prepare(chosen, frame, out=Path(out), resume=resume, overwrite=overwrite)
        return plan.run(jobs, progress)
    with tempfile.TemporaryDirectory() as folder:
        plan = prepare(chosen, frame, out=Path(folder) / "run")
        return replace(plan.run(jobs, progress), folder=None)
