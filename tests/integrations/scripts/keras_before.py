import os

os.environ["KERAS_BACKEND"] = "torch"

import keras
from torch import Tensor

from tests.integrations.adult import dataset, make_model


class Net(keras.Model):
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
    optimizer=keras.optimizers.SGD(learning_rate=0.1, global_clipnorm=1.0),
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
)
model.fit(x, y, batch_size=256, epochs=2, shuffle=False, verbose=0)
