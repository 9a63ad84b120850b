"""A finished comparison, as its folder holds it, and what the study makes of it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import pandas as pd

from fairclip.metrics import over_seeds, restore_formulas
from fairclip.study._families import BASELINE, FAMILIES, NOTHING, OURS, RIVALS, Family
from fairclip.study._fronts import fronts, hypervolumes
from fairclip.study._sensitivity import alternative_volumes
from fairclip.study._settings import Setting
from fairclip.study._verdicts import verdicts
from fairclip.study._views import VIEWS, View, mark_valid

# One `seed` for the means over them, so that what judges a seed also judges the means.
_MEAN = -1
# So many rivals have a colour in a picture.
N_STRONGEST = 3
SHOWN = (
    "accuracy",
    "balanced_accuracy",
    "worst_cell_accuracy",
    "equalized_odds_difference",
)


@dataclass(frozen=True)
class Record:
    """The figures of one setting.

    Attributes:
        setting: What was compared.
        runs: One row for each arm, seed and part.
        by_group: One row for each arm, seed, part and group.
        environment: As in ``environment.json``.
    """

    setting: Setting
    runs: pd.DataFrame
    by_group: pd.DataFrame
    environment: dict[str, Any]

    @classmethod
    def read(cls, setting: Setting, folder: Path) -> Self:
        """Return what a finished comparison left in its folder."""
        runs, by_group = (
            restore_formulas(pd.read_csv(folder / name))
            for name in ("runs.csv", "runs_by_group.csv")
        )
        environment = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
        return cls(setting, runs, by_group, environment)

    @property
    def families(self) -> list[Family]:
        """Those of which an arm was run."""
        arms = set(self.runs["arm"])
        return [family for family in FAMILIES if arms.intersection(family.arms)]

    def few_arms(self, name: str) -> str:
        """Return in brackets how many arms a rival has here, where others have more.

        Args:
            name: Of a family; of one that is no rival, or was not run, nothing is returned.
        """
        arms = set(self.runs["arm"])
        n = {f.name: len(arms.intersection(f.arms)) for f in self.families if not f.ours}
        return f" ({n[name]} arms)" if name in n and n[name] < max(n.values()) else ""

    @property
    def n_seeds(self) -> int:
        """Number of seeds."""
        return int(self.runs["seed"].nunique())

    @cached_property
    def test_over_train(self) -> float:
        """Rows of the test part over rows of the training part."""
        first = self.by_group["seed"] == self.by_group["seed"].min()
        rows = self.by_group[first & (self.by_group["arm"] == BASELINE)].groupby("part")["n"].sum()
        return float(rows["test"] / (self.environment["data"]["rows"] - rows.sum()))

    @cached_property
    def points(self) -> pd.DataFrame:
        """The runs, and which are valid."""
        return mark_valid(self.runs, self.by_group)

    @cached_property
    def means(self) -> pd.DataFrame:
        """The same of the means over the seeds; n/a where one of them is."""
        runs, by_group = (
            # Means of equal shares can be off by the last bit.
            (sums / self.n_seeds).round(12).reset_index().assign(seed=_MEAN)
            for frame, keys in (
                (self.runs, ["arm", "part"]),
                (self.by_group, ["arm", "part", "group"]),
            )
            for sums in [
                frame.drop(columns="seed")
                .groupby(keys, sort=False)
                .sum(numeric_only=True, min_count=self.n_seeds)
            ]
        )
        return mark_valid(runs, by_group)

    def means_of(self, part: str) -> pd.DataFrame:
        """Return the means of one part, indexed by arm."""
        return self.means[self.means["part"] == part].set_index("arm")

    @cached_property
    def test(self) -> pd.DataFrame:
        """The means of the test part and their changes against the baseline, with intervals."""
        runs = self.runs[self.runs["part"] == "test"]
        return self._over_seeds(runs[["arm", "seed", *SHOWN]])

    @cached_property
    def cells(self) -> pd.DataFrame:
        """The same of the recall of each cell (group, label)."""
        rows = self.by_group[self.by_group["part"] == "test"]
        recalls = {1: rows["tpr"], 0: 1 - rows["fpr"]}
        long = pd.concat(
            rows[["arm", "seed"]].assign(cell=rows["group"] + f", y={label}", recall=recall)
            for label, recall in recalls.items()
        )
        wide = long.pivot_table("recall", ["arm", "seed"], "cell", sort=False, dropna=False)
        return self._over_seeds(wide.reset_index())

    def _over_seeds(self, runs: pd.DataFrame) -> pd.DataFrame:
        table = over_seeds(runs, baseline=BASELINE, test_over_train=self.test_over_train)
        # As in a comparison: differences of equal sums can be off by the last bit.
        return table.round(12) + 0.0

    @cached_property
    def fronts(self) -> dict[View, pd.DataFrame]:
        """The chosen arms' test points, of doing nothing, each family and seed, by view."""
        return {view: fronts(self.points, [NOTHING, *self.families], view) for view in VIEWS}

    @cached_property
    def hypervolumes(self) -> dict[View, pd.DataFrame]:
        """The areas of these."""
        return {view: hypervolumes(front, self.points, view) for view, front in self.fronts.items()}

    def mean_fronts(self, view: View) -> pd.DataFrame:
        """Return the same, chosen and shown as means over the seeds."""
        return fronts(self.means, self.families, view)

    def strongest_rivals(self, view: View) -> list[str]:
        """Return the rivals with the largest areas in the mean over the seeds."""
        areas = self.hypervolumes[view].groupby("family", sort=False)["hypervolume"].mean()
        rivals = areas[areas.index.isin(RIVALS)].round(12)
        return list(rivals.sort_values(ascending=False, kind="stable").index[:N_STRONGEST])

    @cached_property
    def verdicts(self) -> pd.DataFrame:
        """What `verdicts` says, in a column ``view`` by both views, and what it would say else."""
        families = [NOTHING, *self.families]
        volumes = {}
        for view, front in self.fronts.items():
            others = alternative_volumes(self.points, families, view, front)
            volumes[view] = self.hypervolumes[view].join(others, on=["family", "seed"])
        return self._judged(volumes, OURS)

    @cached_property
    def rival_verdicts(self) -> pd.DataFrame:
        """The same of each rival and the other rivals, under the choices of the page alone."""
        return self._judged(self.hypervolumes, RIVALS)

    def _judged(self, volumes: dict[View, pd.DataFrame], families: Sequence[str]) -> pd.DataFrame:
        tables = [
            verdicts(of_view, self.test_over_train, families).assign(view=view.title)
            for view, of_view in volumes.items()
        ]
        table = pd.concat(tables, ignore_index=True)
        return table[["view", *table.columns.drop("view")]]
