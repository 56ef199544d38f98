"""Training against decoders: what the term is, whom it teaches, and what of it a checkpoint keeps."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml
from conftest import TinySet, draw_face
from parallel_training import Tiny, with_tiny
from pytorch_msssim import ssim
from torch import Tensor

from torchkit.attack.adversary import AdversarySettings, feature_inputs, observed_batch
from torchkit.client import Client, ClientSettings
from torchkit.config import load_config
from torchkit.server import load_recogniser
from torchkit.system import ProFaceC
from torchkit.task import TrainTask
from torchkit.task.adversary import Adversary
from torchkit.task.checkpoints import CheckpointFolder
from torchkit.util.pixels import to_batch

ON = ["ADVERSARY.WEIGHT=2", "ADVERSARY.WIDTH=4"]


@pytest.fixture(autouse=True)
def tiny_is_known() -> Iterator[None]:
    with with_tiny():
        yield


@pytest.fixture
def experiment(tmp_path: Path, tiny_set: TinySet) -> Path:
    """A YAML file: 2 epochs of 3 steps on the tiny set, with the smallest networks."""
    torch.save(Tiny().state_dict(), tmp_path / "server.pth")
    values = {
        "DATA_ROOT": "images", "INDEX_ROOT": "index", "DATASETS": [{"name": tiny_set.name, "batch_size": 4}],
        "MODEL_ROOT": "out", "LOG_ROOT": "out", "LOGS": "out", "NUM_EPOCH": 2, "NUM_WORKERS": 0, "LRS": [0.01],
        "OPTIMIZER": "adamw", "SCHEDULE": "cosine", "BACKBONE_NAME": "tiny", "EMBEDDING_SIZE": 16,
        "SERVER": {"NAME": "tiny", "CHECKPOINT": "server.pth"}, "CLIENT": {"LAYOUT": "native"},
        "SHUFFLE": {"BLOCK_PX": 14, "SEED": 7}, "QUANTIZE": {"BITS": [8, 4, 2, 32]},
        "DISTILLATION": {"FORM": "cosine", "WEIGHT": 10},
    }  # fmt: skip
    path = tmp_path / "experiment.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def make_task(experiment: Path, *overrides: str, resume: bool = False) -> TrainTask:
    return TrainTask(load_config(experiment, list(overrides)), resume=resume)


def decoder_state(task: TrainTask) -> dict[str, Tensor]:
    assert task.adversary is not None
    return {
        f"{name}.{key}": tensor.clone()
        for name, attacker in task.adversary.attackers.items()
        for key, tensor in attacker.decoder.state_dict().items()
        if "standardise" not in key  # statistics, not weights
    }


@pytest.fixture
def system(tmp_path: Path) -> ProFaceC:
    """A client that shuffles its first tap in four blocks, before the smallest recogniser."""
    torch.save(Tiny().state_dict(), tmp_path / "server.pth")
    recogniser = load_recogniser("tiny", tmp_path / "server.pth")
    shapes = tuple(recogniser.backbone.tap_shapes())
    return ProFaceC(Client(ClientSettings(shapes, backbone="tiny", shuffle_block_px=14), key_seed=1), recogniser)


def faces(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Clear and obfuscated images (B, 3, 112, 112) uint8, embeddings (B, 16) of unit length."""
    clear = to_batch([draw_face(seed) for seed in range(count)])
    small = F.interpolate(clear.float(), scale_factor=1 / 16, mode="area")
    obfuscated = F.interpolate(small, scale_factor=16, mode="nearest").round().byte()
    return clear, obfuscated, F.normalize(torch.randn(count, 16, generator=torch.Generator().manual_seed(3)))


def random_features(system: ProFaceC, count: int) -> list[Tensor]:
    return [torch.randn(count, *shape) for shape in system.client.feature_shapes]


def test_inputs_are_the_features_that_leave(system: ProFaceC) -> None:
    inputs = feature_inputs(system.client)
    assert [tuple(spec.shape) for spec in inputs.values()] == list(system.client.feature_shapes)
    assert [spec.blocks_per_side for spec in inputs.values()] == [2, 1, 1, 1]


