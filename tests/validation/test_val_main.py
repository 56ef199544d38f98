"""validation/val_main.py: what it measures and writes, whatever the batch size."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from torchkit.backbone import get_model
from torchkit.client import Client, ClientSettings
from torchkit.client.encoder import Encoder
from torchkit.data.camera import CAMERAS
from torchkit.data.validation_set import load_validation_set, write_validation_set
from torchkit.obfuscation import EVALUATION, obfuscate
from torchkit.payload import encode
from torchkit.server import load_recogniser
from torchkit.system import ProFaceC, ServerReference, save_client_file
from torchkit.util.cli import run_command
from torchkit.util.seeding import content_stream
from validation import val_main
from validation.config import Settings
from validation.measure.conditions import Case, cases
from validation.measure.evaluate import Computation, embed
from validation.measure.payload_size import SizeCounter
from validation.protocol.pairs import read_pairs
from validation.protocol.references import describe, find_reference
from validation.protocol.verification import pair_distances
from validation.report.outputs import score_set

ROOT = Path(__file__).resolve().parents[2]
KINDS = ("gaussian", "hybrid")
PAIRS, PEOPLE = 12, 6
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of server.pth, client.pth and sets/."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def system(home: Path) -> ProFaceC:
    torch.manual_seed(0)
    torch.save(get_model("mobilefacenet").state_dict(), home / "server.pth")
    recogniser = load_recogniser("mobilefacenet", home / "server.pth")
    client = Client(ClientSettings(server_shapes=tuple(recogniser.backbone.tap_shapes())), key_seed=1)
    for interface in client.interfaces:  # features as large as random weights make them drown the images
        interface.weight.data.mul_(0.01)
        interface.bias.data.mul_(0.01)
    made = ProFaceC(client, recogniser).eval()
    save_client_file(home / "client.pth", made, ServerReference("mobilefacenet", home / "server.pth"), 3)
    return made


@pytest.fixture(scope="module")
def sets(home: Path, make_image: Callable[[int], np.ndarray]) -> Path:
    """A set "six" of 12 pairs over 6 distinct images; folder of the sets."""
    rng = np.random.default_rng(0)
    choice = rng.integers(0, PEOPLE, (PAIRS, 2))
    choice[:PEOPLE, 0] = np.arange(PEOPLE)  # everybody occurs
    choice[::2, 1] = choice[::2, 0]
    images = np.stack([make_image(seed).transpose(2, 0, 1) for seed in range(PEOPLE)])
    write_validation_set(home / "sets", "six", images[choice.ravel()], choice[:, 0] == choice[:, 1])
    return home / "sets"


@pytest.fixture(scope="module")
def expected(system: ProFaceC, sets: Path) -> dict[Case, np.ndarray]:
    data = load_validation_set(sets, "six")
    rows = data.images[data.rows]
    return {condition: plain_loop(system, rows, condition, seed=5) for condition in cases(KINDS)}


@pytest.mark.parametrize("batch_size", [1, 4, 5, 6, 64])  # 6 divides the set, 4 and 5 leave a partial batch
def test_any_batch_size_gives_the_rows_of_a_plain_loop(
    system: ProFaceC, sets: Path, expected: dict[Case, np.ndarray], batch_size: int
) -> None:
    found = embed(system, load_validation_set(sets, "six"), cases(KINDS), 5, Computation(CPU, batch_size))
    assert list(found) == cases(KINDS)
    for condition, array in found.items():
        np.testing.assert_allclose(array, expected[condition], atol=1e-5)


def plain_loop(system: ProFaceC, rows: np.ndarray, condition: Case, seed: int) -> np.ndarray:
    """Every row by itself, step by step."""
    out = []
    for row in rows:
        clear = torch.from_numpy(row[None])
        if condition.obfuscation is None:
            out.append(system.recogniser(clear))
            continue
        image = np.ascontiguousarray(row.transpose(1, 2, 0))
        rng = content_stream(image, seed, condition.obfuscation)
        obfuscated = obfuscate(image, condition.obfuscation, rng, EVALUATION)
        sent = torch.from_numpy(np.ascontiguousarray(obfuscated.transpose(2, 0, 1)))[None]
        if condition.name == "obfuscated":
            out.append(system.recogniser(sent))
        else:
            out.append(system.server(sent, system.client(system.client.prepare(clear, sent))))
    return torch.cat(out).detach().numpy()


def test_each_distinct_image_is_embedded_once(system: ProFaceC, sets: Path) -> None:
    data = load_validation_set(sets, "six")
    seen = []
    first = system.recogniser.backbone.segments()[0][0]
    handle = first.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    embed(system, data, cases(["gaussian"]), 5, Computation(CPU, 4))
    handle.remove()
    assert len(data.images) == PEOPLE
    assert sum(seen) == 3 * PEOPLE  # clear, obfuscated and compensated
    assert len(data.rows) == 2 * PAIRS


@pytest.mark.parametrize("name", ["clear", "obfuscated", "compensated"])
def test_flip_sums_both_embeddings_before_they_are_normalised(system: ProFaceC, sets: Path, name: str) -> None:
    data = load_validation_set(sets, "six")
    kind = None if name == "clear" else "hybrid"
    found = embed(system, data, cases(["hybrid"]), 5, Computation(CPU, 4, flip=True))[Case(name, kind)]
    lengths: list[torch.Tensor] = []
    last = system.recogniser.backbone.segments()[-1][-1]
    handle = last.register_forward_hook(lambda module, inputs, output: lengths.append(output))
    for row, embedding in zip(data.images[data.rows][:4], found, strict=False):
        image = np.ascontiguousarray(row.transpose(1, 2, 0))
        shown = obfuscate(image, "hybrid", content_stream(image, 5, "hybrid")) if kind else image
        lengths.clear()
        for turn in (1, -1):  # as it is, then left and right exchanged
            clear, sent = (
                torch.from_numpy(array[:, ::turn].transpose(2, 0, 1)[None].copy()) for array in (image, shown)
            )
            with torch.inference_mode():
                system(clear, sent) if name == "compensated" else system.recogniser(sent)
        both = sum(lengths).numpy()[0]
        np.testing.assert_allclose(embedding, both / np.linalg.norm(both), atol=1e-5)
    handle.remove()
    plain = embed(system, data, cases(["hybrid"]), 5, Computation(CPU, 4))[Case(name, kind)]
    assert np.abs(plain - found).max() > 1e-3


def test_mirrored_images_have_the_same_fused_embeddings(system: ProFaceC, sets: Path) -> None:
    data = load_validation_set(sets, "six")
    mirrored = type(data)(data.name, np.ascontiguousarray(data.images[..., ::-1]), data.rows, data.same)
    computation = Computation(CPU, 4, flip=True)
    found, other = (embed(system, images, cases(["median"]), 5, computation) for images in (data, mirrored))
    for condition, array in found.items():
        np.testing.assert_allclose(array, other[condition], atol=1e-5)  # the median sees no left and right


def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], home: Path, *arguments: object
) -> tuple[int, str, str]:
    """Exit code, standard output and error of the command, called in `home`."""
    monkeypatch.chdir(home)
    monkeypatch.setattr(sys, "argv", ["val_main.py", *map(str, arguments), "--num-workers", "0", "--device", "cpu"])
    code = 0
    try:
        parsed = val_main.parse_arguments()
        run_command(lambda: val_main.main(parsed), parsed.traceback)
    except SystemExit as stop:
        code = int(str(stop.code))
    shown = capsys.readouterr()
    return code, shown.out, shown.err


BASE = ["--backbone-resume", "client.pth", "--data-root", "sets", "--datasets"]


def test_command_writes_results_and_plots(
    tmp_path: Path,
    home: Path,
    system: ProFaceC,
    sets: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = [
        "--out",
        tmp_path / "out",
        "--obfuscations",
        *KINDS,
        "--dump-embeddings",
        "--resamples",
        "20",
        "--examples",
        "1",
    ]
    code, shown, error = run(monkeypatch, capsys, home, *BASE, "six", "--obfuscations", *KINDS, *options)
    assert code == 0, error
    out = tmp_path / "out"
    results = json.loads((out / "results.json").read_text())
    found = [(row["dataset"], row["obfuscation"], row["condition"]) for row in results["rows"]]
    assert found == [("six", c.obfuscation, c.name) for c in cases(KINDS)]
    for row in results["rows"]:
        assert row["pairs"] == PAIRS
        assert row["images"] == PEOPLE
        assert 0 <= row["accuracy"] <= 1
        assert set(row["tar_at_far"].values()) == {None}  # 6 impostor pairs measure nothing
        assert row["accuracy_interval"][0] <= row["accuracy_interval"][1]
        assert row["reference_accuracy"] is None
        assert (row["payload_bytes"] is not None) == (row["condition"] == "compensated")
        assert (row["client_macs"] > 0) == (row["condition"] == "compensated")
        assert row["server_macs"] > 0 and row["server_parameters"] > 0 and row["server_latency_ms"] > 0
    assert any("more than half" in note for note in results["notes"])
    assert "client MMAC" in shown and 'id="cost"' in (out / "report.html").read_text()
    assert results["rows"][0]["accuracy"] == 1  # equal images, equal embeddings
    pairs = read_pairs(out, "six")
    for condition, label in zip(cases(KINDS), pairs.labels, strict=True):
        name = f"six__{condition.obfuscation or 'none'}__{condition.name}.npz"
        dumped = np.load(out / "embeddings" / name)["embeddings"]
        assert dumped.shape == (2 * PAIRS, 512)
        assert dumped.dtype == np.float32
        distances = pairs.distances[pairs.labels.index(label)]
        np.testing.assert_allclose(distances, pair_distances(dumped), rtol=1e-6)
    for plot in ("accuracy.png", "roc_six.png", "det_six.png", "distances_six.png"):
        assert cv2.imread(str(out / plot)) is not None
    assert (out / "report.html").read_text().count("<img ") == 1 + len(KINDS) * 4
    assert "100.00 +/- 0.00" in shown
    assert "* recovery: " in shown
    for name in ("results.csv", "results.md", "report.html", "pairs_six.npz"):
        assert (out / name).is_file()
        assert name in shown


def test_no_resamples_and_no_faces(
    tmp_path: Path,
    home: Path,
    system: ProFaceC,
    sets: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ["--out", tmp_path / "out", "--obfuscations", "median", "--resamples", "0", "--examples", "0", "--flip"]
    code, _, error = run(monkeypatch, capsys, home, *BASE, "six", *options)
    assert code == 0, error
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["config"]["flip"] is True
    assert {row["accuracy_interval"] for row in results["rows"]} == {None}
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<img " not in page
    assert "mirror image fused" in page


@pytest.mark.parametrize("flip", [False, True])
def test_payload_bytes_are_the_mean_length_of_messages(system: ProFaceC, sets: Path, flip: bool) -> None:
    data, encoder = load_validation_set(sets, "six"), Encoder(system.client)
    clear = [np.ascontiguousarray(image.transpose(1, 2, 0)) for image in data.images]
    sent = [obfuscate(image, "hybrid", content_stream(image, 5, "hybrid")) for image in clear]
    lengths = np.array([len(encode(message)) for message in encoder(clear, sent)])
    if flip:
        clear, sent = ([np.ascontiguousarray(image[:, ::-1]) for image in group] for group in (clear, sent))
        lengths += [len(encode(message)) for message in encoder(clear, sent)]
    case, computation = Case("compensated", "hybrid"), Computation(CPU, 4, flip=flip)
    counter = SizeCounter(len(data.images), computation)
    embed(system, data, [case], 5, computation, [counter])
    found = counter.mean_sizes([case])[case]
    assert found.message == lengths.mean()
    assert 0 < found.image < found.features < found.message
    assert found.image + found.features < found.message


@pytest.mark.parametrize(
    ("recogniser", "file", "lfw", "training_set"),
    [
        ("ir_101", "adaface_ir101_webface12m.ckpt", 0.9982, "WebFace12M"),
        ("ir_101", "AdaFace_IR101_WebFace4M.ckpt", 0.9980, "WebFace4M"),
        ("ir_50", "adaface_ir50_webface4m.ckpt", 0.9978, "WebFace4M"),
        ("ir_18", "adaface_ir18_vgg2.ckpt", 0.9947, "VGGFace2"),
        ("ir_50", "adaface_ir50_ms1mv3.ckpt", None, None),  # never published
        ("ir_50", "arcface_ir50_webface4m.ckpt", None, None),
        ("ir_50", "adaface_ir50.ckpt", None, None),  # could be any of three
        ("mobilefacenet", "adaface_webface4m.pth", None, None),
    ],
)
def test_published_accuracies_are_those_of_the_weights(
    recogniser: str, file: str, lfw: float | None, training_set: str | None
) -> None:
    found = find_reference(recogniser, Path("webface4m") / file)
    if lfw is None:
        assert found is None
        return
    assert found is not None and found.accuracies["lfw"] == lfw
    assert set(found.accuracies) == {"lfw", "cfp_fp", "agedb_30", "calfw", "cplfw"}
    assert f"{recogniser} trained on {training_set}" in describe(found) and "--flip" in describe(found)


def test_published_accuracies_stand_beside_the_clear_rows(sets: Path) -> None:
    data = load_validation_set(sets, "six")
    embeddings = dict.fromkeys(cases(("median",))[:2], np.eye(2 * PAIRS, dtype=np.float32))
    clear, obfuscated = score_set(data, embeddings, 0, 5, published=0.75).rows
    assert (clear.reference_accuracy, obfuscated.reference_accuracy) == (0.75, None)


def test_report_names_the_weights_that_were_used(home: Path, system: ProFaceC) -> None:
    said = val_main.Settings(backbone_resume=home / "client.pth")
    assert val_main.server_weights(said) == home / "server.pth"
    assert val_main.server_weights(replace(said, server_checkpoint=home / "other.pth")) == home / "other.pth"
    capital = home / "capital.pth"  # names are taken in any case, and kept so
    save_client_file(capital, system, ServerReference("MobileFaceNet", home / "server.pth"), 3)
    assert val_main.server_weights(replace(said, backbone_resume=capital)) == home / "server.pth"


def test_two_runs_give_the_same_numbers(system: ProFaceC, sets: Path) -> None:
    data = load_validation_set(sets, "six")
    first = embed(system, data, cases(["hybrid"]), 5, Computation(CPU, 3))
    second = embed(system, data, cases(["hybrid"]), 5, Computation(CPU, 3))
    other = embed(system, data, cases(["hybrid"]), 6, Computation(CPU, 3))
    hybrid = Case("obfuscated", "hybrid")
    np.testing.assert_array_equal(first[hybrid], second[hybrid])
    assert not np.array_equal(first[hybrid], other[hybrid])


def test_bad_input_gets_a_clear_message(
    tmp_path: Path,
    home: Path,
    system: ProFaceC,
    sets: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cases = {
        "no validation set 'lfw'": [*BASE, "lfw", "six"],
        "client file not found": ["--backbone-resume", "nowhere.pth", "--data-root", "sets", "--datasets", "six"],
        "server checkpoint not found": [*BASE, "six", "--server-checkpoint", "nowhere.pth"],
        "--batch-size: 0: expected a whole number of at least 1": [*BASE, "six", "--batch-size", "0"],
        "--resamples: -1: expected a whole number of at least 0": [*BASE, "six", "--resamples", "-1"],
        "--examples: -1: expected a whole number of at least 0": [*BASE, "six", "--examples", "-1"],
    }
    weights = ROOT / "model" / "dlib_face_recognition_resnet_model_v1.dat"
    if weights.is_file():
        other = ["--server", "dlib_resnet", "--server-checkpoint", str(weights)]
        cases["was trained for a server with maps"] = [*BASE, "six", *other]
    for message, arguments in cases.items():
        code, _, error = run(monkeypatch, capsys, home, *arguments)
        assert code == 2, error
        assert message in error
        assert error.startswith("error: ")


def test_damaged_set_gets_a_clear_message(
    tmp_path: Path,
    home: Path,
    system: ProFaceC,
    sets: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(sets, tmp_path / "sets")
    np.save(tmp_path / "sets" / "six_list.npy", np.ones(PAIRS + 1, bool))
    code, _, error = run(monkeypatch, capsys, home, *BASE, "six", "--data-root", tmp_path / "sets")
    assert code == 2
    assert "six_list.npy" in error


def test_set_that_cannot_be_scored_is_named_before_it_is_embedded(system: ProFaceC, sets: Path) -> None:
    data = replace(load_validation_set(sets, "six"), same=np.ones(PAIRS, bool))
    with pytest.raises(ValueError, match="validation set 'six': all 12 pairs are of one person, expected both kinds"):
        val_main.evaluate_set(system, data, val_main.Settings(), CPU)
    few = replace(data, same=np.arange(9) % 2 == 0)
    with pytest.raises(ValueError, match="validation set 'six': 9 pairs, expected at least 10"):
        val_main.evaluate_set(system, few, val_main.Settings(), CPU)


@pytest.mark.parametrize("camera", sorted(CAMERAS))
def test_a_camera_changes_each_image_by_seed_and_content(camera: str, sets: Path) -> None:
    plain, seen = (val_main.load_set(Settings(data_root=sets, camera=name, seed=5), "six") for name in (None, camera))
    assert (seen.rows == plain.rows).all() and (seen.same == plain.same).all()
    for before, after in zip(plain.images, seen.images, strict=True):
        image = np.ascontiguousarray(before.transpose(1, 2, 0))
        expected = CAMERAS[camera](image, content_stream(image, 5, "camera"))
        np.testing.assert_array_equal(after, expected.transpose(2, 0, 1))
    assert (seen.images != plain.images).any(axis=(1, 2, 3)).sum() >= PEOPLE - 1
