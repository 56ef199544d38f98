"""Networks: the parameter names and shapes of the published files, tap shapes, formulas of the units."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchkit.backbone import NETWORKS, Backbone, get_model
from torchkit.backbone.ir import IR, SqueezeExcitation, Unit
from torchkit.backbone.mobilefacenet import DepthWise
from torchkit.util.cost import count_multiply_adds

Layout = dict[str, tuple[int, ...]]
UNITS = {
    "ir_18": (2, 2, 2, 2),
    "ir_34": (3, 4, 6, 3),
    "ir_50": (3, 4, 14, 3),
    "ir_101": (3, 13, 30, 3),
    "ir_152": (3, 8, 36, 3),
    "ir_200": (3, 24, 36, 3),
    "ir_se_50": (3, 4, 14, 3),
    "ir_se_101": (3, 13, 30, 3),
}
STAGE_ENDS = {
    "ir_18": [1, 3, 5, 7],
    "ir_34": [2, 6, 12, 15],
    "ir_50": [2, 6, 20, 23],
    "ir_101": [2, 15, 45, 48],
    "ir_152": [2, 10, 46, 49],
    "ir_200": [2, 26, 62, 65],
    "ir_se_50": [2, 6, 20, 23],
    "ir_se_101": [2, 15, 45, 48],
}
IR_TAPS = [(64, 56, 56), (128, 28, 28), (256, 14, 14), (512, 7, 7)]
BOTTLENECK_TAPS = [(256, 56, 56), (512, 28, 28), (1024, 14, 14), (2048, 7, 7)]
NARROW = {"mobilefacenet_w050": 59.2, "mobilefacenet_w025": 16.8}
"""Millions of multiply-adds."""
MOBILEFACENET_TAPS = [(64, 28, 28), (128, 14, 14), (128, 7, 7), (512, 7, 7)]
DLIB_TAPS = [(32, 35, 35), (64, 17, 17), (128, 8, 8), (256, 4, 4)]


def on_meta(name: str, embedding_size: int | None = None) -> Backbone:
    """The network without memory for its weights."""
    with torch.device("meta"):
        return get_model(name, embedding_size)


def layout(module: nn.Module) -> Layout:
    return {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}


def batch_norm(name: str, channels: int, affine: bool = True) -> Layout:
    names = ("weight", "bias") if affine else ()
    return {f"{name}.num_batches_tracked": ()} | {
        f"{name}.{part}": (channels,) for part in (*names, "running_mean", "running_var")
    }


def adaface_unit(name: str, inputs: int, width: int, bottleneck: bool, se: bool) -> Layout:
    found: Layout = {}
    if inputs != width:
        found[f"{name}.shortcut_layer.0.weight"] = (width, inputs, 1, 1)
        found |= batch_norm(f"{name}.shortcut_layer.1", width)
    inner = width // 4
    convolutions = [(width, inputs, 3), (width, width, 3)]
    if bottleneck:
        convolutions = [(inner, inputs, 1), (inner, inner, 3), (width, inner, 1)]
    found |= batch_norm(f"{name}.res_layer.0", inputs)
    for number, (outputs, channels, kernel) in enumerate(convolutions):
        at = 1 + 3 * number  # convolution, batch norm and, but for the last, PReLU
        found[f"{name}.res_layer.{at}.weight"] = (outputs, channels, kernel, kernel)
        found |= batch_norm(f"{name}.res_layer.{at + 1}", outputs)
        if number < len(convolutions) - 1:
            found[f"{name}.res_layer.{at + 2}.weight"] = (outputs,)
    if se:
        found[f"{name}.res_layer.se_block.fc1.weight"] = (width // 16, width, 1, 1)
        found[f"{name}.res_layer.se_block.fc2.weight"] = (width, width // 16, 1, 1)
    return found


def adaface_layout(name: str) -> Layout:
    """Names and shapes of AdaFace's published state dicts."""
    bottleneck = name in ("ir_152", "ir_200")
    widths = (256, 512, 1024, 2048) if bottleneck else (64, 128, 256, 512)
    found: Layout = {"input_layer.0.weight": (64, 3, 3, 3), "input_layer.2.weight": (64,)}
    found |= batch_norm("input_layer.1", 64)
    inputs, number = 64, 0
    for count, width in zip(UNITS[name], widths, strict=True):
        for _ in range(count):
            found |= adaface_unit(f"body.{number}", inputs, width, bottleneck, "_se_" in name)
            inputs, number = width, number + 1
    found |= batch_norm("output_layer.0", widths[-1])
    found["output_layer.3.weight"] = (512, widths[-1] * 49)
    found["output_layer.3.bias"] = (512,)
    return found | batch_norm("output_layer.4", 512, affine=False)


