import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader

from fairclip import FairClipper, NormCap, with_groups
from fairclip.clipping import Norm
from fairclip.integrations.accelerate import clip_grad_
from tests.integrations.adult import codes, dataset, encoder, make_model

accelerator = Accelerator(cpu=True)
model = make_model()
clipper = FairClipper(model, NormCap(max_ratio=2.0), Norm(max_norm=1.0), encoder=encoder)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
loader = DataLoader(with_groups(dataset, codes), batch_size=256)
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
for _ in range(2):
    for inputs, targets, groups in loader:
        with accelerator.accumulate(model):
            with clipper.watch(groups):
                loss = nn.functional.cross_entropy(model(inputs), targets)
                accelerator.backward(loss)
            clip_grad_(clipper, accelerator, optimizer)
            optimizer.step()
            optimizer.zero_grad()
