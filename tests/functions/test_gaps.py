"""Missing sections are filled, artefacts bridged where both sides agree; and a neurite stays one object."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from ffn.masks import Masks
from functions import segment
from functions.agglomeration.gaps import Shown, label_bridges, show
from functions.evaluation import evaluate
from functions.model.artefacts import CRACK, FOLD, OUTSIDE, RESIN, TISSUE
from functions.model.errors import TaskError
from functions.model.parameters import Parameters
from functions.segment import Flooded
from functions.shown import read, shown_to
from functions.store.artefacts import open_artefacts
from functions.store.run import Run
from functions.store.transforms import aligned_volume_ref
from functions.store.volumes import Volume
from tests.functions.aligned_runs import make_run, segment_all
from tests.functions.test_relabel import label_all


def column(*values: int) -> NDArray[np.uint8]:
    return np.array(values, np.uint8).reshape(-1, 1, 1)


def shown(
    image: NDArray[np.uint8], *, artefact: str = "", resin: str = "", gap: int = 2, avoided: int = 2
) -> Shown:
    """A column of tissue where it is not 0; `x` marks what is an artefact, or resin."""

    def marked(text: str) -> NDArray[np.bool_]:
        return np.array([c == "x" for c in text.ljust(len(image), ".")]).reshape(-1, 1, 1)

    return show(
        image,
        image > 0,
        resin=marked(resin),
        artefact=marked(artefact),
        fill_gap=gap,
        fill_avoided=avoided,
    )


def test_short_gaps_show_the_nearest_section() -> None:
    image = column(10, 0, 0, 40, 0, 60)
    before = image.copy()
    found = shown(image)
    assert found.image.ravel().tolist() == [10, 10, 40, 40, 40, 60]
    assert found.tissue.all()
    assert not found.bridged.any()
    assert (image == before).all()


def test_long_gaps_and_open_ends_stay_empty() -> None:
    image = column(0, 10, 0, 0, 40, 0)
    found = shown(image, gap=1)
    assert found.image.ravel().tolist() == [0, 10, 0, 0, 40, 0]
    assert found.tissue.ravel().tolist() == [False, True, False, False, True, False]
    assert shown(image, gap=0).image is image


def test_a_thin_artefact_is_bridged_and_a_thick_one_shown_as_it_is() -> None:
    image = column(10, 99, 98, 40, 97, 96, 95, 80)
    found = shown(image, artefact=".xx.xxx.")
    assert found.image.ravel().tolist() == [10, 10, 40, 40, 97, 96, 95, 80]
    assert found.bridged.ravel().tolist() == [False, True, True, *[False] * 5]
    assert found.artefact.ravel().tolist() == [*[False] * 4, True, True, True, False]
    assert found.trusted.ravel().tolist() == [True, False, False, True, False, False, False, True]
    off = shown(image, artefact=".xx.xxx.", avoided=0)
    assert off.image is image
    assert off.artefact.sum() == 5


def test_an_artefact_at_a_face_has_one_side_only_and_is_not_bridged() -> None:
    found = shown(column(99, 10, 20, 98), artefact="x..x")
    assert not found.bridged.any()
    assert found.artefact.ravel().tolist() == [True, False, False, True]


def test_a_gap_beside_an_artefact_takes_no_tissue_from_it() -> None:
    found = shown(column(10, 99, 0, 40), artefact=".x..")
    assert found.image.ravel().tolist() == [10, 10, 40, 40]
    assert found.bridged.ravel().tolist() == [False, True, True, False]
    assert found.tissue.all()


def test_resin_is_not_bridged_and_widens_the_artefact_beside_it() -> None:
    found = shown(column(10, 50, 99, 40), artefact="..x.", resin=".x..")
    assert found.image.ravel().tolist() == [10, 50, 40, 40]
    assert found.bridged.ravel().tolist() == [False, False, True, False]
    assert found.resin.ravel().tolist() == [False, True, False, False]
    assert not shown(column(10, 50, 99, 40), artefact="..x.", resin=".x..", avoided=1).bridged.any()


def test_a_bridge_has_the_label_of_both_sides_or_none() -> None:
    image = np.full((4, 1, 3), 50, np.uint8)
    artefact = np.zeros(image.shape, bool)
    artefact[1:3] = True
    none = np.zeros(image.shape, bool)
    found = show(image, ~none, resin=none, artefact=artefact, fill_gap=2, fill_avoided=2)
    labels = np.array([[[7, 7, 0]], [[1, 2, 3]], [[4, 5, 6]], [[7, 8, 0]]], np.uint32)
    given = label_bridges(labels, found)
    assert given[:, 0].tolist() == [[7, 7, 0], [7, 0, 0], [7, 0, 0], [7, 8, 0]]
    assert labels[1, 0].tolist() == [1, 2, 3]


SHAPE = (16, 40, 40)
CRACKED = (slice(7, 9), slice(None), slice(14, 26))


class Flood:
    """Bright voxels that touch are one object, as far as centres may go; one voxel beside them is seen."""

    radius_zyx = (1, 1, 1)

    def __call__(self, image: NDArray[np.uint8], masks: Masks) -> Flooded:
        bright = image > 100
        labels, _ = ndimage.label(bright if masks.moves is None else bright & masks.moves)
        seen = ndimage.grey_dilation(labels, size=(1, 3, 3))
        labels = np.where((labels == 0) & bright, seen, labels)
        allowed = labels if masks.labels is None else np.where(masks.labels, labels, 0)
        return Flooded(labels=allowed.astype(np.uint32))


def neurites() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Image and truth: one neurite along z, one along x; a crack through both, black, two sections thick."""
    truth = np.zeros(SHAPE, np.uint8)
    truth[:, 8:18, 16:24] = 1
    truth[5:12, 24:32, :] = 2
    image = np.where(truth > 0, 180, 20).astype(np.uint8)
    image[CRACKED] = 5
    return image, truth


