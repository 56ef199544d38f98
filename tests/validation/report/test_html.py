"""report.html: one file that needs nothing else, says what results.json says, and is shown without an error."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from test_rows import INTERVALS, ROWS

from validation.report.chart import inline_svg
from validation.report.examples import Example, ExampleKind
from validation.report.html import Chart, Section, data_uri, flattened, write_html
from validation.report.plots import accuracy_figure
from validation.report.rows import notes_on, per_cent, recovery, write_results

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WIDTHS_PX = (390, 1280)
"""A phone and a desk."""
VOID_TAGS = {"meta", "img", "br", "link", "hr", "input"}
NASTY = '<script>alert("1 & 2")</script>'


@dataclass
class Element:
    """A tag with its attributes, what is in it, and the text in all of that."""

    tag: str
    attributes: dict[str, str | None]
    children: list[Element] = field(default_factory=list)
    text: str = ""

    def all(self, tag: str, **attributes: str) -> list[Element]:
        """Descendants of a kind, in order; `data_row="0"` stands for data-row."""
        wanted = {name.replace("_", "-"): value for name, value in attributes.items()}
        own = [
            child
            for child in self.children
            if child.tag == tag and wanted.items() <= child.attributes.items()  # type: ignore[operator]
        ]
        deeper = [found for child in self.children for found in child.all(tag, **attributes)]
        return own + deeper


class Tree(HTMLParser):
    """Builds `Element`s and makes sure that tags close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.root = Element("", {})
        self.open = [self.root]
        self.feed(text)
        self.close()
        assert self.open == [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, dict(attrs))
        self.open[-1].children.append(element)
        if tag not in VOID_TAGS:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open[-1].children.append(Element(tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        for element in self.open:
            element.text += data


def example(seed: int) -> Example:
    rng = np.random.default_rng(seed)
    colour, grey = (rng.integers(0, 256, shape, np.uint8) for shape in ((112, 112, 3), (112, 112)))
    kinds = [ExampleKind("gaussian", colour, colour, grey, grey), ExampleKind("hybrid", colour, colour, None, None)]
    return Example(colour, kinds)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of three sets with a chart and two faces, and results.json beside it."""
    out = tmp_path_factory.mktemp("page")
    rows = [replace(ROWS[0], reference_accuracy=0.9982, intervals=INTERVALS), *ROWS[1:]]
    config = {
        "backbone_resume": "client.pth",
        "flip": True,
        "recogniser": {"name": NASTY},
        "seed": 5,
        "sets": ("a", "b"),
    }
    notes = [*notes_on(rows), NASTY]
    own = [row for row in rows if row.dataset == "lfw"]
    chart = Chart(inline_svg(accuracy_figure(own), "accuracy", "bars"), "a caption")
    sections = [Section("lfw", [chart], [example(0), example(1)]), Section("cplfw", []), Section("calfw", [])]
    write_html(out, rows, sections, config, notes)
    write_results(out, rows, config, notes)
    return out


@pytest.fixture(scope="module")
def text(folder: Path) -> str:
    return (folder / "report.html").read_text()


@pytest.fixture(scope="module")
def page(text: str) -> Element:
    return Tree(text).root


def test_nothing_is_fetched_and_nothing_runs(text: str, page: Element) -> None:
    without_images = re.sub(r"data:image/png;base64,[^\"]*", "", text)
    assert not re.search(r"https?:|//[a-z]|@import|<script|<link|<iframe|\son\w+=", without_images)
    used = re.findall(r"url\(([^)]*)\)", text)
    assert all(reference.startswith("#") for reference in used)
    for tag in ("img", "use", "a"):
        for element in page.all(tag):
            target = element.attributes.get("src") or element.attributes.get("href")
            target = target or element.attributes.get("xlink:href") or ""
            assert target.startswith(("data:image/png;base64,", "#"))
    (policy,) = page.all("meta", http_equiv="Content-Security-Policy")
    assert str(policy.attributes["content"]).startswith("default-src 'none'; img-src data:;")


def test_images_decode_and_are_described(page: Element) -> None:
    images = page.all("img")
    assert len(images) == 2 * (1 + 4 + 2)  # a face: clear, four of gaussian, two of hybrid, which has no shuffle here
    for image in images:
        data = base64.b64decode(str(image.attributes["src"]).partition(",")[2], validate=True)
        assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) is not None
    spoken = [image.attributes["alt"] for image in images]
    assert all(spoken)
    assert len(set(spoken)) == len(spoken)
    assert [svg.attributes["role"] for svg in page.all("svg")] == ["img"]
    assert all(svg.attributes["aria-label"] for svg in page.all("svg"))


def test_images_keep_their_colours() -> None:
    red_then_blue = np.zeros((2, 2, 3), np.uint8)
    red_then_blue[0, :, 0] = red_then_blue[1, :, 2] = 255
    uri = data_uri(red_then_blue)
    assert uri is not None
    decoded = cv2.imdecode(np.frombuffer(base64.b64decode(uri.partition(",")[2]), np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    np.testing.assert_array_equal(decoded[..., ::-1], red_then_blue)
    assert data_uri(None) is None


def shown(cell: Element) -> list[tuple[float, str]]:
    """(value with all its digits, what stands there) of each number in a cell."""
    return [(float(str(data.attributes["value"])), data.text) for data in cell.all("data")]


def expected_cell(rate: float | None, interval: list[float] | None) -> list[tuple[float, str]]:
    return [] if rate is None else [(value, f"{100 * value:.2f}") for value in (rate, *(interval or []))]


def test_rates_equal_results_json(folder: Path, page: Element) -> None:
    rows = json.loads((folder / "results.json").read_text())["rows"]
    seen = 0
    for number, row in enumerate(rows):
        (line,) = page.all("tr", data_row=str(number))
        cells = {str(cell.attributes["data-key"]): cell for cell in line.all("td")}
        for name in ("accuracy", "auc", "eer"):
            assert shown(cells[name]) == expected_cell(row[name], row[f"{name}_interval"])
        for far in ("1e-1", "1e-2", "1e-3", "1e-4"):
            interval = (row["tar_at_far_interval"] or {}).get(far)
            cell = cells[f"tar_at_far_{far}"]
            assert shown(cell) == expected_cell(row["tar_at_far"].get(far), interval)
            seen += cell.text.strip() == "-"
        assert shown(cells["threshold"]) == [(row["threshold"], f"{row['threshold']:.3f}")]
        payload = row["payload_bytes"]
        assert shown(cells["payload_bytes"]) == ([] if payload is None else [(payload, f"{payload:,.0f}")])
    assert seen == 2 * len(rows)  # FAR 1e-3 has too few pairs, 1e-4 was not asked for


def test_summary_equals_the_rows(page: Element) -> None:
    by_place = {(row.dataset, row.obfuscation, row.condition): row for row in ROWS}
    tables = page.all("table")
    summaries = [table for table in tables if table.attributes.get("class") == "summary"]
    places = [("lfw", ["gaussian", "hybrid"]), ("cplfw", ["gaussian"]), ("calfw", [None])]
    for table, (dataset, kinds) in zip(summaries, places, strict=True):
        for line, kind in zip(table.all("tbody")[0].all("tr"), kinds, strict=True):
            found = {
                name: by_place.get((dataset, None if name == "clear" else kind, name))
                for name in ("clear", "obfuscated", "compensated")
            }
            cells = line.all("td")
            for cell, row in zip(cells, found.values(), strict=False):
                rates = [row.result.accuracy, row.result.accuracy_std] if row else []
                assert shown(cell) == [(rate, f"{100 * rate:.2f}") for rate in rates]
            share = recovery({name: row for name, row in found.items() if row})
            assert shown(cells[-1]) == ([] if share is None else [(share, per_cent(share, 1))])
    assert "published for clear images: 99.82" in summaries[0].text
    assert "published" not in summaries[1].text


def test_page_can_be_read_aloud(text: str, page: Element) -> None:
    assert page.all("html")[0].attributes["lang"] == "en"
    assert page.all("title")[0].text
    for table in page.all("table"):
        header, *body = table.all("tr")
        assert header.all("th")
        assert all(cell.attributes.get("scope") == "col" for cell in header.all("th"))
        for line in body:
            rows = [cell for cell in line.all("th") if str(cell.attributes.get("scope")).startswith("row")]
            assert rows or line.all("img")
    levels = [int(element.tag[1]) for tag in ("h1", "h2", "h3") for element in page.all(tag)]
    assert levels.count(1) == 1
    ids = re.findall(r'\sid="([^"]*)"', text)
    assert len(ids) == len(set(ids))
    targets = {str(link.attributes["href"])[1:] for link in page.all("a")}
    assert targets <= {str(heading.attributes.get("id")) for heading in page.all("h2")}


def test_text_from_outside_is_escaped(text: str, page: Element) -> None:
    assert NASTY not in text
    assert page.all("header")[0].text.count(NASTY) == 1  # the recogniser's name
    assert page.all("li")[-1].text == NASTY  # the last note
    assert not page.all("script")


def test_configuration_is_shown_key_by_key(page: Element) -> None:
    (table,) = [table for table in page.all("table") if table.attributes.get("class") == "config"]
    shown_keys = {line.all("th")[0].text: line.all("td")[0].text for line in table.all("tbody")[0].all("tr")}
    assert shown_keys == {
        "backbone_resume": "client.pth",
        "flip": "True",
        "recogniser.name": NASTY,
        "seed": "5",
        "sets": "a b",
    }
    assert list(flattened({"a": {"b": {"c": None}}})) == [("a.b.c", "None")]


MEASURE = """
<!DOCTYPE html><body>{frames}<pre id="out">nothing</pre><script>
window.onload = () => {{
  document.getElementById("out").textContent = JSON.stringify([...document.querySelectorAll("iframe")].map(frame => {{
    const inner = frame.contentDocument, root = inner.documentElement;
    return {{
      widths: [...inner.images].map(image => image.naturalWidth),
      charts: [...inner.querySelectorAll("svg")].map(svg => svg.getBoundingClientRect().width),
      texts: Math.min(...[...inner.querySelectorAll("svg text")].map(text => text.getBoundingClientRect().height)),
      scroll: root.scrollWidth, client: root.clientWidth,
      requests: frame.contentWindow.performance.getEntriesByType("resource").map(entry => entry.name),
    }};
  }}));
}};
</script></body>
"""


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_browser_shows_the_page_on_a_phone_and_on_a_desk(text: str, tmp_path: Path) -> None:
    assert CHROMIUM is not None
    escaped = text.replace("&", "&amp;").replace('"', "&quot;")
    frame = '<iframe style="width:{width}px;height:800px;border:0" srcdoc="{page}"></iframe>'
    frames = "".join(frame.format(width=width, page=escaped) for width in WIDTHS_PX)
    (tmp_path / "measure.html").write_text(MEASURE.format(frames=frames))
    quiet = ["--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update"]
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-sync", *quiet,
        "--hide-scrollbars", "--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}",
        "--host-resolver-rules=MAP * ~NOTFOUND", "--dump-dom", (tmp_path / "measure.html").as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert ":CONSOLE" not in done.stderr, done.stderr  # errors, warnings and refusals of the policy
    (measured,) = [element.text for element in Tree(done.stdout).root.all("pre")]
    shown: list[dict[str, Any]] = json.loads(measured)
    assert [found["client"] for found in shown] == list(WIDTHS_PX)
    for width, found in zip(WIDTHS_PX, shown, strict=True):
        assert len(found["widths"]) == 14
        assert min(found["widths"]) == 112
        assert min(found["charts"]) > 250
        assert found["texts"] > 8  # px, the smallest line of text in a chart
        assert found["requests"] == []
        assert found["scroll"] == width  # nothing reaches over the edge
