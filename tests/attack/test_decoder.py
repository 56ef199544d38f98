"""The decoder of attackers: its inputs, where it starts from, and its file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from torchkit.attack.attacker_file import load_attacker, save_attacker, start_from
from torchkit.attack.decoder import Decoder, InputShape, MapAdapter, Standardise

MEAN = torch.full((3, 112, 112), 0.5)
SHAPES = {
    "O": InputShape((3, 112, 112)),
    "e": InputShape((32,)),
    "Z1": InputShape((8, 56, 56), 2),
    "Z2": InputShape((8, 28, 28)),
    "Z3": InputShape((8, 35, 35)),
    "Z4": InputShape((16, 7, 7)),
}


def examples(shapes: dict[str, InputShape], count: int = 3) -> dict[str, Tensor]:
    return {name: torch.rand(count, *spec.shape) for name, spec in shapes.items()}


def busy(decoder: Decoder) -> Decoder:
    """With weights everywhere, as after a training."""
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return decoder


def test_starts_from_the_image_or_the_mean_face() -> None:
    given = examples(SHAPES)
    assert torch.equal(Decoder(SHAPES, 4, MEAN)(given), given["O"])
    alone = {"e": SHAPES["e"]}
    assert torch.equal(Decoder(alone, 4, MEAN)(examples(alone)), MEAN.expand(3, -1, -1, -1))


@pytest.mark.parametrize("name", SHAPES)
def test_every_input_reaches_the_image(name: str) -> None:
    decoder, given = busy(Decoder(SHAPES, 4, MEAN)), examples(SHAPES)
    changed = given | {name: given[name].flip(0)}
    assert not torch.allclose(decoder(given), decoder(changed))


def test_new_inputs_change_nothing_at_first() -> None:
    few = {name: SHAPES[name] for name in ("O", "e")}
    start = busy(Decoder(few, 4, MEAN))
    decoder = Decoder(SHAPES, 4, MEAN)
    start_from(decoder, start, "start")
    given = examples(SHAPES)
    assert torch.allclose(decoder(given), start({name: given[name] for name in few}), atol=1e-6)


def test_another_width_is_refused() -> None:
    with pytest.raises(ValueError, match=r"start: .* has shape"):
        start_from(Decoder(SHAPES, 4, MEAN), Decoder(SHAPES, 8, MEAN), "start")


def test_a_block_has_weights_of_its_own() -> None:
    """Against a convolution of each quarter with its own weights."""
    adapter = MapAdapter(InputShape((5, 28, 28), 2), 3, 28)
    torch.nn.init.normal_(adapter.weight)
    x = torch.randn(2, 5, 28, 28)
    out = adapter(x)
    for row in (0, 1):
        for column in (0, 1):
            place = (..., slice(14 * row, 14 * row + 14), slice(14 * column, 14 * column + 14))
            expected = F.conv2d(x[place], adapter.weight[2 * row + column][..., None, None], adapter.bias)
            assert torch.allclose(out[place], expected, atol=1e-5)


def test_standardise_against_the_formula() -> None:
    x = torch.randn(50, 4, 6, 6) * torch.tensor([1.0, 2.0, 3.0, 0.0]).view(1, 4, 1, 1) + 7
    standardise = Standardise((4, 6, 6))
    standardise.fit(x)
    out = standardise(x)
    expected = (x - x.mean((0, 2, 3), keepdim=True)) / x.std((0, 2, 3), keepdim=True, correction=0)
    assert torch.allclose(out[:, :3], expected[:, :3], atol=1e-4)
    assert (out[:, 3] == 0).all()  # a channel that never changes


def test_file_gives_the_same_decoder(tmp_path: Path) -> None:
    decoder, given = busy(Decoder(SHAPES, 4, MEAN)), examples(SHAPES)
    decoder.fit_statistics(given)
    save_attacker(tmp_path / "attacker.pth", decoder, "O+e+Z")
    read = load_attacker(tmp_path / "attacker.pth")
    assert read.inputs == decoder.inputs
    assert torch.equal(read(given), decoder.eval()(given))


@pytest.mark.parametrize("contents", [{}, {"format": "proface-c attacker", "version": 1}, [1]])
def test_other_files_are_refused(tmp_path: Path, contents: object) -> None:
    torch.save(contents, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth"):
        load_attacker(tmp_path / "other.pth")
