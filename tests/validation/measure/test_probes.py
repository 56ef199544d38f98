"""Attributes and paired distillation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from torchkit.server import Recogniser
from validation.measure.attributes import attribute_labels, balanced_accuracies, probe, read_attributes
from validation.measure.distillation import FEWEST_PAIRS, Student, train_student

RNG = np.random.default_rng(0)
TEXT = "2\nBeard Glasses\na.jpg -1 1\nb.jpg 1 -1\n"


def test_labels_in_the_form_of_celeba(tmp_path: Path) -> None:
    path = tmp_path / "attributes.txt"
    path.write_text(TEXT)
    names, labels = read_attributes(path)
    assert names == ["Beard", "Glasses"]
    found = attribute_labels(labels, ["val/b.jpg", "a.jpg"], path)
    assert found.tolist() == [[True, False], [False, True]]
    with pytest.raises(ValueError, match=r"no labels of c\.jpg"):
        attribute_labels(labels, ["c.jpg"], path)


@pytest.mark.parametrize("text", ["", "1\nBeard\n", "1\nBeard\na.jpg 2\n", "1\nBeard\na.jpg 1 1\n"])
def test_other_forms_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "attributes.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"attributes\.txt"):
        read_attributes(path)


def test_probe_finds_what_is_there_and_nothing_else() -> None:
    labels = RNG.random((600, 3)) < [0.5, 0.5, 0.005]
    seen = RNG.normal(size=(600, 20))
    seen[:, 4] += 4 * labels[:, 0]
    found = balanced_accuracies(seen[:400], labels[:400], seen[400:], labels[400:])
    assert found[0] > 0.9
    assert found[1] == pytest.approx(0.5, abs=0.12)
    assert np.isnan(found[2])  # too few of them to say
    assert list(probe("e", ["a", "b", "c"], (seen[:400], labels[:400]), (seen[400:], labels[400:])).accuracies) == [
        "a", "b",
    ]  # fmt: skip


def test_student_starts_as_the_recogniser_and_learns() -> None:
    torch.manual_seed(0)
    recogniser = Recogniser("mobilefacenet")
    images = torch.randint(0, 256, (FEWEST_PAIRS, 3, 112, 112), dtype=torch.uint8)
    with torch.no_grad():
        maps, embeddings = recogniser.forward_intermediates(images)
    student = Student(recogniser.backbone, 4, 8).eval()
    with torch.no_grad():
        expected = torch.nn.functional.normalize(student.head(torch.nn.functional.normalize(embeddings)))
        assert torch.allclose(student(maps[3]), expected, atol=1e-5)
    targets = torch.nn.functional.normalize(torch.randn(FEWEST_PAIRS, 8))
    sent = torch.randn(FEWEST_PAIRS, 512, 7, 7)
    before = (student(sent) * targets).sum(1).mean().item()
    trained = train_student(student, sent.numpy(), targets.numpy(), 60, 0, torch.device("cpu"))
    assert (trained(sent) * targets).sum(1).mean().item() > before + 0.3
    assert not any(parameter.requires_grad for parameter in recogniser.parameters())


def test_too_few_pairs_are_refused() -> None:
    student = Student(Recogniser("mobilefacenet").backbone, 4, 8)
    with pytest.raises(ValueError, match="at least"):
        train_student(student, np.zeros((3, 512, 7, 7)), np.zeros((3, 8)), 1, 0, torch.device("cpu"))
