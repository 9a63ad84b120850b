from skorch import NeuralNetClassifier
from skorch.callbacks import GradientNormClipping
from torch import nn

from tests.integrations.adult import dataset, make_model

inputs, targets = dataset.tensors
net = NeuralNetClassifier(
    make_model,
    criterion=nn.CrossEntropyLoss,
    lr=0.1,
    batch_size=256,
    max_epochs=2,
    callbacks=[GradientNormClipping(gradient_clip_value=1.0)],
    train_split=None,
    verbose=0,
)
net.fit(inputs, targets)
model = net.module_
