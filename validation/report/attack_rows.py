"""Results of attacks as rows, excesses and controls, and what their reader has to know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from validation.measure.attackers import MEAN_FACE, Outcome
from validation.measure.attributes import AttributeProbe
from validation.measure.distillation import Distillation
from validation.measure.excess import METRICS, NECESSARY, Excess, Margins, all_excesses
from validation.measure.linkage import Linkage
from validation.measure.reidentification import FMRS, Gallery, reidentify
from validation.report.tables import Table

STRONG_SSIM = 0.85
STRONG_TAR = 0.9
"""Of what clear images reach: what an attack on an unprotected shallow map must recover, or it is too weak."""
NEAR_PERFECT_SSIM = 0.95
INVERTED = ("inversion", "none")
"""Attacks whose rows have reconstructions behind them."""
FLAT_GAIN = 0.01
"""Of a learning curve, relative: less over its last fifth is flat."""
NOTES = (
    "O: the obfuscated image, as the server gets it. e: the recogniser's embedding of the clear image, which the "
    "server is meant to get. Z: the features as they are sent, and what the server makes of them. Attackers are "
    "decoders; all learn from the same images, and those that see O start from one decoder that was trained on O alone "
    "and take as many further steps.",
    "ssim (Wang et al., 2004) and psnr in dB: how much a reconstruction is like the clear image. cosine: the judge's "
    "similarity of both (type I). tar: the share of other images of the person that the reconstruction matches at a "
    "false match rate of 1 % or 0.1 % (type II). rank1: how often the most similar other image is the person's. Higher "
    "is worse.",
    "operational excess: the attack on O+Z less that on O+e; conditional excess: O+e+Z less O+e. Means of paired "
    "differences over images of people that no attacker learned from; [low, high]: 95 % interval, bootstrap over "
    "people and seeds.",
    "function: something of Z's form that can be computed from O and e: an attack must gain nothing by it. shallow: "
    "the recogniser's first map of the clear image, unprotected: an attack that cannot invert it says nothing.",
)


@dataclass(frozen=True)
class Control:
    """Something whose result is known beforehand, and what came out."""

    name: str
    expected: str
    value: float
    holds: bool


def result_rows(outcomes: Sequence[Outcome], gallery: Gallery | None) -> list[dict[str, Any]]:
    """A row an attack, as results.json holds it, and one for the clear images themselves."""
    rows = [
        {
            "attack": "inversion", "observation": outcome.observation, "seed": outcome.seed,
            **dict.fromkeys(METRICS),
            **{metric: float(values.mean()) for metric, values in outcome.measures.items()},
            "curve_is_flat": is_flat(outcome.curve) if outcome.curve else None,
        }
        for outcome in outcomes
    ]  # fmt: skip
    if gallery is None:
        return rows
    reached = reidentify(gallery.embeddings, gallery)
    own = {"attack": "none", "observation": "the clear image itself", "seed": None, "ssim": None, "psnr": None}
    return [*rows, own | {name: float(values.mean()) for name, values in reached.items()} | {"curve_is_flat": None}]


def is_flat(curve: Sequence[Mapping[str, float]]) -> bool:
    """Whether the loss fell by less than `FLAT_GAIN` of itself over the last fifth of a learning curve."""
    before = curve[-1 - max(1, len(curve) // 5)] if len(curve) > 1 else {"loss": np.inf}
    return bool(before["loss"] - curve[-1]["loss"] < FLAT_GAIN * curve[-1]["loss"])


def by_observation(outcomes: Sequence[Outcome]) -> dict[str, list[dict[str, np.ndarray]]]:
    """Observation -> the measures of each seed."""
    grouped: dict[str, list[dict[str, np.ndarray]]] = {}
    for outcome in outcomes:
        grouped.setdefault(outcome.observation, []).append(outcome.measures)
    return grouped


def find_excesses(outcomes: Sequence[Outcome], people: np.ndarray) -> list[Excess]:
    return all_excesses(by_observation(outcomes), people)


def find_controls(outcomes: Sequence[Outcome], gallery: Gallery | None, margins: Margins) -> list[Control]:
    """Every control for which there are attacks."""
    measures = by_observation(outcomes)

    def mean(observation: str, metric: str) -> float:
        return float(np.mean([of_seed[metric].mean() for of_seed in measures[observation]]))

    controls = []
    if {MEAN_FACE, "O"} <= set(measures):
        value = mean(MEAN_FACE, "ssim") - mean("O", "ssim")
        controls.append(Control("mean face", "ssim below that of the attack on O", value, value < 0))
    if gallery is not None and {"O", NECESSARY} <= set(measures):
        value = mean(NECESSARY, "cosine") - mean("O", "cosine")
        controls.append(Control("embedding", "cosine of O+e above that of O", value, value > 0))
    if {"O+e+function", NECESSARY} <= set(measures):
        value = mean("O+e+function", "ssim") - float(measures[NECESSARY][0]["ssim"].mean())  # of the same seed
        holds = abs(value) <= margins.ssim
        controls.append(Control("function of O and e", f"ssim as O+e to {margins.ssim}", value, holds))
    if "clear" in measures:
        value = mean("clear", "ssim")
        controls.append(
            Control("clear image handed over", f"ssim at least {NEAR_PERFECT_SSIM}", value, value >= NEAR_PERFECT_SSIM)
        )
    if "shallow" in measures:
        value = mean("shallow", "ssim")
        controls.append(Control("shallow map", f"ssim at least {STRONG_SSIM}", value, value >= STRONG_SSIM))
    if gallery is not None and "shallow" in measures:
        name = next(iter(FMRS))
        value = mean("shallow", name) / float(reidentify(gallery.embeddings, gallery)[name].mean())
        expected = f"{name} at least {STRONG_TAR} of that of clear images"
        controls.append(Control("shallow map", expected, value, value >= STRONG_TAR))
    return controls


def verdicts(excesses: Sequence[Excess], controls: Sequence[Control], margins: Margins) -> list[str]:
    """What may be said, a sentence each."""
    failed = [control for control in controls if not control.holds]
    if failed:
        names = "; ".join(f"{control.name}: {control.value:.3f}, expected {control.expected}" for control in failed)
        return [f"The attack is too weak to say that nothing leaks: a control fails ({names})."]
    sentences = []
    for excess in excesses:
        margin = margins.of(excess.metric)
        if margin is not None:
            verdict = "no excess" if excess.is_none(margin) else "an excess cannot be ruled out"
            if excess.low > margin:
                verdict = "an excess"
            sentences.append(
                f"{excess.kind} excess in {excess.metric}: {verdict} beyond {margin} "
                f"({excess.value:+.3f} [{excess.low:+.3f}, {excess.high:+.3f}])."
            )
    return sentences


def steep_curves(outcomes: Sequence[Outcome]) -> list[str]:
    """A sentence about attackers that were still learning at the end, if any were."""
    steep = dict.fromkeys(outcome.observation for outcome in outcomes if outcome.curve and not is_flat(outcome.curve))
    if not steep:
        return []
    return [f"Still learning at the end of the budget: {', '.join(steep)}. More steps recover more."]


def leakage_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """A line an observation: means over the seeds, with half the range between them."""
    grouped: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        grouped.setdefault(row["observation"], []).append(row)
    body = [
        [observation, str(len(of_all)), *(_over_seeds([row[metric] for row in of_all], metric) for metric in METRICS)]
        for observation, of_all in grouped.items()
    ]
    return Table(["observation", "seeds", *METRICS], body, text_columns=1)


def excess_table(excesses: Sequence[Excess]) -> Table:
    body = [
        [excess.kind, excess.metric, f"{excess.value:+.3f}", f"[{excess.low:+.3f}, {excess.high:+.3f}]"]
        for excess in excesses
    ]
    return Table(["excess", "metric", "value", "95 % interval"], body, text_columns=2)


def controls_table(controls: Sequence[Control]) -> Table:
    body = [
        [control.name, control.expected, f"{control.value:.3f}", "yes" if control.holds else "NO"]
        for control in controls
    ]
    return Table(["control", "expected", "value", "holds"], body, text_columns=2)


def linkage_table(linkage: Sequence[Linkage]) -> Table:
    body = [
        [
            found.score,
            str(found.keys),
            str(found.messages),
            f"{found.d_sys:.3f}",
            f"{found.chance:.3f}",
            f"{found.maximal:.3f}",
        ]
        for found in linkage
    ]
    return Table(
        ["score", "keys", "messages averaged", "D_sys", "D_sys by chance", "maximal linkability"], body, text_columns=1
    )


def linkage_rows(linkage: Sequence[Linkage]) -> list[dict[str, Any]]:
    """A row for each way of linking, with nothing where a reconstruction would be measured."""
    nothing = dict.fromkeys(("seed", *METRICS))
    return [{"attack": "linkage", "observation": "Z", **nothing, **asdict(found)} for found in linkage]


def distillation_rows(distillations: Sequence[Distillation]) -> list[dict[str, Any]]:
    nothing = dict.fromkeys(METRICS)
    return [
        {
            "attack": "distillation",
            "observation": "O+Z",
            "seed": found.seed,
            **nothing,
            **found.rates,
            "pairs": found.pairs,
        }
        for found in distillations
    ]


def distillation_table(distillations: Sequence[Distillation]) -> Table:
    """A line for each number of pairs: means over the seeds."""
    body = []
    for pairs in dict.fromkeys(found.pairs for found in distillations):
        rates = [found.rates for found in distillations if found.pairs == pairs]
        line = [_over_seeds([of_seed[name] for of_seed in rates], name) for name in rates[0]]
        body.append([f"{pairs:,}", str(len(rates)), *line])
    return Table(["pairs", "seeds", *(distillations[0].rates if distillations else ())], body, text_columns=0)


def attributes_table(probes: Sequence[AttributeProbe]) -> Table:
    """A line an attribute, a column what the probe saw."""
    names = dict.fromkeys(name for probe in probes for name in probe.accuracies)
    body = [[name, *(f"{probe.accuracies[name]:.3f}" for probe in probes)] for name in names]
    return Table(["balanced accuracy", *(probe.observation for probe in probes)], body, text_columns=1)


def as_json(records: Sequence[Any]) -> list[dict[str, Any]]:
    return [asdict(record) for record in records]


def _over_seeds(values: Sequence[float | None], metric: str) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    digits = 2 if metric == "psnr" else 3
    spread = (max(known) - min(known)) / 2
    return f"{np.mean(known):.{digits}f}" + (f" +/- {spread:.{digits}f}" if len(known) > 1 else "")
