"""The network has the paper's layers, parameters, initialisation and normalisation."""

import pytest
import torch
from torch import nn

from training.model import AlexNet, Layer, LocalResponseNorm, layer_table, weighted_layers

# Outputs, parameters, and multiply-adds: kernels x (inputs / groups) x kernel's area x positions.
TABLE = [
    Layer("conv1", (96, 55, 55), 34_944, 96 * 3 * 11 * 11 * 55 * 55),
    Layer("norm1", (96, 55, 55), 0, 0),
    Layer("pool1", (96, 27, 27), 0, 0),
    Layer("conv2", (256, 27, 27), 307_456, 256 * 48 * 5 * 5 * 27 * 27),
    Layer("norm2", (256, 27, 27), 0, 0),
    Layer("pool2", (256, 13, 13), 0, 0),
    Layer("conv3", (384, 13, 13), 885_120, 384 * 256 * 3 * 3 * 13 * 13),
    Layer("conv4", (384, 13, 13), 663_936, 384 * 192 * 3 * 3 * 13 * 13),
    Layer("conv5", (256, 13, 13), 442_624, 256 * 192 * 3 * 3 * 13 * 13),
    Layer("pool5", (256, 6, 6), 0, 0),
    Layer("fc6", (4096,), 37_752_832, 4096 * 256 * 6 * 6),
    Layer("fc7", (4096,), 16_781_312, 4096 * 4096),
    Layer("fc8", (1000,), 4_097_000, 1000 * 4096),
]


@pytest.fixture(scope="module")
def paper_net() -> AlexNet:
    torch.manual_seed(0)
    return AlexNet(classes=1000)


@pytest.mark.parametrize("index", range(13), ids=[layer.name for layer in TABLE])
def test_the_layer_table_is_the_paper_s(paper_net: AlexNet, index: int) -> None:
    assert layer_table(paper_net)[index] == TABLE[index]


def test_the_totals_are_the_paper_s(paper_net: AlexNet) -> None:
    rows = layer_table(paper_net)
    assert sum(row.parameters for row in rows) == 60_965_224
    assert sum(p.numel() for p in paper_net.parameters()) == 60_965_224
    assert sum(row.multiply_adds for row in rows) == 724_406_816


def test_layers_run_in_the_order_of_the_paper(paper_net: AlexNet) -> None:
    """The forward pass, written out with torch's own layers; dropout follows fc6 and fc7."""
    net, norm = paper_net.eval(), nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2)
    pool, relu = nn.MaxPool2d(3, 2), nn.ReLU()
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1)) * 60
    with torch.no_grad():
        x = pool(norm(relu(net.conv1(images))))
        assert x.shape[1:] == (96, 27, 27)
        x = pool(norm(relu(net.conv2(x))))
        assert x.shape[1:] == (256, 13, 13)
        x = pool(relu(net.conv5(relu(net.conv4(relu(net.conv3(x)))))))
        assert x.shape[1:] == (256, 6, 6)
        expected = net.fc8(relu(net.fc7(relu(net.fc6(x.flatten(1))))))
        torch.testing.assert_close(net(images), expected, rtol=1e-4, atol=1e-4)


def test_half_of_the_hidden_units_drop_out_in_training_alone() -> None:
    net = AlexNet(2, width=0.25)
    inputs_of: dict[str, torch.Tensor] = {}
    for layer in (net.fc7, net.fc8):
        layer.register_forward_pre_hook(
            lambda layer, inputs: inputs_of.update({"fc7" if layer is net.fc7 else "fc8": inputs[0]})
        )
    torch.manual_seed(0)
    images = torch.randn(8, 3, 224, 224)
    with torch.no_grad():
        net.train()(images)
        dropped = {name: (x == 0).float().mean().item() for name, x in inputs_of.items()}
        net.eval()(images)
        zeros = {name: (x == 0).float().mean().item() for name, x in inputs_of.items()}
    # Biases of 1 keep nearly all of fc6 and fc7 above 0, so that zeros are dropouts.
    assert all(0.45 < share < 0.55 for share in dropped.values()), dropped
    assert all(share < 0.05 for share in zeros.values()), zeros


