"""The demo's recipe: which phantom, cut how, run with which parameters, and scored against its truth how.

make_acquisition(folder) -> <folder>/phantom/acquisition, <folder>/phantom/truth
(any site runs the flow on the acquisition)
score(run, published)    -> residuals in px against the truth, and figures of the published labels
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np

from functions.evaluation import Evaluation, evaluate
from functions.model.acquisition import Tile
from functions.model.errors import VolumeError
from functions.model.geometry import ZYX
from functions.model.parameters import Parameters, SegmentParameters
from functions.publication.bundle import open_levels
from functions.store.files import atomic_path, fingerprint
from functions.store.run import Run
from functions.store.transforms import load_layout, load_transform
from functions.tasks import RunSpec
from functions.testing.acquisition import (
    DEMO,
    DEMO_SECTIONS,
    AcquisitionConfig,
    phantom_shape_zyx,
    write_acquisition,
)
from functions.testing.phantom import make_phantom
from functions.testing.phantom_render import PhantomConfig
from functions.testing.scoring import Place, align_residual_px, map_truth_labels, stitch_residual_px
from functions.testing.truth import Points, Truth, load_truth


class Size(StrEnum):
    """`full` has several subvolumes; `small` is for checking an installation in a minute."""

    FULL = "full"
    SMALL = "small"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that decides the demo but the code. The demo network has never seen this seed."""

    acquisition: AcquisitionConfig
    sections: int
    phantom_seed: int = 1
    parameters: Parameters

    @property
    def key(self) -> str:
        """Fingerprint of what decides the acquisition: another recipe never meets an old phantom."""
        return fingerprint(asdict(self.acquisition), self.sections, self.phantom_seed)


def _parameters(subvolume_zyx_px: ZYX, overlap_zyx_px: ZYX) -> Parameters:
    """Subvolumes so small that there are several; the volume's faces are mirrored, since it is thin."""
    return Parameters(
        segment=SegmentParameters(
            subvolume_zyx_px=subvolume_zyx_px, overlap_zyx_px=overlap_zyx_px, mirror_border=True
        )
    )


RECIPES = {
    Size.FULL: Recipe(
        acquisition=DEMO, sections=DEMO_SECTIONS, parameters=_parameters((44, 156, 156), (20, 40, 40))
    ),
    Size.SMALL: Recipe(
        acquisition=AcquisitionConfig(seed=7, id="demo-small", tile_shape_yx=(128, 128), grid=(1, 2)),
        sections=20,
        parameters=_parameters((20, 160, 160), (8, 40, 40)),
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """Where the demo's acquisition and its truth lie."""

    acquisition: Path
    truth: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A finished run against the truth; `voxels` of the aligned volume."""

    stitch_residual_px_p95: float
    align_residual_px_p95: float
    evaluation: Evaluation
    voxels: int


def make_acquisition(folder: Path, size: Size) -> Made:
    """Write the phantom acquisition whole or not at all; one that is there is kept."""
    recipe = RECIPES[size]
    home = folder / f"phantom-{size.value}-{recipe.key}"
    if not home.exists():
        shape = phantom_shape_zyx(recipe.acquisition, recipe.sections)
        phantom = make_phantom(PhantomConfig(seed=recipe.phantom_seed, shape_zyx=shape))
        with atomic_path(home) as partial:
            partial.mkdir(parents=True)
            write_acquisition(partial / "acquisition", phantom, recipe.acquisition)
    return Made(acquisition=home / "acquisition", truth=home / "truth")


def score(spec: RunSpec, *, truth_folder: Path, published: Path) -> Score:
    """Compare the run's geometry and its published labels with the truth.

    Voxels of the truth's membranes and gaps are left out of the entropies; unlabelled voxels are filled with
    the nearest segment first (letter D).

    Raises:
        VolumeError: a layout, a transform or the published volume is missing, or a section is.
    """
    run = Run(spec)
    truth = load_truth(truth_folder)
    if run.aligned.sections != tuple(range(truth.sections)):
        raise VolumeError(
            f"sections {run.aligned.sections}: the truth has 0 to {truth.sections - 1}",
            remedy="score a run over all sections",
        )
    in_section, in_volume = placements(run, truth)
    labels = np.asarray(open_levels(published)["labels"][0][...])
    z, y, x = labels.shape
    evaluation = evaluate(
        labels.astype(np.int64),
        map_truth_labels(truth, in_volume, (z, y, x)),
        voxel_size_zyx_nm=run.manifest.acquisition.voxel_size_zyx_nm,
        background_counts=False,
    )
    return Score(
        stitch_residual_px_p95=stitch_residual_px(truth, in_section).p95,
        align_residual_px_p95=align_residual_px(truth, in_volume).p95,
        evaluation=evaluation,
        voxels=labels.size,
    )


def placements(run: Run, truth: Truth) -> tuple[Place, Place]:
    """Where the run put tile pixels: in the stitched section, and in the aligned volume."""
    ids = [entry.section.id for entry in run.sections]
    layouts = [load_layout(run, name) for name in ids]
    transforms = [load_transform(run, name) for name in ids]

    def in_section(section: int, row: int, column: int, points_yx: Points) -> Points:
        tile = Tile(row=row, column=column, path="-", stage_yx_nm=(0, 0), shape_yx=truth.tile_shape_yx)
        return layouts[section].place(tile.id, points_yx)

    def in_volume(section: int, row: int, column: int, points_yx: Points) -> Points:
        return transforms[section].apply(in_section(section, row, column, points_yx))

    return in_section, in_volume
