"""All attacks of one run on one client; they share what was observed of its faces."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property

import numpy as np
import torch

from torchkit.attack.adversary import FEATURES
from torchkit.attack.decoder import IMAGE
from torchkit.attack.inputs import WRONG_KEY_SUFFIX, AttackInputs, parse_observation
from torchkit.attack.recording import (
    SPLITS,
    RecordedFaces,
    Recorder,
    Recording,
    array_path,
    check_recording,
    choose_images,
    save_array,
)
from torchkit.client.encoder import fingerprint
from torchkit.data.index import Index, read_index
from torchkit.data.index.base import ImageIndex
from torchkit.server import Recogniser, load_recogniser
from torchkit.system import ProFaceC, load_system
from torchkit.util.device import pick_device
from torchkit.util.files import atomic_write_text
from torchkit.util.provenance import provenance
from validation.attack_settings import NO_JUDGE, AttackSuiteSettings
from validation.measure.attackers import Attackers, Outcome, Victim
from validation.measure.attributes import AttributeProbe, attribute_labels, probe, read_attributes
from validation.measure.distillation import Distillation, distil
from validation.measure.inversion import BUDGETS
from validation.measure.linkage import Linkage, measure_linkage
from validation.measure.reidentification import Gallery, judged, make_gallery
from validation.report.attack_outputs import AttackResults

FEWEST_PEOPLE = 8
"""In either set."""
COMPARED = ("O", "O+e", "O+Z", "O+e+Z")
"""Observations that every report inverts, with each seed; those with features only of clients that send some."""
FIRST_SEED_ONLY = ("e", "O+e+function", "shallow", "clear")
"""The embedding alone, and controls: with the first seed."""
JUDGED = "judged"
"""Array of the judge's embeddings of the clear images."""
AVERAGED_MESSAGES = (1, 5, 25)
"""How many messages of a person are averaged before they are linked."""
DISTILLATION_PAIRS = (100, 1000, None)
"""None: all."""