def test_decoders_start_from_the_obfuscated_image(system: ProFaceC) -> None:
    """Whose loss is  L1 + (1 - SSIM) / 2."""
    adversary = Adversary(system, AdversarySettings(width=4), None, compiled=False)
    clear, obfuscated, embedding = faces(4)
    losses = adversary.losses(observed_batch(clear, obfuscated, embedding, random_features(system, 4)))
    a, b = clear.float() / 255, obfuscated.float() / 255
    expected = (a - b).abs().mean() + 0.5 * (1 - ssim(a, b, data_range=1.0))
    for name in ("decoder_O_e", "decoder_O_e_Z"):
        assert losses[name].item() == pytest.approx(expected.item(), rel=1e-5)
    assert losses["excess"].item() == pytest.approx(0, abs=1e-6)


def test_excess_is_the_difference_of_the_losses_and_never_negative(
    system: ProFaceC, monkeypatch: pytest.MonkeyPatch
) -> None:
    adversary = Adversary(system, AdversarySettings(width=4), None, compiled=False)
    batch = observed_batch(*faces(2), random_features(system, 2))
    for baseline, informed, excess in ((0.5, 0.3, 0.2), (0.3, 0.5, 0.0)):
        for name, value in (("baseline", baseline), ("informed", informed)):
            loss = torch.tensor(value)
            monkeypatch.setattr(adversary.attackers[name], "reconstruction_loss", lambda _, loss=loss: loss)
        losses = adversary.losses(batch)
        assert losses["excess"].item() == pytest.approx(excess)
        assert (losses["decoder_O_e"].item(), losses["decoder_O_e_Z"].item()) == pytest.approx((baseline, informed))


@pytest.mark.parametrize("value", [0.0, 0.3])
def test_constant_features_have_no_excess(system: ProFaceC, value: float) -> None:
    adversary = Adversary(system, AdversarySettings(width=4, steps=2), None, compiled=False)
    features = [torch.full((4, *shape), value) for shape in system.client.feature_shapes]
    batch = observed_batch(*faces(4), features)
    start = adversary.losses(batch)["decoder_O_e"].item()
    for _ in range(8):
        adversary.learn()
        losses = adversary.losses(batch)
    assert losses["decoder_O_e"].item() < 0.99 * start
    assert losses["excess"].item() < 1e-4


def features_showing(system: ProFaceC, maps: Tensor) -> list[Tensor]:
    """Of the first tap the first three channels are `maps` (B, 3, 28, 28), all else is zero."""
    first, *others = (maps.new_zeros(len(maps), *shape) for shape in system.client.feature_shapes)
    return [torch.cat([maps, first[:, 3:]], dim=1), *others]


def small_faces(clear: Tensor) -> Tensor:
    """(B, 3, 28, 28), of mean 0 and deviation 1."""
    small = F.interpolate(clear.float(), size=(28, 28), mode="area")
    return (small - small.mean()) / small.std()


def test_features_that_show_the_face_have_an_excess_whatever_their_scale(system: ProFaceC) -> None:
    clear, obfuscated, embedding = faces(4)
    excesses = []
    for scale in (1.0, 0.01):
        torch.manual_seed(0)
        adversary = Adversary(system, AdversarySettings(width=4, lr=0.01), None, compiled=False)
        features = features_showing(system, small_faces(clear) * scale)
        for _ in range(24):
            losses = adversary.losses(observed_batch(clear, obfuscated, embedding, features))
            adversary.learn()
        excesses.append(losses["excess"].item())
    assert excesses[0] > 0.005
    assert excesses[1] == pytest.approx(excesses[0], rel=0.2)


