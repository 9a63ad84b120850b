import pytest
import torch

from fairclip.training import make_cnn
from tests.training._properties import assert_different_weights, assert_same_weights


@pytest.mark.parametrize("side", [1, 2, 5, 8])
@pytest.mark.parametrize("channels", [(), (3,), (3, 4, 2)])
def test_any_square_image_makes_outputs(side: int, channels: tuple[int, ...]) -> None:
    model = make_cnn(side * side, 2, channels, seed=0)
    assert model(torch.zeros(4, side * side)).shape == (4, 2)


def test_the_pixels_are_taken_row_by_row() -> None:
    model = make_cnn(9, 1, (2,), seed=0)
    image = torch.arange(9.0).reshape(1, 1, 3, 3)
    torch.testing.assert_close(model[1](model[0](image.reshape(1, 9))), model[1](image))


def test_no_convolution_is_a_linear_model() -> None:
    parameters = list(make_cnn(9, 1, (), seed=0).parameters())
    assert [tuple(parameter.shape) for parameter in parameters] == [(1, 9), (1,)]


def test_the_seed_decides_the_weights_and_the_global_random_state_is_left_alone() -> None:
    before = torch.get_rng_state()
    assert_same_weights(make_cnn(16, 1, seed=1), make_cnn(16, 1, seed=1))
    assert_different_weights(make_cnn(16, 1, seed=1), make_cnn(16, 1, seed=2))
    assert torch.equal(torch.get_rng_state(), before)


def test_it_learns_what_two_neighbours_say() -> None:
    rng = torch.Generator().manual_seed(0)
    x = torch.rand(300, 16, generator=rng)
    y = (x.reshape(-1, 4, 4)[:, :, :2].sum((1, 2)) > 4).float()
    model = make_cnn(16, 1, (8,), seed=0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(100):
        optimizer.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(model(x).squeeze(1), y)
        loss.backward()
        optimizer.step()
    assert ((model(x).squeeze(1) > 0) == (y > 0)).float().mean() > 0.9


@pytest.mark.parametrize("n_pixels", [0, 2, 63])
def test_rejects_what_is_no_square(n_pixels: int) -> None:
    with pytest.raises(ValueError, match="`n_pixels` must be the square of a side"):
        make_cnn(n_pixels, 1, seed=0)


def test_rejects_channels() -> None:
    with pytest.raises(ValueError, match="`channels` must be positive integers"):
        make_cnn(9, 1, (0,), seed=0)
