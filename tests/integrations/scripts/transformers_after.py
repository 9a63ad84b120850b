from tempfile import gettempdir
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainingArguments

from fairclip import FairClipper, NormCap, with_groups
from fairclip.integrations.transformers import FairClipTrainer
from tests.integrations.adult import codes, dataset, encoder, make_model


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network = make_model()

    def forward(self, features: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.network(features)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


model = Classifier()
pairs = zip(*dataset.tensors, strict=True)
rows: Any = [{"features": features, "labels": label} for features, label in pairs]
arguments = TrainingArguments(
    output_dir=gettempdir(),
    per_device_train_batch_size=256,
    num_train_epochs=2,
    train_sampling_strategy="sequential",
    lr_scheduler_type="constant",
    max_grad_norm=1.0,
    save_strategy="no",
    disable_tqdm=True,
    use_cpu=True,
)
clipper = FairClipper(model, NormCap(max_ratio=2.0), encoder=encoder, batch_dim=0)
trainer = FairClipTrainer(
    model=model,
    args=arguments,
    train_dataset=with_groups(rows, codes),
    optimizers=(torch.optim.SGD(model.parameters(), lr=0.1), None),
    clipper=clipper,
)
trainer.train()
