import lightning
import torch
from torch import nn
from torch.utils.data import DataLoader

from fairclip import FairClipper, with_groups
from fairclip.integrations.lightning import FairClipCallback
from tests.integrations.adult import codes, dataset, encoder, make_model

model = make_model()


class Classifier(lightning.LightningModule):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def training_step(self, batch):
        inputs, targets, _ = batch
        return nn.functional.cross_entropy(self.net(inputs), targets)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


trainer = lightning.Trainer(
    max_epochs=2,
    accelerator="cpu",
    gradient_clip_val=1.0,
    logger=False,
    enable_checkpointing=False,
    callbacks=[FairClipCallback(FairClipper(model, encoder=encoder))],
)
trainer.fit(Classifier(model), DataLoader(with_groups(dataset, codes), batch_size=256))
