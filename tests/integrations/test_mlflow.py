"""MLflow: what its sqlite store holds afterwards, read back through its client."""

from collections.abc import Iterator

import mlflow
import pytest
from mlflow import MlflowClient

from fairclip import FairClipper
from fairclip.integrations.mlflow import Metrics
from tests.clipper._inputs import COUNTS, make_batches, mlp, row_losses

# MLflow's tables are declared with a loader that SQLAlchemy gives up.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowClient]:
    """One store for all tests: its first start takes seconds."""
    before = mlflow.get_tracking_uri()
    uri = f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"
    mlflow.set_tracking_uri(uri)
    yield MlflowClient(uri)
    mlflow.set_tracking_uri(before)


def history(client: MlflowClient, run_id: str) -> dict[str, dict[int, float]]:
    """Return what is stored of each metric, by step."""
    return {
        name: {metric.step: metric.value for metric in client.get_metric_history(run_id, name)}
        for name in client.get_run(run_id).data.metrics
    }


def test_the_store_holds_each_number_of_each_logged_step(client: MlflowClient) -> None:
    model = mlp()
    clipper = FairClipper(model, group_counts=COUNTS)
    with mlflow.start_run() as run, clipper.trace.log_to(Metrics(), every=3):
        for batch in make_batches(7):
            with clipper.watch(batch[2]):
                row_losses(model, batch).mean().backward()
            clipper.clip_grad_()
            model.zero_grad()
    frame = clipper.trace.to_frame().drop(columns="first_nonfinite").astype(float)
    logged = frame[frame["step"] % 3 == 0].set_index("step").dropna(axis="columns", how="all")
    found = history(client, run.info.run_id)
    assert len(found) == len(logged.columns)
    for column in logged:
        name = "fairclip/" + str(column).replace("[", "/").replace("]", "")
        assert found[name] == logged[column].dropna().to_dict()


LONG = "x" * 300
GROUPS = [
    "sex=Female, y=1",
    "sex=Female; y=1",  # would get the name of the one before
    "sex(Female) y=1",
    "a/b",
    "a&b",
    "..",
    ".",
    "é=ü, 日本",
    f"{LONG}a",
    f"{LONG}b",
]
BRACKETS = ["", "[", "]", "a][b", "a[b", "a]b"]


def numbers_of(groups: list[str], absent: tuple[int, ...] = ()) -> dict[str, float]:
    """A number by group and two by layer and group, the first of them of present groups only."""
    numbers = {f"n[{name}]": float(code) for code, name in enumerate(groups)}
    for what in ("cap_norm", "factor"):
        for code, name in enumerate(groups):
            if what == "factor" or code not in absent:
                numbers[f"{what}[body.0][{name}]"] = float(code)
    return numbers


@pytest.mark.parametrize("groups", [GROUPS, BRACKETS, GROUPS + BRACKETS])
def test_groups_of_any_name_are_kept_apart(client: MlflowClient, groups: list[str]) -> None:
    numbers = numbers_of(groups)
    with mlflow.start_run() as run:
        Metrics()(numbers, 7)
    found = history(client, run.info.run_id)
    assert len(found) == len(numbers)
    assert sorted(values[7] for values in found.values()) == sorted(numbers.values())


def test_names_do_not_hang_on_who_is_absent_in_the_first_step(client: MlflowClient) -> None:
    found = []
    for absent in ((), (0, 3, 8)):
        with mlflow.start_run() as run:
            Metrics()(numbers_of(GROUPS, absent), 7)
        found.append(history(client, run.info.run_id))
    assert found[0]["fairclip/factor/body.0/sex_Female_y_1"] == {7: 0}
    assert found[1].items() < found[0].items()


def test_more_numbers_than_mlflow_takes_at_once(client: MlflowClient) -> None:
    with mlflow.start_run() as run:
        Metrics()({f"n[{code}]": float(code) for code in range(2500)}, 0)
    assert len(client.get_run(run.info.run_id).data.metrics) == 2500


def test_columns_of_stages_and_scopes(client: MlflowClient) -> None:
    numbers = {"norm_before[Norm#2]": 1.0, "norm_before[Norm#2][0.weight]": 2.0, "update_norm": 3.0}
    with mlflow.start_run() as run:
        Metrics()(numbers, 0)
    assert history(client, run.info.run_id) == {
        "fairclip/norm_before/Norm_2": {0: 1.0},
        "fairclip/norm_before/Norm_2/0.weight": {0: 2.0},
        "fairclip/update_norm": {0: 3.0},
    }


def test_what_is_infinite_does_not_end_the_run(client: MlflowClient) -> None:
    with mlflow.start_run() as run:
        Metrics()({"norm_uncapped": float("inf")}, 0)
    (stored,) = history(client, run.info.run_id)["fairclip/norm_uncapped"].values()
    assert stored > 1e300
