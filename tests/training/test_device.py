import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from fairclip import FairClipClassifier
from fairclip.training._device import seeded
from tests.training._inputs import planted
from tests.training._properties import assert_same_weights

CPU = torch.device("cpu")


def test_fits_in_threads_give_one_model_and_restore_the_random_state() -> None:
    X, y, sex = planted()
    before = torch.get_rng_state()

    def fit(_: int) -> FairClipClassifier:
        model = FairClipClassifier(epochs=1, hidden=(32,), random_state=0)
        return model.fit(X, y, sensitive_features=sex)

    with ThreadPoolExecutor(8) as pool:
        first, *others = pool.map(fit, range(8))
    for other in others:
        assert_same_weights(other.module_, first.module_)
    assert torch.equal(torch.get_rng_state(), before)


def test_seeded_blocks_of_threads_take_turns() -> None:
    entered = threading.Event()

    def enter() -> None:
        with seeded(1, CPU):
            entered.set()

    other = threading.Thread(target=enter)
    with seeded(0, CPU), seeded(0, CPU):  # a thread never waits for itself
        other.start()
        assert not entered.wait(0.2)
    other.join()
    assert entered.is_set()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.filterwarnings("ignore:os.fork.. was called:RuntimeWarning")  # JAX of other tests
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")  # that is tested
def test_a_process_forked_within_the_turn_of_another_thread_does_not_wait_for_it() -> None:
    inside, done = threading.Event(), threading.Event()

    def stay() -> None:
        with seeded(0, CPU):
            inside.set()
            done.wait()

    other = threading.Thread(target=stay)
    other.start()
    inside.wait()
    if (child := os.fork()) == 0:
        signal.alarm(10)  # ends the child if it waits
        with seeded(1, CPU):
            os._exit(0)
    done.set()
    other.join()
    assert os.waitpid(child, 0)[1] == 0
