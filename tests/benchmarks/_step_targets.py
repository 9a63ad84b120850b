"""What a step may cost at most, and whether the results say so."""

from collections.abc import Iterable, Iterator, Mapping

from tests.benchmarks._step_results import Row, Setting

SMALL_MLP, LARGE_MLP = "MLP 100-64-64-2", "MLP 512-1024-1024-10"
LARGEST_EXACT = {  # by model, number of groups and minority
    (LARGE_MLP, 2, "20"): 1.18,
    (LARGE_MLP, 8, "40"): 1.35,
    (SMALL_MLP, 2, "20"): 1.5,
    (SMALL_MLP, 8, "40"): 1.7,
    ("CNN", 2, "20"): 1.15,
    ("CNN", 8, "40"): 1.30,
    ("Transformer", 2, "20"): 1.15,
    ("Transformer", 8, "40"): 1.30,
    ("ResNet-50", 2, "20"): 1.08,
    ("ResNet-50", 8, "40"): 1.15,
    ("BERT-base", 2, "20"): 1.08,
    ("BERT-base", 8, "40"): 1.15,
}
Arms = Mapping[str, Row]  # those that ran
Check = tuple[str, float, float]  # what, the figure, the most it may be


def verdicts(rows: Iterable[Row]) -> Iterator[str]:
    """Yield a line for each target that the results can tell about."""
    settings: dict[Setting, dict[str, Row]] = {}
    for row in rows:
        if row.wall is not None:
            settings.setdefault(row.setting, {})[row.arm] = row
    for setting, arms in settings.items():
        at_two = settings.get(Setting(setting.device, setting.model, 2, setting.minority), {})
        where = f"{setting.model}, K={setting.n_groups}, {setting.minority} ({setting.device})"
        for what, figure, most in _checks(setting, arms, at_two):
            verdict = "met" if figure <= most else "MISSED"
            yield f"{verdict:<7}{where}: {what} {figure:.2f} <= {most:.2f}"


def _checks(setting: Setting, arms: Arms, at_two: Arms) -> Iterator[Check]:
    if (exact := arms.get("exact")) and exact.wall is not None:
        most = LARGEST_EXACT.get((setting.model, setting.n_groups, setting.minority))
        if most is not None:
            yield "exact", exact.wall, most
        if exact.floor is not None:
            yield "exact, of the floor", exact.wall / exact.floor, 1.10
        if exact.memory is not None:
            yield "peak memory", exact.memory, 1.15
        rival = arms.get("TorchJD")
        if setting.n_groups == 8 and rival and rival.wall is not None:
            yield "exact, of a third of TorchJD", 3 * exact.wall / rival.wall, 1.0
        two = at_two.get("exact")
        if setting.n_groups == 16 and two and two.wall is not None:
            yield "exact, of that at K=2", exact.wall / two.wall, 1.3
    if (lagged := arms.get("lagged")) and lagged.wall is not None:
        if setting.model == SMALL_MLP:
            yield "lagged", lagged.wall, 1.2
        elif lagged.plain_ms >= 5:
            yield "lagged", lagged.wall, 1.05
