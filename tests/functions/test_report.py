"""The page: self-contained, escaped, and showing what it should."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from functions import finish
from functions.model.gate import GateDocument, PairVerdict, Reason, SeamVerdict, SectionVerdict
from functions.model.parameters import GateParameters
from functions.model.transform import SectionTransform, Sheet, Warp, sheet_shape
from functions.publication import exhibits, facts, pictures, plots, registered, report
from functions.registration import evidence
from functions.registration.evidence import NO_WINDOWS, Windows
from functions.store.files import write_json
from functions.store.run import Run
from functions.store.transforms import load_layout
from tests.functions.finished import finished_run

WRONG_TILE = "g0_r001_c001"
COUNT = facts.LabelCount(voxels=1, labelled=0, segments=0, largest=())
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
    # 3 slices with labels, 7 sections, 1 of them torn, 2 stitched, 10 seams of 4, 3 flips of 2, 7 fields,
    # 1 with arrows
    assert len(sources) == 3 * 2 + 7 + 1 + 2 + 10 * 4 + 3 * 2 + 7 + 1
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


def wrong_tile_run(root: Path) -> Run:
    """A run in which one tile of one section lies 20 px off, and no match tells."""
    run = finished_run(root)
    layout = load_layout(run, "z00005")
    tiles = []
    for tile in layout.tiles:
        (ay, by, ty), (ax, bx, tx) = tile.affine
        off = 1.0 if tile.tile_id == WRONG_TILE else 0.0
        tiles.append(tile.model_copy(update={"affine": ((ay, by, ty + 12 * off), (ax, bx, tx - 16 * off))}))
    moved = layout.model_copy(update={"tiles": tuple(tiles)})
    write_json(run.cell("stitch", "z00005").file("layout.json"), moved.to_json())
    return run


def test_a_wrong_tile_that_no_match_shows_is_named_and_shown_first(tmp_path: Path) -> None:
    run = wrong_tile_run(tmp_path)
    assert finish.perform(run).status == "look"
    text = (run.cell("finish").file("bundle") / "report.html").read_text()
    parser = Page()
    parser.feed(text)
    told = text[text.index('id="gate"') : text.index('id="sections"')]
    assert f"z00005: tile {WRONG_TILE}" in told
    assert told.index('fail">fail</span>') < told.index('pass">pass</span>')
    worst = text[text.index("The worst seams") : text.index('id="alignment"')]
    first = worst[worst.index("<td>") : worst.index("</tr>", worst.index("<td>"))]
    assert "z00005" in first
    assert WRONG_TILE in first
    assert 'fail">fail</span>' in first
    assert "z00005, around seam" in text  # before and after shows the worst section
    assert "fits 20" in text  # the map by images says how far


def test_a_report_of_many_sections_stays_bounded(finished: Run) -> None:
    found = facts.gather(finished, count=COUNT, gate=many_sections(600, seams=40))
    layouts = tuple(
        layout.model_copy(update={"section": f"z{z:05d}", "seams": layout.seams * 10})
        for z, layout in enumerate([found.layouts[0]] * 600)
    )
    found = replace(found, layouts=layouts)
    rows, maps = registered.section_rows(found), registered.section_maps(found, 1.0)
    assert (len(rows), len(maps)) == (60, 60)
    assert [row[0].z for row in rows] == sorted(row[0].z for row in rows)
    assert 599 in [row[0].z for row in rows]  # the worst is always among them
    assert len(registered.reasons(found)) == registered.SHOWN_REASONS
    dots = sum(m.drawing.count("<circle") for m in maps)
    assert dots <= registered.MAP_SEAMS
    assert sum(len(m.drawing) for m in maps) < 400_000
    assert len(registered.agreement(found)) < 200_000


def test_a_plot_of_many_sections_is_a_line_only() -> None:
    rows = [(float(z), float(z % 7)) for z in range(20_000)]
    svg = plots.line_plot([("y", rows)], x_label="section", y_label="px")
    assert "<circle" not in svg
    assert len(svg) < 300_000
    assert plots.line_plot([("y", rows[:50])], x_label="section", y_label="px").count("<circle") == 50


def test_marks_of_a_full_map_stay_small() -> None:
    n = evidence.GRID**2
    windows = Windows(
        centre_yx=np.random.default_rng(1).uniform(0, 20_000, (n, 2)),
        ncc=np.full(n, 0.1),
        peak=np.full(n, 0.5),
        shift_yx_px=np.full((n, 2), 9.0),
        sure=np.ones(n, dtype=bool),
    )
    svg = plots.pair_map(windows, (20_000, 20_000), label="a pair")
    assert svg.count("<rect") == n + 1
    assert len(svg) < 120_000


def many_sections(count: int, *, seams: int) -> GateDocument:
    """A verdict on a large stack, the last section worst."""
    one = SeamVerdict(a="a", b="b", centre_yx=(10.0, 20.0), verdict="pass", windows=3, ncc=0.9, shift_px=0.1)
    doubt = Reason(level="look", code="coverage", subject="z", value=0.4, limit=0.5)
    sections = tuple(
        SectionVerdict(
            section=f"z{z:05d}",
            z=z,
            verdict="fail" if z == count - 1 else "look",
            placed="matched",
            seams=(one,) * seams,
            reasons=(doubt,),
        )
        for z in range(count)
    )
    pairs = tuple(
        PairVerdict(pair=f"z{z:05d}-z{z + 1:05d}", verdict="pass", windows=9, ncc=0.5)
        for z in range(count - 1)
    )
    return GateDocument(verdict="look", limits=GateParameters(), sections=sections, pairs=pairs)


def test_differences_are_bright_and_nothing_alone_is() -> None:
    a = np.array([[100, 100, 0]], dtype=np.uint8)
    b = np.array([[100, 180, 90]], dtype=np.uint8)
    assert pictures.difference(a, b).tolist() == [[0, 160, 0]]


def test_the_worst_place_of_a_seam_is_shown() -> None:
    windows = Windows(
        centre_yx=np.array([[0.0, 0.0], [0.0, 50.0], [0.0, 99.0]]),
        ncc=np.array([0.9, 0.1, 0.8]),
        peak=np.array([0.9, 0.2, 0.9]),
        shift_yx_px=np.array([[0.2, 0.0], [9.0, 0.0], [0.1, 0.0]]),
        sure=np.array([True, False, True]),
    )
    assert registered.worst_place(windows, (1.0, 1.0)) == (0.0, 50.0)  # least alike; its shift is not sure
    windows.shift_yx_px[2] = (0.0, 7.0)
    assert registered.worst_place(windows, (1.0, 1.0)) == (0.0, 99.0)
    assert registered.worst_place(NO_WINDOWS, (1.0, 1.0)) == (1.0, 1.0)


def test_artefacts_are_drawn_over_their_sections_and_told(finished: Run) -> None:
    page = (finished.cell("finish").file("bundle") / "report.html").read_text()
    assert page.count('alt="artefacts of section') == 1
    assert 'alt="artefacts of section 5"' in page
    assert 'fold <span class="soft">1.8 %, sections: 1, most in z00005: 13 %' in page
    assert "crack <span" not in page


def test_each_code_has_a_colour_and_tissue_none() -> None:
    picture = pictures.code_overlay(np.arange(6, dtype=np.uint8)[None])
    assert picture.shape == (1, 6, 4)
    assert picture[0, :2].tolist() == [[0, 0, 0, 0]] * 2
    assert len({tuple(pixel) for pixel in picture[0, 2:].tolist()}) == 4
    assert (picture[0, 2:, 3] == pictures.CODE_ALPHA).all()
