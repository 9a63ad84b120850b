"""A step has the same bits as the first of an engine, which learns and checks, and as a later one.

So a run that is resumed ends like one that is not.
"""

import numpy as np
import pytest
import torch
from torch import nn

from fairclip.gradients import GradientEngine
from tests.gradients._exactness import FACTORS, K, seeded
from tests.gradients._inputs import Batch
from tests.gradients._real_models import bert
from tests.gradients._wrappers import CASES, Case

BERT = Case("bert", lambda: bert(dropout=0.1), lambda m, batch: batch.loss(m(batch.ids).logits))
N_ROWS = 45


def measured(engine: GradientEngine, model: nn.Module, case: Case, step: int) -> list[bytes]:
    torch.manual_seed(step)
    model.zero_grad()
    # One group is held and one got by subtraction; a check looks at both.
    with engine.watch(torch.randint(2, (N_ROWS,))):
        case.losses(model, Batch.draw(N_ROWS, step)).mean().backward()
    gradients = engine.collect()
    gramian = bytes(gradients.gramian())
    gradients.recombine_(np.array(FACTORS))
    return [gramian, *(total.numpy().tobytes() for total in gradients.totals)]


@pytest.mark.filterwarnings("ignore:.*used outside of the forward pass")  # not what is tested here
@pytest.mark.parametrize("case", [*CASES, BERT], ids=lambda case: case.name)
def test_a_first_step_has_the_bits_of_a_later_one(case: Case) -> None:
    model = seeded(case.build)
    engine = GradientEngine(model, K)
    for step in range(2):
        measured(engine, model, case, step)
    resumed = seeded(case.build)
    resumed.load_state_dict(model.state_dict())
    first = measured(GradientEngine(resumed, K), resumed, case, 2)
    assert first == measured(engine, model, case, 2)  # the third step, which is not checked
