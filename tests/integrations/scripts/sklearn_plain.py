import numpy as np
import torch
from torch import nn

from fairclip import FairClipper, GroupBatchSampler
from fairclip.training import make_mlp
from tests.integrations.adult import codes, dataset, encoder

seed = np.random.RandomState(0).randint(2**31 - 1)
model = make_mlp(4, 1, hidden=(64, 64), seed=seed)
clipper = FairClipper(model, encoder=encoder)
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
batches = GroupBatchSampler(codes, batch_size=256, seed=seed)
inputs, targets = dataset.tensors
for _ in range(20):
    for rows in batches:
        with clipper.watch(codes[rows]):
            logits = model(inputs[rows]).squeeze(1)
            loss = nn.functional.binary_cross_entropy_with_logits(logits, targets[rows].float())
            loss.backward()
        clipper.clip_grad_()
        optimizer.step()
        optimizer.zero_grad()
