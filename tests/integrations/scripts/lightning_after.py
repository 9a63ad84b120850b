import lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from fairclip import FairClipper, NormCap, with_groups
from fairclip.integrations.lightning import FairClipCallback
from tests.integrations.adult import codes, dataset, encoder, make_model


class Classifier(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = make_model()

    def training_step(self, batch: list[Tensor]) -> Tensor:
        inputs, targets, _ = batch
        return nn.functional.cross_entropy(self.net(inputs), targets)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


model = Classifier()
clipper = FairClipper(model, NormCap(max_ratio=2.0), encoder=encoder)
trainer = lightning.Trainer(
    max_epochs=2,
    accelerator="cpu",
    logger=False,
    enable_checkpointing=False,
    gradient_clip_val=1.0,
    callbacks=[FairClipCallback(clipper)],
)
trainer.fit(model, DataLoader(with_groups(dataset, codes), batch_size=256))