class AttackSuite:
    """All attacks of one run.

    Args:
        settings: of the run.

    Raises:
        FileNotFoundError, ValueError: a file is missing or does not fit; there are too few people; the judge is the
            server; an observation that the client does not send; labels that an attack needs are missing.
    """

    def __init__(self, settings: AttackSuiteSettings) -> None:
        self.settings = settings
        self.budget = BUDGETS[settings.budget]
        self.device = pick_device(settings.device)
        self.system = load_system(settings.client, settings.server, settings.server_checkpoint).to(self.device)
        self.inputs = AttackInputs(self.system)
        self.observations = self._observations()
        self.indices = {
            split: read_index(settings.faces, settings.faces, name)
            for split, name in zip(SPLITS, (settings.train_set, settings.held_out_set), strict=True)
        }
        check_people(self.indices, settings)
        check_attacks(settings, self.inputs)
        self.judge = load_judge(settings, self.system)
        if self.judge is not None:
            self.judge.to(self.device)

    def _observations(self) -> list[str]:
        """What is inverted; raises ValueError for what the client does not send."""
        reported = [
            text
            for text in (*COMPARED, *FIRST_SEED_ONLY)
            if self.inputs.sent or not set(parse_observation(text)) & {"Z", "function"}
        ]
        wanted = list(dict.fromkeys([*reported, *self.settings.observations]))
        for text in wanted:
            self.inputs.inputs(parse_observation(text))
        return wanted

    def run(self) -> AttackResults:
        """Every attack that the settings ask for; those that are finished are read."""
        attacks = self.settings.attacks
        self._check_recording()
        self._record("held_out", [*self._names(), *self._names_under_wrong_key()])
        if "inversion" in attacks:
            self._record("train", self._names())
        return AttackResults(
            outcomes=self._invert() if "inversion" in attacks else [],
            linkage=self._link() if "linkage" in attacks else [],
            distillations=self._distil() if "distillation" in attacks else [],
            attributes=self._probe() if "attributes" in attacks else [],
            gallery=self.gallery,
            held_out=self._faces("held_out"),
            margins=self.settings.margins,
            examples=self.settings.examples,
            config=self._described(),
        )

    # What is observed

    def _positions(self, split: str) -> np.ndarray:
        most = self.budget.images if split == "train" else self.budget.held_out_images
        return choose_images(self.indices[split].labels, most)

    def _check_recording(self) -> None:
        settings = self.settings
        recording = Recording(
            client=fingerprint(self.system.client).hex(),
            obfuscation=settings.obfuscation,
            obfuscation_seed=settings.obfuscation_seed,
            images={split: len(self._positions(split)) for split in SPLITS},
            source={split: str(index.file) for split, index in self.indices.items()},
            budget=settings.budget,
            judge=settings.judge,
        )
        check_recording(settings.out / "observations", recording)

    def _record(self, split: str, names: Sequence[str]) -> RecordedFaces:
        settings = self.settings
        recorder = Recorder(
            settings.out / "observations" / split, self.inputs, self.indices[split], self._positions(split),
            settings.obfuscation, settings.obfuscation_seed, self.device,
        )  # fmt: skip
        recorder.record(names)
        return self._faces(split)

    def _faces(self, split: str) -> RecordedFaces:
        return RecordedFaces(self.settings.out / "observations" / split)

    def _names(self) -> list[str]:
        """The arrays of all observations that are inverted."""
        names = ["clear", IMAGE]
        for text in self.observations:
            names += self.inputs.inputs(parse_observation(text))
        return list(dict.fromkeys(names))

    def _names_under_wrong_key(self) -> list[str]:
        if not self.inputs.has_key:
            return []
        return [name + WRONG_KEY_SUFFIX for name in self.inputs.inputs((IMAGE, FEATURES)) if name != IMAGE]

    def _judged(self, split: str) -> np.ndarray:
        """(n, D) the judge's embeddings of the clear images of a split, computed once."""
        assert self.judge is not None
        faces = self._faces(split)
        if not faces.has(JUDGED):
            clear = torch.from_numpy(np.array(faces.array("clear")))
            embeddings = judged(self.judge, clear, self.settings.batch_size)
            save_array(array_path(faces.folder, JUDGED), embeddings)
        return np.array(faces.array(JUDGED))

    @cached_property
    def gallery(self) -> Gallery | None:
        if self.judge is None:
            return None
        return make_gallery(self._judged("held_out"), np.array(self._faces("held_out").people))

    # The attacks

    def _invert(self) -> list[Outcome]:
        settings = self.settings
        victim = Victim(
            settings.client, settings.faces, settings.train_set, settings.held_out_set, settings.server,
            settings.server_checkpoint, settings.obfuscation, settings.obfuscation_seed,
        )  # fmt: skip
        amp = False if settings.amp == "none" else settings.amp
        attackers = Attackers(settings.out, victim, self.budget, self.judge, self.gallery, settings.device, amp)
        plan = [
            (seed, text)
            for seed in settings.seeds
            for text in self.observations
            if seed == settings.seeds[0] or text not in FIRST_SEED_ONLY
        ]
        outcomes = []
        for number, (seed, text) in enumerate(plan, start=1):
            print(f"attack {number} of {len(plan)}: inversion of {text}, seed {seed}", flush=True)
            outcomes += attackers.attack(text, seed)
        return [attackers.mean_face(), *outcomes]

    def _link(self) -> list[Linkage]:
        held_out = self._faces("held_out")
        shapes = self.inputs.inputs(("Z",))
        other = [held_out.array(name + WRONG_KEY_SUFFIX) for name in shapes] if self.inputs.has_key else None
        blocks = [shape.blocks_per_side for shape in shapes.values()]
        maps = [held_out.array(name) for name in shapes]
        people = np.array(held_out.people)
        fewest = int(np.unique(people, return_counts=True)[1].min())
        counts = [count for count in AVERAGED_MESSAGES if 2 * count <= fewest]
        return measure_linkage(maps, other, blocks, people, counts)

    def _distil(self) -> list[Distillation]:
        assert self.gallery is not None  # `check_attacks`
        last = f"server{self.inputs.sent[-1]}"
        train = self._record("train", ["clear", last])
        maps, targets = train.array(last), self._judged("train")
        found = []
        for seed in self.settings.seeds:
            for pairs in dict.fromkeys(min(most or len(train), len(train)) for most in DISTILLATION_PAIRS):
                path = self.settings.out / "attacks" / "distillation" / f"pairs_{pairs}" / f"seed_{seed}.json"
                if not path.is_file():
                    print(f"distillation from {pairs} pairs, seed {seed}", flush=True)
                    chosen = choose_images(np.array(train.people), pairs)
                    student = distil(
                        self.system.recogniser.backbone, self.inputs.sent[-1], maps[chosen], targets[chosen],
                        self._faces("held_out"), self.gallery, self.budget.start_steps, seed, self.device,
                    )  # fmt: skip
                    atomic_write_text(path, json.dumps(asdict(student)) + "\n")
                found.append(Distillation(**json.loads(path.read_text(encoding="utf-8"))))
        return found

    def _probe(self) -> list[AttributeProbe]:
        assert self.settings.attributes is not None  # `check_attacks`
        names, labels = read_attributes(self.settings.attributes)
        train, held_out = (
            attribute_labels(labels, image_names(self.indices[split], self._positions(split)), self.settings.attributes)
            for split in SPLITS
        )
        observed = ["e", *self.inputs.inputs(("Z",))] if self.inputs.sent else ["e"]
        self._record("train", ["clear", *observed])
        return [
            probe(
                name, names, (self._faces("train").array(name), train), (self._faces("held_out").array(name), held_out)
            )
            for name in observed
        ]

    def _described(self) -> dict[str, object]:
        """What was run, on what, as results.json tells it."""
        return {
            **self.settings.model_dump(mode="json"),
            "budget_of_each_attacker": asdict(self.budget),
            "people": {split: index.num_classes for split, index in self.indices.items()},
            "images": {split: len(self._positions(split)) for split in SPLITS},
            "client_settings": self.system.client.settings.as_dict(),
            "recogniser": self.system.recogniser.name,
            "provenance": provenance(),
        }