@pytest.mark.parametrize("pays", [False, True])
def test_a_client_that_pays_shows_less(system: ProFaceC, pays: bool) -> None:
    """It sends a mixture of the face and noise, and learns the face's share from the excess alone."""
    clear, obfuscated, embedding = faces(4)
    share = torch.ones((), requires_grad=True)
    client = torch.optim.Adam([share], lr=0.1 if pays else 0.0)
    adversary = Adversary(system, AdversarySettings(width=4, lr=0.01), None, compiled=False)
    excesses = []
    for _ in range(24):
        mixture = share * small_faces(clear) + (1 - share) * torch.randn(4, 3, 28, 28)
        losses = adversary.losses(observed_batch(clear, obfuscated, embedding, features_showing(system, mixture)))
        client.zero_grad()
        losses["excess"].backward()
        client.step()
        adversary.learn()
        excesses.append(losses["excess"].item())
    assert (share.item() < 0.6) == pays
    assert (excesses[-1] < 0.01) == pays


def test_gradients_reach_the_client_or_the_decoders_but_not_both(experiment: Path) -> None:
    task = make_task(experiment, *ON, "CLIENT.INTERFACE=random")
    assert task.adversary is not None
    batches = next(iter(task.step_batches(0, 0)))
    for _ in range(3):  # decoders look at features only once they have learned to
        task.train_one_step(batches)
    client, informed = task.system.client, task.adversary.attackers["informed"]
    task.optimizer.zero_grad()
    informed.optimizer.zero_grad()
    losses = task.losses(batches[0])
    assert losses["excess"].requires_grad and not losses["decoder_O_e_Z"].requires_grad
    informed_loss = informed.reconstruction_loss(observed_batch(*_observed(task, batches[0])))
    informed_loss.backward()
    assert all(parameter.grad is None for parameter in informed.decoder.parameters())
    assert all((interface.weight.grad != 0).any() for interface in client.interfaces)
    gradients = {
        name: parameter.grad.clone() for name, parameter in client.named_parameters() if parameter.grad is not None
    }
    before = decoder_state(task)
    task.adversary.learn()
    assert all(
        torch.equal(dict(client.named_parameters())[name].grad, gradient) for name, gradient in gradients.items()
    )
    after = decoder_state(task)
    assert all(
        any(not torch.equal(after[key], before[key]) for key in after if key.startswith(name))
        for name in ("baseline", "informed")
    )