def mobilefacenet_block(name: str, shape: tuple[int, ...], linear: bool = False) -> Layout:
    prelu = {} if linear else {f"{name}.prelu.weight": (shape[0],)}
    return {f"{name}.conv.weight": shape} | batch_norm(f"{name}.bn", shape[0]) | prelu


def mobilefacenet_depth_wise(name: str, inputs: int, outputs: int, inner: int) -> Layout:
    return (
        mobilefacenet_block(f"{name}.conv", (inner, inputs, 1, 1))
        | mobilefacenet_block(f"{name}.conv_dw", (inner, 1, 3, 3))
        | mobilefacenet_block(f"{name}.project", (outputs, inner, 1, 1), linear=True)
    )


def mobilefacenet_layout() -> Layout:
    """Names and shapes of TFace's published state dict."""
    found = mobilefacenet_block("conv1", (64, 3, 3, 3)) | mobilefacenet_block("conv2_dw", (64, 1, 3, 3))
    found |= mobilefacenet_depth_wise("conv_23", 64, 64, 128)
    found |= mobilefacenet_depth_wise("conv_34", 64, 128, 256)
    found |= mobilefacenet_depth_wise("conv_45", 128, 128, 512)
    for name, channels, inner, count in (("conv_3", 64, 128, 4), ("conv_4", 128, 256, 6), ("conv_5", 128, 256, 2)):
        for number in range(count):
            found |= mobilefacenet_depth_wise(f"{name}.model.{number}", channels, channels, inner)
    found |= mobilefacenet_block("conv_6_sep", (512, 128, 1, 1))
    found |= mobilefacenet_block("output_layer.conv_6_dw", (512, 1, 7, 7), linear=True)
    found["output_layer.linear.weight"] = (512, 512)
    return found | batch_norm("output_layer.bn", 512, affine=False)


@pytest.mark.parametrize("name", sorted(UNITS))
def test_ir_has_the_names_and_shapes_of_adafaces_files(name: str) -> None:
    assert layout(on_meta(name)) == adaface_layout(name)


def test_mobilefacenet_has_the_names_and_shapes_of_tfaces_file() -> None:
    assert layout(on_meta("mobilefacenet")) == mobilefacenet_layout()


@pytest.mark.parametrize(("name", "ends"), STAGE_ENDS.items())
def test_stages_of_ir_end_where_the_server_is_tapped(name: str, ends: list[int]) -> None:
    network = on_meta(name)
    assert isinstance(network, IR)
    assert network.stage_ends() == ends
    last = [segment[-1] for segment in network.segments()[:4]]
    assert last == [network.body[end] for end in ends]


@pytest.mark.parametrize(
    ("name", "shapes"),
    [(name, BOTTLENECK_TAPS if name in ("ir_152", "ir_200") else IR_TAPS) for name in UNITS]
    + [("mobilefacenet", MOBILEFACENET_TAPS), ("dlib_resnet", DLIB_TAPS)],
)
def test_tap_shapes(name: str, shapes: list[tuple[int, int, int]]) -> None:
    assert on_meta(name).tap_shapes() == shapes


def test_every_backbone_is_covered_here() -> None:
    elsewhere = {name for name in NETWORKS if name.startswith("iresnet_")}  # tests/test_iresnet.py
    assert set(NETWORKS) - elsewhere == set(UNITS) | {"mobilefacenet", *NARROW, "dlib_resnet", "strided_encoder"}


@pytest.mark.parametrize("training", [True, False])
def test_tap_shapes_leaves_the_network_as_it_was(training: bool) -> None:
    network = get_model("mobilefacenet").train(training)
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    network.tap_shapes()
    assert network.training is training and all(m.training is training for m in network.modules())
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())


def test_taps_of_ir_are_the_outputs_at_the_stage_ends() -> None:
    network = randomised(get_model("ir_18")).eval()
    x = torch.rand(1, 3, 112, 112) * 2 - 1
    with torch.no_grad():
        taps = network.taps(x)
        state = network.input_layer(x)
        for number, unit in enumerate(network.body):
            state = unit(state)
            if number in STAGE_ENDS["ir_18"]:
                assert torch.equal(taps[STAGE_ENDS["ir_18"].index(number)], state)
        assert torch.equal(network(x), network.output_layer(state))


