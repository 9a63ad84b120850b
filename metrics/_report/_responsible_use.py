"""What to think of before a report is acted upon: a few sentences for every page, and a page."""

import tomllib
from pathlib import Path
from typing import Any

from ._parts import Notes, Section

_MORE = (
    "More, with sources: “Responsible use”, at the end of the HTML report and in the documentation."
)


def responsible_use() -> str:
    """Return the page on responsible use, as Markdown.

    Whether to intervene at all, the law on protected attributes in training, choosing a figure,
    biased labels, what cannot be had together, who loses, what to write down. It is no legal
    advice. Every HTML report holds it, and every Markdown report its first sentences.

    Example:
        >>> from fairclip.metrics import responsible_use
        >>> responsible_use().splitlines()[0]
        '# Responsible use'
    """
    content = read()
    blocks = ["# Responsible use", _listed(content["short"])]
    for section in content["section"]:
        blocks += [f"## {section['heading']}", *section.get("paragraphs", ())]
        blocks += [_listed(section["points"])] if "points" in section else []
        if "sources" in section:
            links = [f"[{source['title']}]({source['url']})" for source in section["sources"]]
            blocks.append(f"Sources: {'; '.join(links)}.")
    return "\n\n".join([*blocks, f"Law last looked at {content['checked']}."]) + "\n"


def before_you_act() -> Section:
    """Return the last section of every page."""
    return Section("Before you act on this", (Notes((*read()["short"], _MORE)),))


def read() -> dict[str, Any]:
    """Return the text by its parts, as they stand in the file."""
    path = Path(__file__).with_name("responsible_use.toml")
    return tomllib.loads(path.read_text(encoding="utf-8"))


def _listed(points: list[str]) -> str:
    return "\n".join(f"- {point}" for point in points)
