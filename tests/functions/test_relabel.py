"""Relabel, and with it the promise of the whole: a labelled volume cut up and joined is the same volume."""

import random
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from functions import relabel
from functions.model.errors import UpstreamError, VolumeError
from functions.model.geometry import Box, cut_box
from functions.plan import perform as plan
from functions.relabel import Piece, paint
from functions.runtime import execute
from functions.store.files import write_json
from functions.store.labels import labels_ref, prepared_labels
from functions.store.run import Run
from functions.store.volumes import Volume
from functions.tasks import PlanTask
from tests.functions.aligned_runs import ScrambledTruth, make_run, segment_all, voronoi


def fan_out(run: Run, step: str, *, shards: int, order: random.Random) -> None:
    """Plan a step and run its shards in a shuffled order, through the wire contract."""
    task = {"run": run.spec.to_json(), "step": step, "function_id": "f", "shards": shards}
    planned = list(plan(PlanTask.parse(task, source="test")).tasks)
    order.shuffle(planned)
    for shard in planned:
        execute(step, shard.kwargs["task"])


def label_all(run: Run, *, shards: int = 1, seed: int = 0) -> np.ndarray:
    """Match, reconcile and relabel a segmented run; return the global labels."""
    order = random.Random(seed)
    fan_out(run, "match", shards=shards, order=order)
    execute("reconcile", {"run": run.spec.to_json()})
    fan_out(run, "relabel", shards=shards, order=order)
    ref = prepared_labels(run)
    return Volume.open(run.work, ref).read(ref.box)