@pytest.mark.parametrize(("name", "million_multiply_adds"), NARROW.items())
def test_narrow_mobilefacenets_have_a_share_of_the_channels(name: str, million_multiply_adds: float) -> None:
    share = {"mobilefacenet_w050": 2, "mobilefacenet_w025": 4}[name]
    whole, narrow = layout(on_meta("mobilefacenet")), layout(on_meta(name))
    assert set(narrow) == set(whole)
    for key, shape in narrow.items():
        fixed = {1, 3, 7, 512 if key.startswith("output_layer") else 0}
        for side, of_whole in zip(shape, whole[key], strict=True):
            assert side in (of_whole // share, of_whole) and (side == of_whole // share or side in fixed)
    assert on_meta(name).tap_shapes() == [(c // share, h, w) for c, h, w in MOBILEFACENET_TAPS]
    count = count_multiply_adds(get_model(name).eval(), torch.zeros(1, 3, 112, 112))
    assert count / 1e6 == pytest.approx(million_multiply_adds, abs=0.05)


def test_taps_of_mobilefacenet_follow_the_named_modules() -> None:
    network = randomised(get_model("mobilefacenet")).eval()
    x = torch.rand(2, 3, 112, 112) * 2 - 1
    with torch.no_grad():
        taps = network.taps(x)
        tapped = ["conv_23", "conv_34", "conv_45", "conv_6_sep"]
        state = x
        for name, module in network.named_children():
            state = module(state)
            if name in tapped:
                assert torch.equal(taps[tapped.index(name)], state)
        assert torch.equal(network(x), state)


@pytest.mark.parametrize("name", ["ir_18", "mobilefacenet", "dlib_resnet"])
def test_segments_in_a_chain_are_the_forward_pass(name: str) -> None:
    network = get_model(name).eval()
    x = torch.rand(1, 3, 112, 112) * 2 - 1
    with torch.no_grad():
        state = x
        for index in range(5):
            state = network.run_segment(index, state)
        assert torch.equal(state, network(x))
        assert state.shape == (1, network.embedding_size)
    covered = {m for segment in network.segments() for part in segment for m in part.modules()}
    assert all(m in covered for m in network.modules() if next(m.parameters(recurse=False), None) is not None)


@pytest.mark.parametrize(("inputs", "width", "stride"), [(8, 8, 1), (8, 8, 2), (8, 16, 2), (8, 16, 1)])
@pytest.mark.parametrize("bottleneck", [False, True])
def test_unit_follows_its_formula(inputs: int, width: int, stride: int, bottleneck: bool) -> None:
    unit = randomised(Unit(inputs, width, stride, bottleneck, se=False)).eval()
    state = unit.state_dict()
    x = torch.randn(2, inputs, 8, 8)

    out = naive_batch_norm(x, state, "res_layer.0")
    if bottleneck:
        out = F.conv2d(out, state["res_layer.1.weight"])
        out = naive_prelu(naive_batch_norm(out, state, "res_layer.2"), state["res_layer.3.weight"])
        out = F.conv2d(out, state["res_layer.4.weight"], padding=1)
        out = naive_prelu(naive_batch_norm(out, state, "res_layer.5"), state["res_layer.6.weight"])
        out = naive_batch_norm(F.conv2d(out, state["res_layer.7.weight"], stride=stride), state, "res_layer.8")
    else:
        out = F.conv2d(out, state["res_layer.1.weight"], padding=1)
        out = naive_prelu(naive_batch_norm(out, state, "res_layer.2"), state["res_layer.3.weight"])
        out = F.conv2d(out, state["res_layer.4.weight"], stride=stride, padding=1)
        out = naive_batch_norm(out, state, "res_layer.5")
    shortcut = x[:, :, ::stride, ::stride]
    if inputs != width:
        shortcut = F.conv2d(shortcut, state["shortcut_layer.0.weight"])
        shortcut = naive_batch_norm(shortcut, state, "shortcut_layer.1")

    torch.testing.assert_close(unit(x), out + shortcut, rtol=1e-4, atol=1e-4)


def test_squeeze_and_excitation_follows_its_formula() -> None:
    gate = randomised(SqueezeExcitation(32))
    x = torch.randn(2, 32, 5, 5)
    hidden = (x.mean(dim=(2, 3)) @ gate.fc1.weight[:, :, 0, 0].t()).clamp(min=0)
    factor = 1 / (1 + torch.exp(-(hidden @ gate.fc2.weight[:, :, 0, 0].t())))
    torch.testing.assert_close(gate(x), x * factor[:, :, None, None])


@pytest.mark.parametrize(("stride", "residual"), [(2, False), (1, False), (1, True)])
def test_inverted_bottleneck_follows_its_formula(stride: int, residual: bool) -> None:
    """1x1 up, 3x3 a channel, 1x1 down without an activation, and the skip."""
    block = randomised(DepthWise(4, 4, 10, stride, residual)).eval()
    state = block.state_dict()
    x = torch.randn(2, 4, 8, 8)

    up = naive_batch_norm(torch.einsum("oc,bchw->bohw", state["conv.conv.weight"][:, :, 0, 0], x), state, "conv.bn")
    up = naive_prelu(up, state["conv.prelu.weight"])
    padded = F.pad(up, (1, 1, 1, 1))
    size = 8 // stride
    wide = torch.zeros(2, 10, size, size)
    for row in range(3):
        for column in range(3):
            shifted = padded[:, :, row : row + 8 : stride, column : column + 8 : stride]
            wide += shifted * state["conv_dw.conv.weight"][:, 0, row, column].view(1, -1, 1, 1)
    wide = naive_prelu(naive_batch_norm(wide, state, "conv_dw.bn"), state["conv_dw.prelu.weight"])
    out = torch.einsum("oc,bchw->bohw", state["project.conv.weight"][:, :, 0, 0], wide)
    out = naive_batch_norm(out, state, "project.bn")

    torch.testing.assert_close(block(x), out + x if residual else out, rtol=1e-4, atol=1e-4)


def test_mobilefacenet_halves_and_skips_where_it_should() -> None:
    network = get_model("mobilefacenet")
    blocks = {name: m for name, m in network.named_modules() if isinstance(m, DepthWise)}
    assert {name for name, block in blocks.items() if not block.residual} == {"conv_23", "conv_34", "conv_45"}
    assert {block.conv_dw.conv.stride for block in blocks.values() if not block.residual} == {(2, 2)}
    assert {block.conv_dw.conv.stride for block in blocks.values() if block.residual} == {(1, 1)}


def test_embedding_size_can_be_chosen() -> None:
    assert layout(on_meta("ir_18", 128))["output_layer.3.weight"] == (128, 25088)
    assert on_meta("mobilefacenet", 64).embedding_size == 64


@pytest.mark.parametrize("name", ["MobileFaceNet", "IR_50", "Ir_Se_50"])
def test_case_of_a_name_does_not_matter(name: str) -> None:
    assert layout(on_meta(name)) == layout(on_meta(name.lower()))


def test_unknown_name_lists_the_known_and_the_nearest() -> None:
    with pytest.raises(ValueError, match="'ir_5O'; did you mean 'ir_50'") as error:
        get_model("ir_5O")
    assert all(name in str(error.value) for name in NETWORKS)


def test_unknown_name_without_a_near_one_lists_the_known() -> None:
    with pytest.raises(ValueError, match=r"^unknown backbone 'zzz'\. Known: dlib_resnet, "):
        get_model("zzz")


def randomised(module: nn.Module) -> nn.Module:
    """Random weights and batch norm statistics, so that no part is an identity."""
    with torch.no_grad():
        for key, tensor in module.state_dict().items():
            if key.endswith("running_var"):
                tensor.uniform_(0.5, 2)
            elif tensor.dim() == 1:
                tensor.normal_(0.3, 0.3)
            elif tensor.is_floating_point():
                tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5)
    return module


def naive_batch_norm(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    mean, variance, weight, bias = (
        state[f"{name}.{part}"].view(1, -1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / torch.sqrt(variance + 1e-5) * weight + bias


def naive_prelu(x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x > 0, x, slope.view(1, -1, 1, 1) * x)


def test_strided_encoder_is_light_up_to_its_first_tap() -> None:
    """5x5, 3x3 and 3x3 convolutions at strides 2, 4 and 8: 3,763,200 + 5,419,008 + 8,128,512 multiply-adds."""
    network = get_model("strided_encoder").eval()
    assert network.tap_shapes() == [(96, 14, 14), (128, 7, 7), (128, 7, 7), (512, 7, 7)]
    expected = 56**2 * 16 * 3 * 25 + 28**2 * 48 * 16 * 9 + 14**2 * 96 * 48 * 9
    assert count_multiply_adds(lambda x: network.taps(x, 1), torch.zeros(1, 3, 112, 112)) == expected
    assert network(torch.zeros(2, 3, 112, 112)).shape == (2, 512)