def load_judge(settings: AttackSuiteSettings, system: ProFaceC) -> Recogniser | None:
    """The recogniser that judges reconstructions, if any does.

    Raises:
        FileNotFoundError, ValueError: its weights are missing or do not fit, or it is the client's own server.
    """
    if settings.judge == NO_JUDGE:
        return None
    if settings.judge in {system.recogniser.name, system.client.settings.backbone}:
        raise ValueError(
            f"--judge {settings.judge}: the client or its server is that network, and a judge must be unknown to those "
            "that it judges; give another with --judge and --judge-checkpoint, e.g. dlib_resnet or mobilefacenet"
        )
    try:
        return load_recogniser(settings.judge, settings.judge_checkpoint)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"no weights for the judge {settings.judge}: {settings.judge_checkpoint} not found; give them with "
            "--judge-checkpoint (python -m torchkit.data.prepare demo fetches dlib's)"
        ) from None


def check_people(indices: dict[str, Index], settings: AttackSuiteSettings) -> None:
    """Make sure that there are people to learn from and others to measure on.

    Raises:
        ValueError: one set for both, or too few people.
    """
    if settings.train_set == settings.held_out_set:
        raise ValueError(
            f"--train-set and --held-out-set are both {settings.train_set}: attackers must not have seen the people "
            "that they are measured on; name two sets"
        )
    for split, index in indices.items():
        if index.num_classes < FEWEST_PEOPLE:
            option = split.replace("_", "-")
            raise ValueError(
                f"--{option}-set {index.file}: {index.num_classes} people are too few to say anything; give at least "
                f"{FEWEST_PEOPLE}"
            )


def check_attacks(settings: AttackSuiteSettings, inputs: AttackInputs) -> None:
    """Make sure that every attack has what it needs.

    Raises:
        ValueError: an attack on features of a client that sends none, without a judge that it needs, or without labels.
    """
    for attack in ("linkage", "distillation"):
        if attack in settings.attacks and not inputs.sent:
            raise ValueError(f"--attacks {attack}: this client sends no features; leave it out")
    if "distillation" in settings.attacks and settings.judge == NO_JUDGE:
        raise ValueError("--attacks distillation: without a --judge there is no other embedding to map messages to")
    if "attributes" in settings.attacks and settings.attributes is None:
        raise ValueError(
            "--attacks attributes: there are no labels; give them with --attributes, e.g. CelebA's list_attr_celeba.txt"
        )


def image_names(index: Index, positions: np.ndarray) -> list[str]:
    """The images' paths as their index has them.

    Raises:
        ValueError: they are records without names.
    """
    if not isinstance(index, ImageIndex):
        raise ValueError(f"{index.file}: its images have no names, by which labels of attributes could be found")
    return [index.paths[int(position)] for position in positions]
