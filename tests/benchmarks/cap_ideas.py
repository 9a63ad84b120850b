"""What ideas for caps are worth: each against the rule that it would change.

Run `python -m tests.benchmarks.cap_ideas`. All rules of a seed share split, initial weights and
batches, with the product's default network and Adam. The figures go to cap_ideas.csv, where what
is already there is not run again; `--table` prints the lines of docs/ideas.md from it. Adult and
credit default have fewer epochs than the product's 10.
"""

import argparse
import warnings
from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm

from fairclip import FairclipWarning
from tests.benchmarks._idea_lines import lines
from tests.benchmarks._idea_rules import rules
from tests.benchmarks._idea_runs import rows_of
from tests.benchmarks._idea_setting import SETTINGS, Run, Setting

_MOST_SEEDS = 5
PATH = Path(__file__).with_name("cap_ideas.csv")


def measure(setting: Setting, seed: int, path: Path) -> None:
    """Train what of one seed is not in the file yet, and add it."""
    run = Run.of(setting, seed)
    before = read(path)
    of_run = before[(before["setting"] == setting.name) & (before["seed"] == seed)]
    done = set(zip(of_run["rule"], of_run["strength"], strict=True))
    tasks = [(rule, strength) for rule in rules(large=setting.large) for strength in rule.strengths]
    for rule, strength in tqdm(tasks, desc=f"{setting.name}, seed {seed}", mininterval=5):
        if (rule.name, strength) in done:
            continue
        rows = pd.DataFrame(rows_of(run, rule, strength))
        rows.insert(0, "setting", setting.name)
        rows.insert(1, "seed", seed)
        rows.round(4).to_csv(path, mode="a", header=not path.exists(), index=False)


def read(path: Path) -> pd.DataFrame:
    """Return what is there."""
    return (
        pd.read_csv(path)
        if path.exists()
        else pd.DataFrame(columns=["setting", "seed", "rule", "strength"])
    )


def main() -> None:
    """Measure what is missing, or print the lines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--path", type=Path, default=PATH)
    parser.add_argument("--table", action="store_true", help="print the lines, run nothing")
    arguments = parser.parse_args()
    if arguments.table:
        print("\n".join(lines(read(arguments.path))))
        return
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", FairclipWarning)
    # Small tables first; in turn, so that all have as many seeds whenever it is stopped.
    for large in (False, True):
        for seed in range(_MOST_SEEDS):
            for setting in SETTINGS:
                if setting.large == large and seed < setting.seeds:
                    measure(setting, seed, arguments.path)


if __name__ == "__main__":
    main()