def cracked_run(root: Path, code: int = CRACK, **parameters: object) -> Run:
    """The neurites in subvolumes that overlap about the crack."""
    image, _ = neurites()
    codes = np.full(SHAPE, TISSUE, np.uint8)
    codes[CRACKED] = code
    group = {"subvolume_zyx_px": (11, 40, 40), "overlap_zyx_px": (6, 0, 0), "labelled_to_look": 0.0}
    return make_run(
        root, image, codes=codes, segment={**group, **parameters}, reconcile={"min_voxels": 1, "min_iou": 0.3}
    )


def labels_of(run: Run) -> NDArray[np.integer]:
    segment_all(run, Flood())
    return label_all(run)


def names(labels: NDArray[np.integer], truth: NDArray[np.uint8], value: int) -> set[int]:
    return set(np.unique(labels[truth == value]).tolist()) - {0}


def test_a_neurite_that_crosses_a_crack_stays_one_object(tmp_path: Path) -> None:
    run = cracked_run(tmp_path)
    labels, (image, truth) = labels_of(run), neurites()
    one, two = names(labels, truth, 1), names(labels, truth, 2)
    assert len(one) == len(two) == 1
    assert one != two
    # both sides agree wherever neurites run straight: the crack is labelled, and nothing beside them is
    np.testing.assert_array_equal(labels > 0, truth > 0)
    stored = Volume.open(run.work, run.aligned.volume)
    np.testing.assert_array_equal(stored.read(stored.ref.box), image)
    figures = [m.figures for m in run.cell("segment").marks()]
    assert [f["bridged_voxels"] for f in figures] == [2 * 40 * 12] * 2
    assert [f["avoided_voxels"] for f in figures] == [0, 0]


def test_without_the_bridge_the_crack_cuts_it_and_is_not_labelled(tmp_path: Path) -> None:
    run = cracked_run(tmp_path, fill_avoided_sections=0)
    labels, (_, truth) = labels_of(run), neurites()
    assert len(names(labels, truth, 1)) == 2
    assert not labels[CRACKED].any()
    thick = cracked_run(tmp_path / "thick", fill_avoided_sections=1)
    assert len(names(labels_of(thick), truth, 1)) == 2


