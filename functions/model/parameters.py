"""Every setting of every step, with its default, in one place: `--set segment.overlap_zyx_px=24,24,24`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from functions.model.artefacts import ArtefactName
from functions.model.base import Document
from functions.model.fan_out import FanOutParameters

Pixels = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Size = Annotated[int, Field(gt=0)]
Positive = Annotated[float, Field(gt=0)]
Device = Literal["auto", "cpu", "cuda", "xpu"]
Precision = Literal["fp32", "tf32", "bf16", "fp16", "int8"]
SeedOrder = Literal["raster", "reversed", "depth"]


class IngestParameters(Document):
    """Which sections are taken and when a tile is called bad."""

    sections: tuple[int, int] | None = None
    """First and last-plus-one z index (`--sections 3:9`); None takes all."""
    blank_std: Annotated[float, Field(ge=0)] = 2.0
    """A tile whose standard deviation (gray levels) is below is blank."""
    saturated_fraction: Fraction = 0.5
    """A tile with a larger share of pixels at either end of its type's range is saturated."""
    verify_checksums: bool = True
    """Compare each tile with the checksum in the metadata, where there is one."""


class StitchParameters(Document):
    """Tile registration within a section."""

    patch_px: Annotated[int, Field(ge=16, le=256)] = 64
    """Side of the patches that are matched along overlaps."""
    reach_px: Annotated[int, Field(ge=4, le=64)] = 10
    """How far a patch is searched around its place after whole overlaps have been registered."""
    min_correlation: Fraction = 0.25
    """A patch match counts from this correlation on."""
    max_second_peak: Fraction = 0.85
    """... and only if no other place correlates more than this share of the best one."""
    max_residual_px: Positive = 2.0
    """A seam whose residual p95 is above asks for a look."""
    normalise: bool = True
    """Bring every section to one mean and standard deviation (never done to an aligned stack)."""
    target_mean: Annotated[float, Field(gt=0, lt=255)] = 128.0
    target_std: Annotated[float, Field(gt=0, lt=128)] = 33.0
    lens: str | None = None
    """Path of a camera's lens (`petavoxel acquisition lens`), readable at the site; None: each section finds
    its own."""
    device: Device = "cpu"
    """Where images are compared; `auto` takes the best there is. Devices agree to 0.02 px, not to the bit."""


class AlignParameters(Document):
    """Registration of sections with each other."""

    neighbours: Annotated[int, Field(ge=1, le=4)] = 2
    """Each section is registered with this many following usable sections."""
    far_neighbours: tuple[Annotated[int, Field(ge=2, le=64)], ...] = (6, 12)
    """... and with those so many usable sections on, at half resolution, where they still show enough in
    common: these pairs keep a long stack straight."""
    locked_solution: str | None = None
    """Folder under the work root of an earlier run's solution (`align_solve/<key>`): its sections stay where
    they are, and new ones are placed against them."""
    unlocked_sections: Annotated[int, Field(ge=0, le=64)] = 0
    """... but for so many at its end, which are placed anew: sections they are paired with had not been
    imaged yet. While a stack grows, the largest of `far_neighbours`."""
    trust_stage: bool = False
    """Let the stack lean as the stage positions say. Tissue that runs sideways looks like a creeping stage,
    and images alone set it upright. For microscopes whose stage does not creep, and not while a stack grows:
    its lean is not known before its end."""
    max_rotation_deg: Annotated[float, Field(ge=0, le=180)] = 12.0
    """Rotations between neighbours that are tried first; all others only if none of these fits."""
    window_px: Annotated[int, Field(ge=256, le=32768)] = 2048
    """Side of the windows in which two sections are read and compared. Memory goes with its square, however
    large sections are; matches do not depend on it."""
    patch_px: Annotated[int, Field(ge=16, le=256)] = 64
    """Side of the patches of the block-wise flow."""
    stride_px: Annotated[int, Field(ge=8, le=512)] = 32
    """Distance of the patches of the flow."""
    reach_px: Annotated[int, Field(ge=4, le=64)] = 16
    """How far a patch is searched around its place after the coarse registration, at half resolution."""
    min_correlation: Fraction = 0.2
    """A patch match counts from this correlation on."""
    max_second_peak: Fraction = 0.9
    """... and only if no other place correlates more than this share of the best one."""
    mesh_spacing_px: Annotated[int, Field(ge=16, le=2048)] = 80
    """Distance of the knots of each section's elastic mesh."""
    stiffness: Positive = 1.0
    """Resistance of the mesh to bending, relative to the default."""
    max_residual_px: Positive = 4.0
    """A pair whose residual p95 is above asks for a look."""
    device: Device = "cpu"
    """Where sections are compared; as for `stitch`."""


