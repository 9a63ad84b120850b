import lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tests.integrations.adult import dataset, make_model


class Classifier(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = make_model()

    def training_step(self, batch: list[Tensor]) -> Tensor:
        inputs, targets = batch
        return nn.functional.cross_entropy(self.net(inputs), targets)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


model = Classifier()
trainer = lightning.Trainer(
    max_epochs=2,
    accelerator="cpu",
    logger=False,
    enable_checkpointing=False,
    gradient_clip_val=1.0,
)
trainer.fit(model, DataLoader(dataset, batch_size=256))