def test_a_code_that_is_not_avoided_changes_nothing(tmp_path: Path) -> None:
    run = cracked_run(tmp_path, avoid=["fold"])
    labels, (_, truth) = labels_of(run), neurites()
    assert len(names(labels, truth, 1)) == 2
    assert [m.figures["bridged_voxels"] for m in run.cell("segment").marks()] == [0, 0]


def test_tissue_under_a_false_fold_is_not_given_to_a_neighbour(tmp_path: Path) -> None:
    """Where the sides differ the voxels stay empty; without the code they have their own objects."""
    image = np.full((8, 16, 16), 180, np.uint8)
    image[:, 8] = 20
    image[5:, :, 6] = 20
    image[5:, 8, 6] = 20
    image[:5, :, 11] = 20
    codes = np.full(image.shape, TISSUE, np.uint8)
    codes[4] = FOLD
    run = make_run(tmp_path, image, codes=codes, segment={"labelled_to_look": 0.0})
    labels = labels_of(run)
    above, below = labels[3], labels[5]
    np.testing.assert_array_equal(labels[4], np.where(above == below, above, 0))
    assert (labels[4, :, 6] == 0).all()
    assert (labels[4, :, 11] == 0).all()
    assert (labels[4, :8, :6] > 0).all()
    believed = make_run(tmp_path / "own", image, codes=codes, segment={"avoid": [], "labelled_to_look": 0.0})
    np.testing.assert_array_equal(labels_of(believed)[4] > 0, image[4] > 100)


def test_voxels_under_the_crack_are_left_out_of_the_evaluation(tmp_path: Path) -> None:
    run = cracked_run(tmp_path, fill_avoided_sections=0)
    labels, (_, truth) = labels_of(run), neurites()
    codes = open_artefacts(run)
    excluded = np.asarray(codes.read(codes.ref.box)) == CRACK
    figures = [
        evaluate(
            labels.astype(np.int64),
            truth,
            voxel_size_zyx_nm=(40.0, 10.0, 10.0),
            background_counts=False,
            min_skeleton_voxels=1,
            excluded=mask,
        )
        for mask in (None, excluded)
    ]
    whole, left = figures
    assert whole.labelled_fraction < 1.0
    assert left.labelled_fraction == 1.0
    assert (whole.masked_fraction, left.masked_fraction) == pytest.approx((0.0, excluded.mean()))
    assert left.voxels == (~excluded).sum()
    assert left.voi_split_keep > 0.1  # cut in two is still cut in two


def test_resin_is_not_labelled_at_all(tmp_path: Path) -> None:
    run = cracked_run(tmp_path, code=RESIN)
    labels = labels_of(run)
    assert not labels[CRACKED].any()
    assert all(m.figures["bridged_voxels"] == 0 for m in run.cell("segment").marks())


def test_names_of_codes_are_strict() -> None:
    with pytest.raises(TaskError, match=r"segment\.avoid\[0\]"):
        Parameters.parse({"segment": {"avoid": ["folds"]}}, source="input")


def test_outside_is_no_code_to_avoid_since_it_has_no_picture(tmp_path: Path) -> None:
    image, _ = neurites()
    tissue = np.ones(SHAPE, bool)
    tissue[CRACKED] = False
    run = make_run(tmp_path, image, tissue=tissue)
    volume = Volume.open(run.work, aligned_volume_ref(run.aligned, "artefacts"))
    assert (volume.read(volume.ref.box)[CRACKED] == OUTSIDE).all()
    shown_, _, codes = read(run, next(iter(segment.grid_of(run))).read)
    found = shown_to(run.parameters.segment, shown_, tissue, codes)
    assert not found.bridged.any()
    assert not found.artefact.any()
    assert found.tissue.all()
