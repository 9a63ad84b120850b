"""Arms × seeds, from a table to a run folder."""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from fairclip.comparison._plan import Comparison, prepare
from fairclip.comparison._settings import Settings


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
    within 2 points of accuracy).

    On demand there are ``rivals`` of other libraries: ``torchjd:UPGrad`` and other aggregators of
    TorchJD, on the gradients of the groups' mean losses; ``exponentiated_gradient`` of fairlearn,
    which trains some 25 networks; and ``threshold_optimizer`` of fairlearn, which needs the groups
    to predict. These two draw some predictions at random and have no scores. Any other arm goes by
    its name too, such as ``target_cap@0.02``, ``fairbatch``, ``fairgrad`` and ``fairret``; ``arms``
    takes the place of the main ones.

    All arms of a seed share the split into training, validation and test part (60/20/20,
    stratified by cell), the initial weights and the order of the batches. Nothing is learned from
    or chosen on the test part.

    Args:
        data: A file (CSV, CSV.gz, Parquet), a table, or ``adult``, ``german``,
            ``credit_default``, ``loanapp``, ``digits``, ``two_concepts`` (synthetic both).
        out: Folder to write; it is called ``<out>.partial`` until it is complete. None: nothing
            is kept on disk.
        resume: Go on with ``<out>.partial``, or add arms and seeds to a finished run; refused if
            data, other settings or versions differ.
        overwrite: Replace an earlier run.
        jobs: Processes; no result depends on it. None: one for each core.
        progress: Show a bar on stderr.
        settings: The fields of :class:`fairclip.comparison.Settings`, such as ``target``,
            ``sensitive``, ``max_ratio`` and ``seeds``.

    Raises:
        ModuleNotFoundError: If a rival needs an extra; nothing has been written then.
        OSError: If a file cannot be read or a folder cannot be made.
        ValueError: If data or settings cannot be used. Nothing has been written then, unless
            training went wrong after some runs were finished, which ``resume`` finds.

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
