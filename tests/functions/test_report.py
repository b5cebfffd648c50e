"""The page: self-contained, escaped, and showing what it should."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from functions.model.transform import SectionTransform, Sheet, Warp, sheet_shape
from functions.publication import exhibits, pictures, plots, report
from functions.store.run import Run

VOID = {"meta", "img", "br", "input", "link", "hr"}


class Page(HTMLParser):
    """Counts tags, keeps attributes and checks that elements close in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page(finished: Run) -> tuple[str, Page]:
    """The report and its tags."""
    text = (finished.cell("finish").file("bundle") / "report.html").read_text()
    parser = Page()
    parser.feed(text)
    assert parser.open == []
    return text, parser


def test_the_page_needs_nothing_from_outside(page: tuple[str, Page]) -> None:
    text, parser = page
    for tag, attributes in parser.tags:
        assert tag not in ("link", "iframe", "object", "embed")
        for name in ("src", "href", "srcset", "data", "action"):
            value = attributes.get(name)
            assert value is None or value.startswith("data:image/")
    assert "url(" not in text
    assert "@import" not in text
    assert "default-src 'none'" in text


def test_everything_from_outside_is_escaped(page: tuple[str, Page]) -> None:
    text, parser = page
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "&#34;&gt;&lt;img src=x onerror=alert(1)&gt;" in text
    assert sum(tag == "script" for tag, _ in parser.tags) == 1
    assert not any(name.startswith("on") for _, attributes in parser.tags for name in attributes)


def test_pictures_are_there(page: tuple[str, Page]) -> None:
    text, parser = page
    sources = [a["src"] for tag, a in parser.tags if tag == "img"]
    for source in sources:
        assert source is not None
        with Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) as picture:
            picture.verify()
    # 3 slices with labels, 7 sections, 2 stitched, 10 seams of 4, 3 flips of 2, 7 fields, 1 with arrows
    assert len(sources) == 3 * 2 + 7 + 2 + 10 * 4 + 3 * 2 + 7 + 1
    assert text.count('class="seam"') == 8
    # 2 sections by matches and by images, 7 small maps, 6 pairs, 6 plots, arrows
    assert text.count("<svg") == 2 * 2 + 7 + 6 + 6 + 1
    assert len(text) < 2_000_000


def test_figures_and_findings_are_there(page: tuple[str, Page]) -> None:
    text, _ = page
    for words in (
        "540 k",
        "28 tiles, 1 missing",
        "0.95 px",
        "82.1% of voxels labelled",
        "no section",
        "rejected",
    ):
        assert words in text
    worst = text[text.index("The worst seams") :]
    assert worst.index('rejected">') < worst.index('ok">')
    assert "network.safetensors" in text
    assert "prefers-color-scheme: dark" in text


def test_colours_of_segments_are_stable_and_differ() -> None:
    ids = np.arange(1, 2001, dtype=np.uint32)
    colours = pictures.segment_colours(ids)
    np.testing.assert_array_equal(colours[[6]], pictures.segment_colours(np.array([7], dtype=np.uint64)))
    assert len(np.unique(colours, axis=0)) > 1900
    assert colours.max(axis=1).min() >= 180  # visible over dark tissue


def test_overlay_is_clear_where_there_is_no_label() -> None:
    labels = np.zeros((6, 8), dtype=np.uint32)
    labels[1:5, 2:7] = 9
    over = pictures.overlay(labels)
    assert (over[..., 3] == 0).sum() == (labels == 0).sum()
    assert over[1, 2, 3] == pictures.BORDER_ALPHA
    assert over[2, 4, 3] == pictures.INSIDE_ALPHA


def test_composite_is_gray_where_both_agree_and_tinted_where_not() -> None:
    a = np.full((1, 3), 100, dtype=np.uint8)
    b = np.array([[100, 200, 0]], dtype=np.uint8)
    mixed = pictures.composite(a, b).astype(int)
    assert np.ptp(mixed[0, 0]) <= 1
    assert mixed[0, 1, 2] > mixed[0, 1, 0]
    assert np.ptp(mixed[0, 2]) == 0


def test_stretch_keeps_what_is_outside_black() -> None:
    image = np.array([[0, 100, 110, 120]], dtype=np.uint8)
    assert pictures.stretch(image).tolist()[0][0] == 0
    assert pictures.stretch(image).min(where=image > 0, initial=255) >= 1
    np.testing.assert_array_equal(pictures.stretch(np.zeros((2, 2), np.uint8)), 0)


@given(value=st.floats(0, 50), worst=st.floats(0.5, 20))
def test_residual_colours_are_colours(value: float, worst: float) -> None:
    assert re.fullmatch(r"#[0-9a-f]{6}", plots.residual_colour(value, worst_px=worst))
    assert plots.residual_colour(worst + value, worst_px=worst) == "#d55e00"


def test_plots_escape_names_and_bear_one_point() -> None:
    svg = plots.line_plot([("<b>", [(3.0, 1.5)])], x_label="<x>", y_label="y")
    assert "<b>" not in svg
    assert "&lt;x&gt;" in svg
    assert svg.count("<circle") == 1
    assert plots.line_plot([], x_label="x", y_label="y") == ""


def test_a_bend_has_no_affine_part() -> None:
    shape = (200, 300)
    rng = np.random.default_rng(4)
    sheet = Sheet(spacing_px=60.0, coefficients=rng.normal(0, 3, (2, *sheet_shape(shape, 60.0))))
    affine = np.array([[1.02, 0.01, 5.0], [-0.01, 0.97, -3.0]])
    transform = SectionTransform(section="z00000", shape_yx=shape, warp=Warp(affine=affine, sheet=sheet))
    grid, moved = exhibits._bend(transform, cells=20)
    flat = np.column_stack([grid.reshape(-1, 2), np.ones(grid[..., 0].size)])
    np.testing.assert_allclose(flat.T @ moved.reshape(-1, 2), 0, atol=1e-6)
    bare = SectionTransform(section="z00000", shape_yx=shape, warp=Warp(affine=affine))
    np.testing.assert_allclose(exhibits._affine(bare), affine, atol=1e-9)
    assert np.abs(exhibits._bend(bare, cells=20)[1]).max() < 1e-9


def test_numbers_are_readable() -> None:
    assert [report._count(n) for n in (7, 9999, 540_000, 1_234_567, 2 * 10**9, 3 * 10**12)] == [
        "7", "9999", "540 k", "1.23 M", "2 G", "3 T",
    ]  # fmt: skip
    assert [report._duration(s) for s in (0.5, 119, 480, 7500)] == ["0.5 s", "119 s", "8 min", "2 h 05 min"]


def test_sections_are_chosen_evenly() -> None:
    assert exhibits._evenly(3, 60) == [0, 1, 2]
    chosen = exhibits._evenly(1000, 60)
    assert (chosen[0], chosen[-1], len(chosen)) == (0, 999, 60)