class GateParameters(Document):
    """When a registered stack passes, asks for a look, or fails. Limits change no pixel of it."""

    seam_look_px: Positive = 2.0
    """A seam off by more (p95 of its matches, or by its images) asks for a look: membranes break visibly."""
    seam_fail_px: Positive = 8.0
    """... and fails its section: structures of that size belong to something else across the seam."""
    pair_look_px: Positive = 10.0
    """p95 of the matches of following sections; tissue alone gives 7.8 px at 50 nm and 4.6 nm pixels."""
    pair_fail_px: Positive = 24.0
    """... and fails: the matches contradict each other. A pair n sections apart may be off n times as far."""
    shift_look_px: Positive = 4.0
    """How far away following sections fit best by their images; tissue averages out (0.5 px there)."""
    shift_fail_px: Positive = 16.0
    """... and fails: thin neurites are lost."""
    displaced_look: Fraction = 0.15
    """Share of a pair's windows that fit better more than `shift_look_px` away: look."""
    displaced_fail: Fraction = 0.4
    """... more than `shift_fail_px` away: fail. A fold or crack displaces less of a section than this."""
    unlike_look: Fraction = 0.4
    """Share of windows that show different things: look; damaged and dirty sections do."""
    unlike_fail: Fraction = 0.8
    """... fail, if matches are said to hold them: registered by a pattern that the tissue does not show."""
    coverage_look: Fraction = 0.5
    """A section asks for a look when its matches hold less of what there is to see."""
    coverage_fail: Fraction = 0.15
    """... and fails: most of it is extrapolated."""
    confidence_look: Fraction = 0.3
    """... when the median correlation of its best pair's matches is lower; chance gives up to 0.25."""
    confidence_fail: Fraction = 0.2
    stage_tiles_look: Fraction = 0.0
    """Share of a section's tiles that no overlap registers: above, look."""
    stage_tiles_fail: Fraction = 0.5
    """... fail: it is a stage mosaic. Tiles of empty resin at the rim are usually fewer."""
    interpolated_fail: Fraction = 0.2
    """Share of sections that no pair ties to the stack. Each of them asks for a look."""
    bad_sections_fail: Fraction = 0.02
    """The whole fails when a larger share of its sections does; one bad section of fifty can be bridged."""

    @model_validator(mode="after")
    def _ordered(self) -> GateParameters:
        """A limit to fail is never stricter than the one to look."""
        for name in (
            "seam_{}_px",
            "pair_{}_px",
            "shift_{}_px",
            "displaced_{}",
            "unlike_{}",
            "stage_tiles_{}",
        ):
            look, fail = (getattr(self, name.format(level)) for level in ("look", "fail"))
            if fail < look:
                raise ValueError(f"{name.format('fail')} {fail:g} is below {name.format('look')} {look:g}")
        for name in ("coverage", "confidence"):
            look, fail = (getattr(self, f"{name}_{level}") for level in ("look", "fail"))
            if fail > look:
                raise ValueError(f"{name}_fail {fail:g} is above {name}_look {look:g}")
        return self


