"""The page of the study and its tables, from what is finished."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from fairclip.metrics import Notes, Report, Section, Table
from fairclip.study._answer import answer_section, goal_sentences, goals_table
from fairclip.study._choices import choices_section, not_here_section
from fairclip.study._families import EXPLORATORY, FAMILIES, N_ARMS, OURS, PRIMARY
from fairclip.study._fronts import BUDGET
from fairclip.study._goal import goal_of
from fairclip.study._record import Record
from fairclip.study._sections import setting_section
from fairclip.study._settings import Setting
from fairclip.study._tables import write_tables
from fairclip.study._untuned import untuned_section
from fairclip.study._why import why_in_short, why_section
from fairclip.study._words import EXPLORATORY_NOTE, words_section

_ENOUGH_SEEDS = 10

_METHOD = (
    "For each seed, of each family the arms are taken that no other arm of it beats on the "
    "validation part; unclipped belongs to every family, since anyone may decline to intervene. "
    "The test points of these arms dominate an area, the hypervolume, measured from "
    f"{BUDGET * 100:g} points of accuracy below unclipped and from a worst cell of 0 or an "
    "equalized odds difference of 1, up to the accuracy of unclipped: more accuracy than that is "
    f"no part of it. Over {BUDGET:g} it is the mean, over accuracy budgets of 0 to "
    f"{BUDGET * 100:g} points, of the best figure within the budget. That best is a maximum over "
    "test points, which are noisy. No test figure has a part in choosing among the arms of a grid; "
    "the grids themselves were moved after test figures were seen, as the answer says.",
    "Differences of hypervolume are paired by seed. They are given in points (hundredths) of the "
    f"worst cell or of the equalized odds difference, in the mean over accuracy budgets of 0 to "
    f"{BUDGET * 100:g} points: 0.001 of hypervolume is 1 point, and the margin of 0.005 is 5. In "
    "verdicts.csv are also the words under the other choices that are named on this page.",
    "In the picture of equalized odds an arm counts only where its balanced accuracy, and its AUC "
    "if it has scores, are not more than 0.01 below unclipped, and the selection rate of every "
    "group lies within half and twice the group's base rate: a constant prediction has equalized "
    "odds. This is checked on the part on which the arm is chosen.",
    "The intervals of differences are 95 % t intervals with the correction of Nadeau and Bengio "
    "for overlapping splits. They cover the choice of split, initial weights and batches on these "
    "tables. They cover neither another population, nor other models, nor that many comparisons "
    "are made: of many words some are luck.",
    "Validation rows of one seed are test rows of another. Arms chosen by means over the seeds, "
    "which the sentences name, are therefore not free of the rows on which they are shown; "
    "the hypervolumes, chosen seed by seed, are.",
    "Exponentiated gradient trains some 25 networks for each arm: departure, it has fewer arms on "
    "Adult, credit default and digits, where its front is thinner, and their number in brackets.",
    "Some arms of a comparison are not in the study. clip_norm and arms with +clip: a clip acts on "
    "the update as a whole, not on groups. threshold, which is fitted on validation rows: the "
    "family of thresholds has fixed cuts. fair_cap_step, the literal rule without memory or floor: "
    "in `fairclip compare` it stands beside the cap that came of it.",
    "Group-blind arms use no group in training or prediction. The threshold optimizer needs the "
    "group of a row to predict, and its cuts are fitted on the validation part, whose figures "
    "therefore flatter it: it is chosen worse than the others. Its tolerances are for equal TPR; "
    "fairlearn has none for equalized odds.",
    "The network is a perceptron with two hidden layers of 64 units, trained by Adam; on digits it "
    "is convolutional, and logistic regression is trained by SGD with momentum.",
    "A flag of levelling down is raised where the gap between the groups' recalls of a label "
    "closes by more than 0.01, and more by lowering the highest than by raising the lowest.",
    "The labels are taken as they are. Where they record past decisions, every rate here is "
    "agreement with those decisions. No figure here says whether to intervene.",
)


def write_page(out: Path, settings: Sequence[Setting]) -> Report:
    """Write study.html, .md, .json, and the tables.

    Args:
        out: The folder of the study; each finished setting has a folder in it.
        settings: All of the study.
    """
    done = [setting for setting in settings if setting.is_finished(out)]
    records = [Record.read(setting, out / setting.name) for setting in done]
    report = make_page(records, settings)
    report.save(out, stem="study")
    write_tables(out, records)
    return report


def make_page(records: Sequence[Record], settings: Sequence[Setting]) -> Report:
    """Return the page.

    Args:
        records: Of the settings that are finished.
        settings: All of the study.
    """
    main = [record for record in records if record.setting.main]
    others = [record for record in records if not record.setting.main]
    titles = [setting.title for setting in settings if setting.main]
    missing = [title for title in titles if title not in {r.setting.title for r in main}]
    verdicts = {record.setting.name: record.verdicts for record in main}
    goals = {family: goal_of(family, verdicts, len(missing)) for family in OURS}
    primary = [goals[family] for family in PRIMARY]
    answer = goal_sentences(primary, len(titles))
    if main:
        answer.append(why_in_short(main, primary))
    fewest = min((record.n_seeds for record in records), default=_ENOUGH_SEEDS)
    if fewest < _ENOUGH_SEEDS:
        answer.append(f"Only {fewest} seeds: this is a trial of the machinery, not a result.")
    sections = [answer_section(primary, verdicts, missing, len(titles))]
    if main:
        explored = words_section("Exploratory families", main, EXPLORATORY, EXPLORATORY_NOTE)
        counts = goals_table([goals[family] for family in EXPLORATORY])
        sections += [
            why_section(main, primary),
            words_section("Setting by setting", main, PRIMARY),
            not_here_section(main, others),
            untuned_section(main),
            choices_section(main),
            Section(explored.heading, (*explored.body, counts)),
        ]
    sections += map(setting_section, main)
    if others:
        sections.append(words_section("Other models", others, OURS))
        sections += map(setting_section, others)
    sections += [Section("Method", (Notes(_METHOD), _families_table())), _making(records)]
    return Report(
        title="Does fair clipping work?",
        lead=" ".join(answer),
        sections=tuple(sections),
        data={
            "goal": {goal.family: goal.state for goal in primary},
            "missing": [
                s.name for s in settings if s.name not in {r.setting.name for r in records}
            ],
            "environments": {record.setting.name: record.environment for record in records},
        },
    )


def _families_table() -> Table:
    rows = [{"family": family.name, "arms": ", ".join(family.arms)} for family in FAMILIES]
    return Table(
        pd.DataFrame(rows).set_index("family"),
        f"The arms of each family in the full study, {N_ARMS}.",
    )


def _making(records: Sequence[Record]) -> Section:
    rows = [
        {
            "setting": record.setting.name,
            "rows": record.environment["data"]["rows"],
            "seeds": record.n_seeds,
            "arms": record.runs["arm"].nunique(),
            "sha256 of the data": record.environment["data"]["sha256"],
            "origin": record.environment["data"]["origin"],
            "command": record.environment["command_line"],
            "versions": ", ".join(
                f"{name} {version}"
                for part in ("versions", "rivals")
                for name, version in record.environment[part].items()
            ),
        }
        for record in records
    ]
    note = "Each setting has a folder with its settings and every run; arms.csv has all arms."
    if not rows:
        return Section("How it was made", ("No setting is finished.",))
    frame = pd.DataFrame(rows).set_index("setting")
    return Section("How it was made", (note, Table(frame, "From each environment.json.")))
