"""What the scripts train: a small network on 2,048 rows of Adult, the same in each of them."""

import torch
from torch import nn
from torch.utils.data import TensorDataset

import fairclip

_adult = fairclip.datasets.load_adult()
_columns = ["age", "education_num", "hours_per_week", "capital_gain"]
_features = _adult.X[_columns].to_numpy("float32")[:2048]
_inputs = torch.tensor((_features - _features.mean(0)) / _features.std(0))
_targets = torch.tensor(_adult.y.to_numpy()[:2048])

sex = _adult.sensitive_features["sex"][:2048]
dataset = TensorDataset(_inputs, _targets)
encoder = fairclip.GroupEncoder(with_label=True).fit(sex, _targets)
codes = encoder.transform(sex, _targets)


def make_model() -> nn.Sequential:
    """Return the network with the weights that every script starts from."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2))
