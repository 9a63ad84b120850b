"""Where ideas are measured, and one seed of it."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.optim import Optimizer

from fairclip.comparison import Settings
from fairclip.comparison._fit import Trainer
from fairclip.comparison._source import open_source
from fairclip.comparison._split import Split, split, to_inputs
from fairclip.comparison._start import Start
from fairclip.comparison._table import Table, make_table

_BATCH_SIZE = 256


@dataclass(frozen=True)
class Setting:
    """A table, and how much of it is trained."""

    name: str
    data: str
    sensitive: str
    seeds: int
    epochs: int = 10
    pool_below: int = 0
    large: bool = False

    @cached_property
    def table_and_settings(self) -> tuple[Table, Settings]:
        """Return the table, and the product's defaults for it."""
        asked = Settings(
            data=self.data,
            sensitive=(self.sensitive,),
            pool_below=self.pool_below,
            epochs=self.epochs,
        )
        source, settings = open_source(asked)
        return make_table(source, settings), settings


SETTINGS = (
    Setting("german, age_group", "german", "age_group", seeds=5),
    Setting("loanapp, race", "loanapp", "race", seeds=5, pool_below=200),
    Setting("credit_default, sex", "credit_default", "sex", seeds=4, epochs=3, large=True),
    Setting("adult, sex", "adult", "sex", seeds=4, epochs=3, large=True),
)


@dataclass(frozen=True)
class Run:
    """One seed: its parts, inputs, batches and initial weights.

    Attributes:
        table: All rows.
        rows: The parts.
        inputs: (N, d).
        trainer: How its networks are trained.
    """

    table: Table
    rows: Split
    inputs: Tensor
    trainer: Trainer

    @classmethod
    def of(cls, setting: Setting, seed: int) -> "Run":
        """Return the run of a seed."""
        table, settings = setting.table_and_settings
        rows = split(table, seed)
        batch_size = min(_BATCH_SIZE, len(rows.train) // 10)
        settings = Settings.of({**vars(settings), "batch_size": batch_size})
        trainer = Trainer(settings, seed, table.cells[rows.train])
        return cls(table, rows, to_inputs(table.features, rows.train), trainer)

    @property
    def steps_per_epoch(self) -> float:
        """Return the number of batches in an epoch."""
        assert self.trainer.settings.batch_size is not None
        return len(self.rows.train) / self.trainer.settings.batch_size

    def begin(self) -> "Beginning":
        """Return a network with its initial weights."""
        model = self.trainer.new_model(self.inputs.shape[1])
        settings, seed = self.trainer.settings, self.trainer.seed
        start = Start.of(model, self.table, self.rows.train, settings, float("nan"), seed)
        return Beginning(self, start, self.trainer.new_optimizer(model))

    @property
    def train_targets(self) -> Tensor:
        """Return the labels of the training rows."""
        return torch.from_numpy(self.table.y[self.rows.train]).float()


@dataclass(frozen=True)
class Beginning:
    """What the step of an idea is built from.

    Attributes:
        run: The seed.
        start: As arms have it.
        optimizer: Of its model.
    """

    run: Run
    start: Start
    optimizer: Optimizer