def _observed(task: TrainTask, batch: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    clear, obfuscated, _ = batch
    return clear, obfuscated, task.system.recogniser(clear), task.system.features(clear, obfuscated)


def test_the_client_is_judged_before_the_decoders_learn(experiment: Path) -> None:
    task = make_task(experiment, *ON)
    metrics = task.train_one_step(next(iter(task.step_batches(0, 0))))
    assert metrics["excess"] == pytest.approx(0, abs=1e-6)
    assert metrics["decoder_O_e"] == pytest.approx(metrics["decoder_O_e_Z"], abs=1e-6)


def test_the_excess_counts_with_its_weight(experiment: Path) -> None:
    task = make_task(experiment, *ON)
    batches = next(iter(task.step_batches(0, 0)))
    for _ in range(3):
        metrics = task.train_one_step(batches)
    assert metrics["excess"] > 0
    others = metrics["margin_softmax"] + 10 * metrics["distillation"]
    assert metrics["loss"] == pytest.approx(others + 2 * metrics["excess"], rel=1e-5)


def test_the_phase_of_maps_alone_pays_too(experiment: Path) -> None:
    task = make_task(experiment, *ON, "DISTILLATION.MAP_WEIGHT=1", "DISTILLATION.MAP_EPOCHS=1")
    batches = next(iter(task.step_batches(0, 0)))
    for _ in range(3):
        metrics = task.train_one_step(batches)
    assert set(metrics) == {"loss", "map_error", "decoder_O_e", "decoder_O_e_Z", "excess"}
    assert metrics["loss"] == pytest.approx(metrics["map_error"] + 2 * metrics["excess"], rel=1e-5)


def test_several_steps_of_the_decoders_for_one_of_the_client(experiment: Path) -> None:
    task = make_task(experiment, *ON, "ADVERSARY.STEPS=3", "ACCUMULATE=2", "DATASETS.0.batch_size=2")
    task.train_one_step(next(iter(task.step_batches(0, 0))))
    assert task.adversary is not None and not task.adversary.observed
    for attacker in task.adversary.attackers.values():
        assert {int(entry["step"]) for entry in attacker.optimizer.state_dict()["state"].values()} == {3}


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_mixed_precision(experiment: Path, amp: str) -> None:
    task = make_task(experiment, *ON, "NUM_EPOCH=1", f"AMP={amp}")
    before = decoder_state(task)
    task.run()
    after = decoder_state(task)
    assert all(tensor.isfinite().all() for tensor in after.values())
    assert any(not torch.equal(after[key], before[key]) for key in after)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_weight_0_builds_and_keeps_nothing(experiment: Path) -> None:
    out = experiment.parent
    for folder, overrides in {"plain": [], "off": ["ADVERSARY.WIDTH=64", "ADVERSARY.STEPS=5"]}.items():
        task = make_task(experiment, f"MODEL_ROOT={out / folder}", *overrides)
        task.run()
        assert task.adversary is None
        state = torch.load(CheckpointFolder(out / folder / "checkpoints").files()[0], weights_only=True)
        assert "adversary" not in state
    assert digest(out / "plain" / "client.pth") == digest(out / "off" / "client.pth")


def test_a_client_starts_as_it_does_without_decoders(experiment: Path) -> None:
    off, on = make_task(experiment), make_task(experiment, *ON, f"MODEL_ROOT={experiment.parent / 'on'}")
    own = {**on.system.state_dict(), **on.heads.state_dict()}
    assert all(torch.equal(tensor, own[name]) for name, tensor in off.system.state_dict().items())
    assert all(torch.equal(tensor, own[name]) for name, tensor in off.heads.state_dict().items())


def test_a_resumed_run_ends_with_the_same_bytes(experiment: Path) -> None:
    out = experiment.parent
    make_task(experiment, *ON, f"MODEL_ROOT={out / 'whole'}").run()
    halves = [*ON, f"MODEL_ROOT={out / 'halves'}"]
    first = make_task(experiment, *halves)
    for batches in list(first.step_batches(0, 0))[:2]:
        first.train_one_step(batches)
        first.step += 1
    first.save_checkpoint()
    second = make_task(experiment, *halves, resume=True)
    assert second.step == 2
    second.run()
    assert digest(out / "halves" / "client.pth") == digest(out / "whole" / "client.pth")
    states = [
        torch.load(CheckpointFolder(out / folder / "checkpoints").files()[0], weights_only=True)["adversary"]
        for folder in ("whole", "halves")
    ]
    for name in ("baseline", "informed"):
        whole, halves_state = (state[name]["decoder"] for state in states)
        assert all(torch.equal(whole[key], halves_state[key]) for key in whole)


def test_the_term_is_the_client_tasks(experiment: Path) -> None:
    with pytest.raises(ValueError, match=r"ADVERSARY\.WEIGHT = -1: .*greater than or equal to 0"):
        load_config(experiment, ["ADVERSARY.WEIGHT=-1"])
    with pytest.raises(ValueError, match=r"ADVERSARY\.STEPS = 0: .*greater than 0"):
        load_config(experiment, ["ADVERSARY.STEPS=0"])
    with pytest.raises(ValueError, match=r"ADVERSARY\.LR = 0: .*greater than 0"):
        load_config(experiment, ["ADVERSARY.LR=0"])
    with pytest.raises(ValueError, match=r"ADVERSARY is not read by TASK: server"):
        load_config(experiment, ["TASK=server", *ON])


@pytest.mark.slow  # compiling takes a minute or two
def test_compiled_decoders_give_the_same(experiment: Path) -> None:
    metrics = []
    for compiled in ("false", "true"):
        task = make_task(experiment, *ON, f"COMPILE={compiled}", f"MODEL_ROOT={experiment.parent / compiled}")
        batches = next(iter(task.step_batches(0, 0)))
        metrics.append([task.train_one_step(batches) for _ in range(2)][-1])
    assert metrics[1] == pytest.approx(metrics[0], rel=1e-3, abs=1e-4)