@pytest.mark.parametrize("channels", [2, 4, 5, 10, 96])
def test_local_response_norm_and_its_gradient_equal_torch(channels: int) -> None:
    theirs = nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2)
    ours = LocalResponseNorm(channels).double()
    draw = torch.Generator().manual_seed(channels)
    x = (torch.randn(2, channels, 6, 7, generator=draw).double() * 100).requires_grad_()
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-6, atol=1e-6)
    weight = torch.randn(2, channels, 6, 7, generator=draw).double()
    (mine,) = torch.autograd.grad((ours(x) * weight).sum(), x)
    (other,) = torch.autograd.grad((theirs(x) * weight).sum(), x)
    torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-6)


def test_local_response_norm_stays_in_float32_under_autocast() -> None:
    x = torch.rand(1, 8, 3, 3, generator=torch.Generator().manual_seed(0)) * 1000
    norm = LocalResponseNorm(8)
    with torch.autocast("cpu", torch.bfloat16):
        half = norm(x.bfloat16())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, norm(x.bfloat16().float()))


def test_the_paper_s_initialisation(paper_net: AlexNet) -> None:
    ones = {"conv2", "conv4", "conv5", "fc6", "fc7"}
    fresh = dict(weighted_layers(paper_net))
    assert list(fresh) == [layer.name for layer in TABLE if layer.parameters]
    for name, layer in fresh.items():
        assert layer.weight.mean().abs() < 5e-4, name
        assert abs(layer.weight.std().item() - 0.01) < 2e-4, name
        assert layer.bias is not None
        assert (layer.bias == (1 if name in ones else 0)).all(), name


def test_kaiming_initialisation() -> None:
    torch.manual_seed(0)
    for name, layer in weighted_layers(AlexNet(10, width=0.25, weight_init="kaiming")):
        fan_in = layer.weight[0].numel()
        expected = 0.01 if name == "fc8" else (2 / fan_in) ** 0.5
        assert layer.weight.std().item() == pytest.approx(expected, rel=0.05), name
        assert layer.bias is not None
        assert (layer.bias == 0).all(), name


@pytest.mark.parametrize(
    ("width", "kernels"),
    [
        (1.0, [96, 256, 384, 384, 256, 4096, 4096]),
        (0.5, [48, 128, 192, 192, 128, 2048, 2048]),
        (0.1, [10, 26, 38, 38, 26, 410, 410]),
        (0.05, [4, 12, 20, 20, 12, 204, 204]),
        (0.001, [2, 2, 2, 2, 2, 4, 4]),
    ],
)
def test_width_scales_every_layer_to_an_even_number(width: float, kernels: list[int]) -> None:
    with torch.device("meta"):
        net = AlexNet(7, width)
    sizes = [layer.weight.shape[0] for _name, layer in weighted_layers(net)]
    assert sizes == [*kernels, 7]


@pytest.mark.parametrize("width", [0, -0.5, 1.01, 2, float("nan")])
def test_a_width_out_of_range_is_refused(width: float) -> None:
    with pytest.raises(ValueError, match=f"width is {width}"):
        AlexNet(2, width)


def test_an_unknown_initialisation_is_refused() -> None:
    with pytest.raises(ValueError, match="'xavier'"):
        AlexNet(2, 0.01, "xavier")


@pytest.mark.parametrize("size", [64, 112, 223, 224])
def test_smaller_images_change_fc6_alone(size: int) -> None:
    torch.manual_seed(0)
    net, served = AlexNet(3, 0.05, image_size=size), AlexNet(3, 0.05)
    assert net(torch.zeros(1, 3, size, size)).shape == (1, 3)
    shapes, others = ({k: v.shape for k, v in n.state_dict().items()} for n in (net, served))
    assert {k for k in shapes if shapes[k] != others[k]} <= {"fc6.weight"}


def test_the_normalisation_s_backward_is_the_derivative_of_its_forward() -> None:
    norm = LocalResponseNorm(8).double()
    x = torch.randn(2, 8, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 50
    assert torch.autograd.gradcheck(norm, (x.requires_grad_(),))
