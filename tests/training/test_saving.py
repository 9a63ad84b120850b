import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.exceptions import NotFittedError
from torch import nn

from fairclip import FairClipClassifier, FairClipRegressor
from fairclip.clipping import Chain, Norm, Value
from tests.training._inputs import planted
from tests.training._properties import assert_same_weights

X, y, SEX = planted()


def fitted(X: Any = X, y: Any = y, **parameters: Any) -> FairClipClassifier:
    defaults: dict[str, Any] = {"epochs": 1, "random_state": 0}
    return FairClipClassifier(**(defaults | parameters)).fit(X, y, sensitive_features=SEX)


class Tied(nn.Module):
    """Two layers that share their weights, and a buffer that training moves."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)
        self.second, self.out = nn.Linear(4, 4), nn.Linear(4, 1)
        self.second.weight = self.first.weight

    def forward(self, rows: Any) -> Any:
        return self.out(self.second(self.norm(self.first(rows)).relu()).relu())


@pytest.mark.parametrize("labels", [["no", "ja ✓"], [False, True], [-1, 1], [0.5, 1.0]])
def test_a_loaded_model_predicts_the_same(tmp_path: Path, labels: list[Any]) -> None:
    target = np.array(labels)[y] if labels != [0.5, 1.0] else y.astype(float)
    model = fitted(y=target)
    model.save(tmp_path / "new" / "model")
    loaded = FairClipClassifier.load(tmp_path / "new" / "model")
    np.testing.assert_array_equal(loaded.predict_proba(X), model.predict_proba(X))
    np.testing.assert_array_equal(loaded.predict(X), model.predict(X))
    assert loaded.predict(X).dtype == target.dtype
    assert loaded.loss_curve_ == model.loss_curve_
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["model"]


def test_parameters_come_back(tmp_path: Path) -> None:
    clip = Chain(Value(0.1), Norm(1.0, scope="layer", overrides={"0*": 0.5}))
    model = fitted(
        max_ratio=math.inf, lr=np.float64(0.01), epochs=np.int64(2), hidden=(7, 3), clip=clip
    )
    model.save(tmp_path / "model")
    loaded = FairClipClassifier.load(tmp_path / "model")
    assert loaded.get_params() == model.get_params()
    assert_same_weights(loaded.module_, model.module_)


@pytest.mark.parametrize("class_weight", ["balanced", {0: 1, 1: 2.5}])
def test_weights_of_classes_come_back(tmp_path: Path, class_weight: Any) -> None:
    fitted(class_weight=class_weight, groups="sensitive").save(tmp_path / "model")
    loaded = FairClipClassifier.load(tmp_path / "model")
    assert (loaded.class_weight, loaded.groups) == (class_weight, "sensitive")


def test_a_regressor_predicts_the_same(tmp_path: Path) -> None:
    model = FairClipRegressor(max_ratio=math.inf, hidden=(7,), epochs=2, random_state=0)
    model.fit(X, 100 + 30 * X[:, 0], sensitive_features=SEX).save(tmp_path / "model")
    loaded = FairClipRegressor.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.predict(X), model.predict(X))
    assert loaded.get_params() == model.get_params()
    with pytest.raises(ValueError, match="is not a saved model"):
        FairClipClassifier.load(tmp_path / "model")


def test_training_goes_on_from_the_weights_that_were_loaded(tmp_path: Path) -> None:
    model = fitted(epochs=3, lr=0.01)
    model.save(tmp_path / "model")
    loaded = FairClipClassifier.load(tmp_path / "model")
    loaded.set_params(lr=1e-9).partial_fit(X, y, sensitive_features=SEX)
    assert loaded.loss_curve_[:3] == model.loss_curve_
    assert loaded.n_iter_ == len(loaded.loss_curve_) == 4
    np.testing.assert_allclose(loaded.predict_proba(X), model.predict_proba(X), atol=1e-5)


def test_names_of_columns_are_checked_after_loading(tmp_path: Path) -> None:
    frame = pd.DataFrame(X, columns=list("abcd"))
    fitted(frame).save(tmp_path / "model")
    loaded = FairClipClassifier.load(tmp_path / "model")
    loaded.predict(frame)
    with pytest.raises(ValueError, match="feature names"):
        loaded.predict(frame[list("dcba")])


@pytest.mark.filterwarnings("ignore:.*batch statistics")  # not what is tested here
def test_a_module_of_ones_own(tmp_path: Path) -> None:
    model, module = fitted(module=Tied(), max_ratio=math.inf), Tied()
    model.save(tmp_path / "model")
    before = {name: value.clone() for name, value in module.state_dict().items()}
    loaded = FairClipClassifier.load(tmp_path / "model", module=module)
    np.testing.assert_array_equal(loaded.predict_proba(X), model.predict_proba(X))
    assert_same_weights(module, before)
    with pytest.raises(ValueError, match="a module of its own, Tied: pass one"):
        FairClipClassifier.load(tmp_path / "model")
    with pytest.raises(ValueError, match=r"weights .* cannot be loaded"):
        FairClipClassifier.load(tmp_path / "model", module=nn.Linear(4, 1))


def test_saving_again_replaces_the_model(tmp_path: Path) -> None:
    fitted().save(tmp_path / "model")
    other = fitted(random_state=1)
    other.save(tmp_path / "model")
    loaded = FairClipClassifier.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.predict_proba(X), other.predict_proba(X))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def sequential(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), *layers, nn.Linear(8, 1))


@pytest.mark.parametrize(
    ("fitted_with", "changed_to"),
    [
        ({"hidden": (8,)}, {"hidden": (16,)}),
        ({"hidden": (8,)}, {"hidden": "eight"}),
        ({"hidden": (8,)}, {"module": nn.Linear(4, 1)}),
        ({"module": nn.Linear(4, 1)}, {"module": None}),
        ({"module": sequential(nn.Tanh())}, {"module": None, "hidden": (8,)}),
        ({"module": nn.Linear(4, 1)}, {"module": sequential()}),
        ({"module": sequential()}, {"module": sequential(nn.ReLU())}),
        ({"module": sequential()}, {"module": nn.Sequential(nn.Linear(4, 9), nn.Linear(9, 1))}),
    ],
)
def test_parameters_that_no_longer_fit_the_weights_replace_nothing(
    tmp_path: Path, fitted_with: dict[str, Any], changed_to: dict[str, Any]
) -> None:
    model = fitted(max_ratio=math.inf, **fitted_with)
    before = {name: getattr(model, name) for name in changed_to}
    model.save(tmp_path / "model")
    files = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    with pytest.raises(ValueError, match=r"set it back, or fit again|`hidden` must be"):
        model.set_params(**changed_to).save(tmp_path / "model")
    assert {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()} == files
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    model.set_params(**before).save(tmp_path / "model")


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")  # torch < 2.9
def test_a_lazy_module_is_saved_with_the_shapes_it_got(tmp_path: Path) -> None:
    model = fitted(module=nn.LazyLinear(1), max_ratio=math.inf)
    model.save(tmp_path / "model")
    loaded = FairClipClassifier.load(tmp_path / "model", module=nn.Linear(4, 1))
    np.testing.assert_array_equal(loaded.predict_proba(X), model.predict_proba(X))


def test_a_failing_rename_keeps_the_model_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, rename = fitted(), Path.rename
    old.save(tmp_path / "model")

    def fail(path: Path, target: Any) -> Path:
        if path.name == "new":
            raise PermissionError("in use")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(PermissionError, match="in use"):
        fitted(random_state=1).save(tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    loaded = FairClipClassifier.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.predict_proba(X), old.predict_proba(X))


def test_no_model_is_lost_where_no_rename_works_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, rename = fitted(), Path.rename
    old.save(tmp_path / "model")

    def fail(path: Path, target: Any) -> Path:
        if path.name != "model":
            raise PermissionError("in use")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(PermissionError, match="in use"):
        fitted(random_state=1).save(tmp_path / "model")
    (aside,) = tmp_path.iterdir()
    loaded = FairClipClassifier.load(aside)
    np.testing.assert_array_equal(loaded.predict_proba(X), old.predict_proba(X))


def test_a_link_goes_on_pointing_at_the_model(tmp_path: Path) -> None:
    fitted().save(tmp_path / "model")
    (tmp_path / "link").symlink_to(tmp_path / "model")
    other = fitted(random_state=1)
    other.save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    loaded = FairClipClassifier.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.predict_proba(X), other.predict_proba(X))


def test_what_is_not_a_model_is_never_touched(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "model.json").write_text('{"format": "something else"}')
    model = fitted()
    for name in ("folder", "file", "other"):
        with pytest.raises(ValueError, match="is not a saved model"):
            model.save(tmp_path / name)
        with pytest.raises(ValueError, match="is not a saved model"):
            FairClipClassifier.load(tmp_path / name)
    assert (tmp_path / "folder" / "thesis.txt").read_text() == "mine"
    assert (tmp_path / "file").read_text() == "mine"


def test_nothing_is_left_half_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`random_state` cannot be written as JSON"):
        fitted(random_state=np.random.RandomState(0)).save(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_only_json_and_safetensors_are_written(tmp_path: Path) -> None:
    fitted(max_ratio=math.inf).save(tmp_path / "model")
    names = sorted(path.name for path in (tmp_path / "model").iterdir())
    assert names == ["model.json", "model.safetensors"]

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    text = (tmp_path / "model" / "model.json").read_text(encoding="utf-8")
    json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 99}, "file version 99"),
        ({"parameters": {"clip": {"mode": "system", "arguments": {}}}}, "no clipping mode"),
        ({"parameters": {"clip": {}}}, "is damaged, or of another fairclip"),
        ({"parameters": {"of_tomorrow": 1}}, "is damaged, or of another fairclip .*of_tomorrow"),
        ({"parameters": [1]}, "is damaged, or of another fairclip"),
        ({"n_features_in": "four"}, "is damaged, or of another fairclip"),
        ({"n_features_in": -4}, "is damaged, or of another fairclip"),
        ({"classes": 2}, "is damaged, or of another fairclip"),
    ],
)
def test_rejects_a_file_it_does_not_know(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    fitted().save(tmp_path / "model")
    settings = tmp_path / "model" / "model.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        FairClipClassifier.load(tmp_path / "model")


@pytest.mark.parametrize(
    "name", ["parameters", "module", "classes", "classes_dtype", "n_features_in", "n_iter"]
)
def test_rejects_settings_that_lack_something(tmp_path: Path, name: str) -> None:
    fitted().save(tmp_path / "model")
    settings = tmp_path / "model" / "model.json"
    rest = json.loads(settings.read_text())
    del rest[name]
    settings.write_text(json.dumps(rest))
    with pytest.raises(ValueError, match=rf"is damaged, or of another fairclip .*'{name}'"):
        FairClipClassifier.load(tmp_path / "model")


def test_rejects_missing_things(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a saved model"):
        FairClipClassifier.load(tmp_path / "nowhere")
    with pytest.raises(NotFittedError):
        FairClipClassifier().save(tmp_path / "model")
    fitted().save(tmp_path / "model")
    with pytest.raises(ValueError, match="saved with the default module"):
        FairClipClassifier.load(tmp_path / "model", module=nn.Linear(4, 1))
    (tmp_path / "model" / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match=r"weights .* cannot be loaded"):
        FairClipClassifier.load(tmp_path / "model")
