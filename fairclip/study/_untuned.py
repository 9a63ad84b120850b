"""What some fixed arms do on every setting, for those who tune nothing."""

from collections.abc import Sequence

import pandas as pd

from fairclip.comparison import format_change
from fairclip.metrics import Section, Table
from fairclip.study._record import SHOWN, Record

UNTUNED = (
    "fair_cap@2",
    "fair_cap_label@2",
    "fair_cap_label@2+balance0.33",
    "target_cap@0.02",
    "target_cap_worst@0.2+soft",
    "label_reweight@0.5",
    "reweight@0.5",
    "reweight_within@0.5",
    "group_dro@0.01",
    "fairbatch@0.01",
    "fairgrad@0.001",
    "fairret@0.02",
    "torchjd:UPGrad@0.4",
)

_KEY = (
    "fair_cap@R is NormCap with ratio R over all cells, fair_cap_label@R within each label, and "
    "+balance moves it towards labels of equal weight; target_cap@g and target_cap_worst@g are "
    "TargetCap for equalized odds and for the worst cell with gap g. A smaller R or g caps more. "
    "label_reweight@p, reweight@p and reweight_within@p weigh rows by n^-p, n being the rows of "
    "the label, of the cell, and of the cell within its label; a larger p does more. Of the others "
    "the number is a step size, a strength or a preference."
)


def untuned_section(records: Sequence[Record]) -> Section:
    """Show the changes of each figure that such an arm brings, by setting."""
    tables = [
        Table(untuned_table(records, metric), f"Change of {metric.replace('_', ' ')}.")
        for metric in SHOWN
    ]
    return Section(
        "Without tuning",
        (
            "The same arms on every setting, middling ones of their grids: change against "
            "unclipped on the test parts ± half its 95 % interval. The grids of NormCap+balance "
            "and TargetCap were made on some of these tables. Higher is better but for the "
            "equalized odds difference, which a step towards a constant prediction makes smaller "
            "too. Methods with cuts fitted to a table have no such arm.",
            _KEY,
            *tables,
        ),
    )


def untuned_table(records: Sequence[Record], metric: str) -> pd.DataFrame:
    """Return the change of one figure by arm and setting; an arm that was not run says so."""
    columns = {
        record.setting.title: {
            arm: format_change(found[arm], metric) if arm in found else "not run" for arm in UNTUNED
        }
        for record in records
        for found in [record.test.to_dict("index")]
    }
    return pd.DataFrame(columns).rename_axis("arm")