class SegmentParameters(Document):
    """FFN inference over overlapping subvolumes."""

    model: str = "demo"
    """`demo`, or the path of a .safetensors file readable at the site."""
    subvolume_zyx_px: tuple[Size, Size, Size] = (64, 256, 256)
    overlap_zyx_px: tuple[Pixels, Pixels, Pixels] = (24, 48, 48)
    """At least twice the radius of the network's field of view, or seams stay unvisited on both sides."""
    device: Device = "auto"
    processes_per_device: Size = 1
    """So many worker processes share an accelerator: the first so many take the first, and so on."""
    at_once: Size | None = None
    """Subvolumes that a worker floods at once, in threads that share the network; None: 32 on an accelerator,
    1 on a CPU."""
    batch: Size | None = None
    """Fields of view per network call; None: 32 on an accelerator, 1 on a CPU."""
    objects: Size = 32
    """With a batch and one subvolume at once: objects of it flooded at once, canvases on the device; same
    result, 5 bytes of the device's memory per voxel and object."""
    mode: Literal["fast", "model"] = "fast"
    """`fast`: no moves near visited centres, deepest seeds first (`ffn.config.fast`): half the work, at no
    worse VOI on FIB-25 (`tests.benchmarks.ffn`, `fib25`). `model`: the network's own settings."""
    precision: Precision = "fp32"
    """Numbers the network computes in; below fp32 only with a passing verdict of `petavoxel model gate`."""
    allow_ungated: bool = False
    """Run in a reduced precision without such a verdict; every subvolume then asks for a look."""
    checkpoint_seconds: Annotated[float, Field(ge=0)] = 300.0
    """So often a subvolume in progress is kept on scratch, to go on from when killed; 0 never."""
    fill_gap_sections: Pixels = 2
    """Gaps of up to so many sections show the nearest section to the network; 0 leaves them blank."""
    avoid: tuple[ArtefactName, ...] = ("resin", "fold", "crack", "charging")
    """Artefacts in which no object starts and no field of view is centred; resin is not labelled either."""
    fill_avoided_sections: Pixels = 2
    """Avoided folds, cracks and charging of up to so many sections, between tissue, show the nearest section
    to the network, and are labelled where both sides are the same object; 0 shows them as they are."""
    mirror_border: bool = False
    """Mirror the image at the volume's faces, so that the network's centre can visit the outermost voxels."""
    min_segment_voxels: Pixels | None = None
    """Smallest object that is kept; None takes the model's own setting."""
    frontier_batch: Size | None = None
    """Moves of one object that go through the network at once; None takes the model's own setting."""
    min_move_distance_px: Annotated[float, Field(ge=0)] | None = None
    """Moves nearer than this (Euclidean) to a visited centre are left out; None takes the model's own."""
    consensus_orders: tuple[SeedOrder, ...] = ()
    """The subvolume is flooded once more with seeds in each of these orders, and only what all agree on stays
    together (oversegmentation consensus): fewer mergers, more splits, for `candidates` to mend."""
    labelled_to_look: Fraction = 0.05
    """A subvolume that is mostly tissue is reported where a smaller share of the tissue is labelled."""
    voxel_size_factor: Annotated[float, Field(ge=1)] = 1.5
    """Volume and network may differ by this factor in voxel size before a person should look."""


class ReconcileParameters(Document):
    """When labels of two subvolumes are called equal, and what the global labels keep."""

    min_iou: Fraction = 0.4
    """Intersection over union, among the overlap's voxels that both subvolumes label."""
    min_voxels: Size = 64
    """Voxels that both labels share at least."""
    contested_share: Fraction = 0.25
    """A label that covers two of a neighbour's, each with this share of it in the overlap, is joined to one
    label only: it may be a false merger. 1 trusts every label."""
    max_pieces_per_subvolume: Size | None = None
    """Most objects of one subvolume in one global object (weaker joins are refused, all of them in memory at
    once); None sets no limit."""
    min_object_voxels: Pixels = 0
    """Global objects of fewer voxels are dropped."""
    combine: Literal["vote", "owner"] = "vote"
    """Each voxel takes what most subvolumes that read it say, or what the one that owns it says."""
    fill_unlabelled: bool = True
    """Where a voxel's own subvolume has no label, another subvolume that reads it may give one."""
    agreement_to_look: Fraction = 0.3
    """Overlaps are reported where equal objects hold a smaller share of the voxels that both label."""
    largest_share_to_look: Fraction = 0.5
    """A global object with a larger share of the labelled voxels is reported: perhaps a false merger."""
    chunk_zyx_px: tuple[Size, Size, Size] = (64, 128, 128)
    """Chunks of the global labels."""


