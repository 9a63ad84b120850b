"""fairclip where users already train: one thin module for each library, imported by its full name.

``import fairclip`` loads none of these libraries, and where one is missing its module says which
extra installs it. Plain torch needs no module; its usual variations follow, each held against the
plain loop that comes first:

    >>> import torch
    >>> from torch import nn
    >>> from torch.nn.functional import mse_loss
    >>> from torch.utils.data import DataLoader, TensorDataset
    >>> from fairclip import FairClipper, NormCap, with_groups
    >>> from fairclip.clipping import Norm
    >>> rng = torch.Generator().manual_seed(0)
    >>> inputs = torch.randn(60, 4, generator=rng)
    >>> targets = torch.randn(60, 1, generator=rng) + inputs[:, :1]
    >>> groups = torch.tensor([0, 0, 1] * 20)
    >>> loader = DataLoader(with_groups(TensorDataset(inputs, targets), groups), batch_size=20)
    >>> settings = {"cap": NormCap(max_ratio=1.5), "clip": Norm(0.7), "group_counts": [400, 200]}
    >>> def make_model():
    ...     with torch.random.fork_rng():
    ...         _ = torch.manual_seed(0)
    ...         return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    >>> def weights(model):
    ...     return nn.utils.parameters_to_vector(model.parameters()).detach()
    >>> model = make_model()
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> clipper = FairClipper(model, **settings)
    >>> for x, y, codes in loader:
    ...     with clipper.watch(codes):
    ...         mse_loss(model(x), y).backward()
    ...     record = clipper.clip_grad_()
    ...     optimizer.step()
    ...     optimizer.zero_grad()
    >>> plain = weights(model)

Autocast is on inside of the window, as around any forward pass:

    >>> model = make_model()
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> clipper = FairClipper(model, **settings)
    >>> for x, y, codes in loader:
    ...     with clipper.watch(codes):
    ...         with torch.autocast("cpu", dtype=torch.bfloat16):
    ...             outputs = model(x)
    ...         mse_loss(outputs.float(), y).backward()
    ...     record = clipper.clip_grad_()
    ...     optimizer.step()
    ...     optimizer.zero_grad()
    >>> outputs.dtype, torch.allclose(weights(model), plain, atol=1e-3)
    (torch.bfloat16, True)

With a loss scaler, `FairClipper.clip_grad_` unscales, and so takes the place of ``unscale_``:

    >>> model = make_model()
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> clipper = FairClipper(model, **settings)
    >>> scaler = torch.amp.GradScaler("cpu")
    >>> for x, y, codes in loader:
    ...     with clipper.watch(codes):
    ...         with torch.autocast("cpu", dtype=torch.float16):
    ...             outputs = model(x)
    ...         scaler.scale(mse_loss(outputs.float(), y)).backward()
    ...     record = clipper.clip_grad_(scaler, optimizer)
    ...     scaler.step(optimizer)
    ...     scaler.update()
    ...     optimizer.zero_grad()
    >>> torch.allclose(weights(model), plain, atol=1e-4)
    True

Several optimizers are a list, which a scaler needs; without one they are not named at all:

    >>> model = make_model()
    >>> optimizers = [torch.optim.SGD(part.parameters(), lr=0.1) for part in (model[0], model[2])]
    >>> clipper = FairClipper(model, **settings)
    >>> scaler = torch.amp.GradScaler("cpu")
    >>> for x, y, codes in loader:
    ...     with clipper.watch(codes):
    ...         scaler.scale(mse_loss(model(x), y)).backward()
    ...     record = clipper.clip_grad_(scaler, optimizers)
    ...     for optimizer in optimizers:
    ...         scaler.step(optimizer)
    ...         optimizer.zero_grad()
    ...     scaler.update()
    >>> torch.allclose(weights(model), plain)
    True

Accumulation is several windows before one `FairClipper.clip_grad_`:

    >>> model = make_model()
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> clipper = FairClipper(model, **settings)
    >>> for batch in loader:
    ...     for x, y, codes in zip(*(part.chunk(4) for part in batch)):
    ...         with clipper.watch(codes):
    ...             (mse_loss(model(x), y) / 4).backward()
    ...     record = clipper.clip_grad_()
    ...     optimizer.step()
    ...     optimizer.zero_grad()
    >>> torch.allclose(weights(model), plain)
    True

A scheduler goes on as before; a step is as long as its rate times the clipped norm:

    >>> model = make_model()
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    >>> clipper = FairClipper(model, **settings | {"clip": Norm(0.5)})
    >>> lengths = []
    >>> for x, y, codes in loader:
    ...     with clipper.watch(codes):
    ...         mse_loss(model(x), y).backward()
    ...     record = clipper.clip_grad_()
    ...     before = weights(model)
    ...     optimizer.step()
    ...     scheduler.step()
    ...     optimizer.zero_grad()
    ...     lengths.append(round(float((weights(model) - before).norm()), 4))
    >>> lengths
    [0.05, 0.025, 0.0125]

Parameter groups keep their rates; norms are of what is not frozen when the clipper is made:

    >>> model = make_model()
    >>> body, head = model[0].requires_grad_(False), model[2]
    >>> optimizer = torch.optim.SGD(
    ...     [{"params": [head.weight], "lr": 0.1}, {"params": [head.bias], "lr": 0.01}]
    ... )
    >>> clipper = FairClipper(model, **settings | {"clip": Norm(0.1)})
    >>> for x, y, codes in loader:
    ...     with clipper.watch(codes):
    ...         mse_loss(model(x), y).backward()
    ...     record = clipper.clip_grad_()
    ...     before, gradient = weights(head), torch.cat([head.weight.grad[0], head.bias.grad])
    ...     optimizer.step()
    ...     optimizer.zero_grad()
    >>> rates = torch.tensor([0.1] * 8 + [0.01])
    >>> torch.allclose(before - weights(head), rates * gradient, atol=1e-6)
    True
    >>> torch.equal(weights(body), weights(make_model()[0])), round(float(gradient.norm()), 4)
    (True, 0.1)

A compiled model is weighed, with factors of earlier steps, since hooks cannot see inside of it. The
factors, and so the weights, are those of the model uncompiled, under any backend; this one needs no
compiler:

    >>> found = []
    >>> for compiled in (False, True):
    ...     model = make_model()
    ...     optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    ...     if compiled:
    ...         model = torch.compile(model, backend="aot_eager")
    ...     clipper = FairClipper(model, **settings, measure_every=1)
    ...     for x, y, codes in loader:
    ...         losses = mse_loss(model(x), y, reduction="none").squeeze(1)
    ...         clipper.weigh(losses, codes).mean().backward()
    ...         record = clipper.clip_grad_()
    ...         optimizer.step()
    ...         optimizer.zero_grad()
    ...     found.append(weights(model))
    >>> torch.allclose(*found), bool(record.factors.min() < 1)
    (True, True)
"""

__all__: list[str] = []