def same_partition(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two label arrays differ in names only."""
    pairs = np.unique(np.stack([a.ravel(), b.ravel()]), axis=1)
    return len(np.unique(pairs[0])) == pairs.shape[1] == len(np.unique(pairs[1]))


@st.composite
def cuts(draw: st.DrawFn) -> dict[str, object]:
    size = draw(st.tuples(*[st.integers(5, 14)] * 3))
    overlap = tuple(draw(st.integers(1, n - 4)) for n in size)
    chunk = draw(st.tuples(*[st.integers(2, 9)] * 3))
    return {
        "segment": {"subvolume_zyx_px": size, "overlap_zyx_px": overlap},
        "reconcile": {"min_voxels": 1, "min_iou": 0.9, "chunk_zyx_px": chunk},
    }


@settings(max_examples=12, deadline=None)
@given(
    shape=st.tuples(st.integers(6, 14), st.integers(8, 18), st.integers(8, 18)),
    cells=st.integers(2, 40),
    seed=st.integers(0, 2**31),
    shards=st.integers(1, 7),
    parameters=cuts(),
)
def test_a_volume_cut_up_and_joined_is_the_same_volume(
    shape: tuple[int, int, int], cells: int, seed: int, shards: int, parameters: dict[str, object]
) -> None:
    truth = voronoi(shape, cells, seed)
    truth[truth == cells] = 0
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(Path(folder), truth, **parameters)  # type: ignore[arg-type]
        segment_all(run, ScrambledTruth())
        labels = label_all(run, shards=shards, seed=seed)
    assert ((labels == 0) == (truth == 0)).all()
    assert same_partition(labels, truth)
    assert set(labels.ravel().tolist()) - {0} == set(range(1, int(labels.max()) + 1))


def test_bytes_do_not_depend_on_shards_or_order(tmp_path: Path) -> None:
    truth = voronoi((12, 40, 40), 30, seed=7)
    parameters = {
        "segment": {"subvolume_zyx_px": (8, 20, 20), "overlap_zyx_px": (4, 8, 8)},
        "reconcile": {"min_voxels": 1, "chunk_zyx_px": (4, 8, 16)},
    }
    found = []
    for shards in (1, 5):
        run = make_run(tmp_path / str(shards), truth, **parameters)  # type: ignore[arg-type]
        segment_all(run, ScrambledTruth())
        label_all(run, shards=shards, seed=shards)
        root = run.work / prepared_labels(run).path
        found.append({p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()})
    assert found[0] == found[1]
    assert len(found[0]) == 1 + 3 * 5 * 3


def piece(start: int, own: tuple[int, int], *labels: int) -> Piece:
    return Piece(
        box=Box(offset_zyx=(0, 0, start), shape_zyx=(1, 1, len(labels))),
        own=Box(offset_zyx=(0, 0, own[0]), shape_zyx=(1, 1, own[1] - own[0])),
        labels=np.array(labels, np.uint32).reshape(1, 1, -1),
    )


@pytest.mark.parametrize("vote", [False, True])
def test_of_two_the_owner_decides_and_the_other_fills(vote: bool) -> None:
    box = Box(offset_zyx=(0, 0, 10), shape_zyx=(1, 1, 6))
    pieces = [piece(10, (10, 13), 1, 0, 1, 2, 3), piece(11, (13, 16), 7, 8, 9, 0, 9)]
    assert paint(box, pieces, vote=vote, fill=False).ravel().tolist() == [1, 0, 1, 9, 0, 9]
    assert paint(box, pieces, vote=vote, fill=True).ravel().tolist() == [1, 7, 1, 9, 3, 9]


def test_of_three_two_outvote_the_owner() -> None:
    box = Box(offset_zyx=(0, 0, 0), shape_zyx=(1, 1, 4))
    pieces = [piece(0, (0, 4), 1, 1, 0, 1), piece(0, (0, 0), 2, 2, 2, 0), piece(0, (0, 0), 2, 3, 3, 3)]
    assert paint(box, pieces, vote=True, fill=True).ravel().tolist() == [2, 1, 2, 1]
    assert paint(box, pieces, vote=True, fill=False).ravel().tolist() == [2, 1, 0, 1]
    assert paint(box, pieces, vote=False, fill=True).ravel().tolist() == [1, 1, 2, 1]


def test_a_write_box_is_found_by_its_name(tmp_path: Path) -> None:
    run = make_run(tmp_path, voronoi((10, 26, 26), 15, seed=2), segment={"subvolume_zyx_px": (6, 12, 12)})
    ref = labels_ref(run)
    write_json(run.cell("relabel").file("labels.json"), ref.to_json())
    boxes = relabel.write_boxes(run)
    assert [relabel.write_box(run, box.id) for box in boxes] == boxes
    for unit in ("", "z00001_y00000_x00000", "z00000_y00000", "z99999_y00000_x00000", f"{boxes[0].id}0"):
        with pytest.raises(KeyError):
            relabel.write_box(run, unit)


def test_write_boxes_are_whole_chunks() -> None:
    boxes = list(cut_box((10, 33, 16), (4, 16, 16)))
    assert sum(box.voxels for box in boxes) == 10 * 33 * 16
    assert all(o % s == 0 for box in boxes for o, s in zip(box.offset_zyx, (4, 16, 16), strict=True))
    assert boxes[-1] == Box(offset_zyx=(8, 32, 0), shape_zyx=(2, 1, 16))


def test_relabel_before_reconcile_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path, voronoi((6, 8, 8), 3, seed=0))
    with pytest.raises(UpstreamError, match="start the run at reconcile"):
        relabel.units(run)


def test_damaged_global_labels_are_written_again_as_their_message_says(tmp_path: Path) -> None:
    """Removed with its cell is the array that reconcile prepares: relabel alone would not find it."""
    run = make_run(tmp_path, voronoi((8, 20, 20), 9, seed=2), segment={"subvolume_zyx_px": (8, 20, 20)})
    segment_all(run, ScrambledTruth())
    labels, cell = label_all(run), run.cell("relabel").path
    chunk = next(path for path in (cell / "labels.zarr/c").rglob("*") if path.is_file())
    chunk.write_bytes(chunk.read_bytes()[:9])
    ref = prepared_labels(run)
    with pytest.raises(VolumeError, match=f"remove {cell}, then .* --start-at reconcile "):
        Volume.open(run.work, ref).read(ref.box)
    shutil.rmtree(cell)
    with pytest.raises(UpstreamError, match="start the run at reconcile"):
        fan_out(run, "relabel", shards=1, order=random.Random(0))
    execute("reconcile", {"run": run.spec.to_json()})
    fan_out(run, "relabel", shards=1, order=random.Random(0))
    assert np.array_equal(Volume.open(run.work, ref).read(ref.box), labels)
