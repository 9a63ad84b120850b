"""The scripts in plain torch are examples, which are executed; here is what they must be like."""

from doctest import DocTestParser, Example
from itertools import groupby

import fairclip.integrations

SCRIPTS = [
    "".join(part.source for part in parts if isinstance(part, Example))
    for is_prose, parts in groupby(
        DocTestParser().parse(fairclip.integrations.__doc__ or ""),
        lambda part: isinstance(part, str) and part.strip() != "",
    )
    if not is_prose
]


def test_every_script_is_short() -> None:
    assert len(SCRIPTS) == 8
    assert max(script.count("\n") for script in SCRIPTS) < 40


def test_there_is_one_of_each() -> None:
    words = ["bfloat16", "GradScaler", "optimizers", "chunk", "lr_scheduler", '"lr"', "compile"]
    assert all(word in script for word, script in zip(words, SCRIPTS[1:], strict=True))