class CandidatesParameters(Document):
    """Which pairs of global objects might be one: those are flooded again. Without `sources`, none."""

    sources: tuple[Literal["refused", "contact"], ...] = ()
    """`refused`: overlaps that reconcile did not join; `contact`: objects that touch. Any: agglomeration is
    on, and costs about one hundred fields of view a pair."""
    near_px: Positive = 5.0
    """Objects up to twice as far apart are neighbours; in voxels of the finest axis."""
    min_voxels: Pixels = 1000
    """Objects with fewer voxels in a block are passed over there."""
    refused_share: Fraction = 0.5
    """A refused overlap is taken when the smaller label has this share of its part of it in the other."""
    contact_share: Fraction = 0.35
    """A contact is taken when the object with fewer faces to others has this share of them in it."""
    large_voxels: Pixels = 50000
    """A contact of two objects this large in the block is taken whatever its share, if it is bright: what
    splits them costs most."""
    bright_grey: float = -0.9
    """Bright is no darker than so many standard deviations below what is labelled; a membrane is darker."""
    block_zyx_px: tuple[Size, Size, Size] = (128, 512, 512)
    """One unit of the search; its memory goes with it (`petavoxel plan --memory-gib`)."""


class ResegmentParameters(Document):
    """How candidate pairs are flooded again; device, precision and mode are those of segment."""

    max_attempts: Size = 2
    """Seeds tried in an object, the deepest first, until one recovers most of it."""
    stop_early: bool = True
    """Leave out the flooding from the larger object where that from the smaller one, which comes first, found
    too little of either: the pair would stay apart, and rarely does the larger one find what it did not."""
    pairs_per_unit: Size = 16


class AgglomerateParameters(Document):
    """When a pair that was flooded again is called one object. Another limit costs no network."""

    seeds: Literal["both", "either"] | None = None
    """Whether both objects, flooded from either of the pair, have to find both of the pair again, or one is
    enough. None takes it, and `min_score` with it, from `thresholds`, or `either`; not given beside that."""
    min_score: Fraction | None = None
    """With `either`: share of each of the pair that the better object finds again; None is .6. With `both`:
    Jaccard index of the two objects; None is .8. Above, the pair is one object. Goes before that of
    `thresholds`."""
    thresholds: str | None = None
    """Path of what `petavoxel model evaluate --edges` chose on ground truth, readable at the site."""
    min_recovered: Fraction = 0.6
    """With `both`: share of each of the pair that each of the two objects has to find again."""
    max_deletion_fraction: Annotated[float, Field(ge=0)] = 0.02
    """Voxels that the network took back while it flooded, of the object's; the object with fewer counts."""
    max_foreign_fraction: Fraction = 0.2
    """Share of a flooded object that may lie in third objects."""
    min_voxels: Pixels = 100
    """Of both, near the decision point: shares of a few voxels say nothing."""
    min_bridge_voxels: Pixels = 1000
    """A smaller object joins one partner only, its best."""

    @model_validator(mode="after")
    def _one_rule(self) -> AgglomerateParameters:
        if self.seeds is not None and self.thresholds is not None:
            raise ValueError(
                f"seeds: {self.seeds} is given beside thresholds, a file that says which; set either to none"
            )
        return self


class FinishParameters(Document):
    """The published volume and its report."""

    title: Annotated[str, Field(max_length=120)] = ""
    """Title of the published volume; empty takes the acquisition's id."""
    creators: Annotated[tuple[Annotated[str, Field(max_length=80)], ...], Field(max_length=8)] = ()
    """Names as they are cited; published only when given here."""
    publisher: Annotated[str, Field(max_length=80)] = "Petavoxel"
    license: Annotated[str, Field(max_length=120)] = ""
    """Address of the licence, e.g. https://creativecommons.org/licenses/by/4.0/."""
    chunk_zyx_px: tuple[Size, Size, Size] = (32, 128, 128)
    """Readable unit inside a file of the volume."""
    shard_zyx_px: tuple[Size, Size, Size] = (64, 512, 512)
    """One file of the volume, rounded up to whole chunks."""
    report_seams: Pixels = 10
    """So many of the worst seams are shown with both images."""
    report_sections: Size = 60
    """At most so many sections are shown as pictures."""


class Parameters(Document):
    """The parameters of a run, one group a step; `fan_out` is for all that have many units."""

    ingest: IngestParameters = IngestParameters()
    stitch: StitchParameters = StitchParameters()
    align: AlignParameters = AlignParameters()
    gate: GateParameters = GateParameters()
    segment: SegmentParameters = SegmentParameters()
    reconcile: ReconcileParameters = ReconcileParameters()
    candidates: CandidatesParameters = CandidatesParameters()
    resegment: ResegmentParameters = ResegmentParameters()
    agglomerate: AgglomerateParameters = AgglomerateParameters()
    finish: FinishParameters = FinishParameters()
    fan_out: FanOutParameters = FanOutParameters()
