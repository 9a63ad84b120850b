import os

os.environ["KERAS_BACKEND"] = "torch"

import keras
from torch import Tensor

from fairclip import NormCap
from fairclip.clipping import Norm
from fairclip.integrations.keras import FairClipMixin
from tests.integrations.adult import codes, dataset, encoder, make_model


class Net(FairClipMixin, keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = keras.layers.Dense(32, activation="relu")
        self.head = keras.layers.Dense(2)

    def call(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.hidden(inputs))
        return outputs


x, y = dataset.tensors
model = Net()
model(x)  # which makes its weights
model.set_weights([parameter.detach().numpy().T for parameter in make_model().parameters()])
model.compile(
    optimizer=keras.optimizers.SGD(learning_rate=0.1),
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
)
model.make_clipper(NormCap(max_ratio=2.0), Norm(max_norm=1.0), encoder=encoder)
model.fit({"x": x, "groups": codes}, y, batch_size=256, epochs=2, shuffle=False, verbose=0)
