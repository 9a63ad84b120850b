from functools import partial

from skorch import NeuralNetClassifier
from torch import nn

from fairclip import FairClipper, NormCap
from fairclip.clipping import Norm
from fairclip.integrations.skorch import FairClipMixin
from tests.integrations.adult import codes, dataset, encoder, make_model


class FairNet(FairClipMixin, NeuralNetClassifier): ...


inputs, targets = dataset.tensors
net = FairNet(
    make_model,
    criterion=nn.CrossEntropyLoss,
    lr=0.1,
    batch_size=256,
    max_epochs=2,
    clipper=partial(FairClipper, cap=NormCap(2.0), clip=Norm(1.0), encoder=encoder),
    train_split=None,
    verbose=0,
)
net.fit({"input": inputs, "groups": codes}, targets)
model = net.module_
