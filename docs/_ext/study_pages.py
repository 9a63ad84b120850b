"""The study's page cut into the site's: the answer, and a page for each setting with pictures."""

import re
from pathlib import Path

import pandas as pd

from fairclip.metrics import plot_fronts, to_svg
from fairclip.study import study_settings
from fairclip.study._fronts import BUDGET

TABLES = ("verdicts", "fronts", "pictures", "arms")
_NOT_YET = "The study has not been run yet."


def write_study_pages(folder: Path) -> bool:
    """Write ``pages/answer.md``, which ``index.md`` includes, and ``pages/<setting>.md``.

    Args:
        folder: Holds study.md and the tables as `fairclip study` writes them, or neither yet.

    Returns:
        Whether a page has changed.
    """
    pages = make_pages(folder) if (folder / "study.md").exists() else {"answer": _NOT_YET}
    out = folder / "pages"
    out.mkdir(exist_ok=True)
    there = {page.stem: page.read_text(encoding="utf-8") for page in out.glob("*.md")}
    for name in there.keys() - pages:
        (out / f"{name}.md").unlink()
    for name, text in pages.items():
        if there.get(name) != text:
            (out / f"{name}.md").write_text(text, encoding="utf-8")
    return there != pages


def make_pages(folder: Path) -> dict[str, str]:
    """Return the text of each page by its name."""
    text = (folder / "study.md").read_text(encoding="utf-8")
    lead, *sections = re.split(r"^## ", text.partition("\n\n")[2], flags=re.MULTILINE)
    names = {setting.title: setting.name for setting in study_settings()}
    pictures, arms = (pd.read_csv(folder / f"{table}.csv") for table in ("pictures", "arms"))
    ours = pd.read_csv(folder / "verdicts.csv")["family"].unique()
    answer, pages = [lead], {}
    for section in sections:
        title = section.partition("\n")[0]
        if title in names:
            own, baseline = (
                table[table["setting"] == names[title]]
                for table in (pictures, arms[arms["arm"] == "unclipped"])
            )
            pages[names[title]] = _with_pictures(f"# {section}", own, ours, baseline)
        else:
            answer.append(f"## {section}")
    answer.insert(-2, _contents(list(pages)))  # before how it was made and what to think of
    return {"answer": "".join(answer), **pages}


def _contents(names: list[str]) -> str:
    links = ", ".join(f"{{download}}`{table}.csv <{table}.csv>`" for table in TABLES)
    entries = "\n".join(f"pages/{name}" for name in names)
    return (
        "## Each setting\n\n"
        "Its two pictures, the arms that are chosen, and who gained and lost.\n\n"
        f"```{{toctree}}\n:maxdepth: 1\n{entries}\n```\n\nThe tables: {links}.\n\n"
    )


def _with_pictures(
    section: str, pictures: pd.DataFrame, ours: list[str], baseline: pd.DataFrame
) -> str:
    """Put each picture under its caption, and fold the figures that it shows."""
    for metric, front in pictures.groupby("metric", sort=False):
        words = str(metric).replace("_", " ")
        means = baseline.set_index("arm").rename(columns=lambda name: name.removesuffix("_mean"))
        unclipped = means[["accuracy", metric]].iloc[0]
        axes = plot_fronts(
            front.rename(columns={"figure": metric}),
            "accuracy",
            metric,
            main=ours,
            coloured=front.loc[front["coloured"], "family"].unique(),
            baseline=unclipped,
            x_from=unclipped["accuracy"] - BUDGET,
        )
        svg = to_svg(axes.figure).replace("<svg", f'<svg role="img" aria-label="{words}"', 1)
        section, n_found = re.subn(
            rf"^(Accuracy and {words}: .*)\n\n((?:\|.*\n)+)",
            lambda found, svg=svg: (
                f"{found[1]}\n\n```{{raw}} html\n<figure class='picture'>{svg}</figure>\n```\n\n"
                "<details><summary>The figures behind this picture</summary>\n\n"
                f"{found[2]}\n</details>\n"
            ),
            section,
            flags=re.MULTILINE,
        )
        if n_found != 1:
            raise ValueError(f"study.md has {n_found} captions of {words} in a setting.")
    return section
