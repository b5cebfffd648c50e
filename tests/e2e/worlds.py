"""A phantom acquisition small enough to run the whole flow on in seconds, and its parameters."""

from pathlib import Path

from functions.model.parameters import FinishParameters, Parameters, ReconcileParameters, SegmentParameters
from functions.testing.acquisition import AcquisitionConfig, phantom_shape_zyx, write_acquisition
from functions.testing.phantom import make_phantom
from functions.testing.phantom_render import PhantomConfig

SECTIONS = 20
SMALL = Parameters(
    segment=SegmentParameters(subvolume_zyx_px=(20, 96, 96), overlap_zyx_px=(8, 32, 32)),
    reconcile=ReconcileParameters(chunk_zyx_px=(20, 64, 64)),
    finish=FinishParameters(chunk_zyx_px=(16, 32, 32), shard_zyx_px=(16, 64, 64)),
).model_dump_json()
"""As JSON, since it goes to another process. Everything is so small that there are several of everything."""


def write_small_acquisition(folder: Path) -> Path:
    """Write `folder/small`: 20 sections of 2 x 2 tiles; returns that folder. Its truth lies beside it."""
    config = AcquisitionConfig(seed=5, id="small", tile_shape_yx=(96, 96), overlap_px=32)
    shape = phantom_shape_zyx(config, SECTIONS)
    write_acquisition(folder / "small", make_phantom(PhantomConfig(seed=5, shape_zyx=shape)), config)
    return folder / "small"
