"""Canvases of several subvolumes as tensors on one device: one step carries many fields of view at once.

    image    float32 (S, V)  normalised grey values of each subvolume
    closed   uint8   (S, V)  1 = no centre here: the rim, outside the mask, labelled
    belief   float32 (L, V)  logits of the object in each lane; NaN = not seen yet
    visited  uint8   (L, V)  1 = in a cell of the move lattice that this object has visited

Shape letters: S subvolumes, L lanes (each the belief about one object in progress), V voxels of a subvolume
in C order, all padded to one shape; B rows of a step (one field of view each), Z Y X field of view, K faces.

A voxel is one number, and so is a field of view: that of its first voxel. `_windows` shows every field of
view of a flat tensor as one view (N, Z, Y, X) with strides (1, a plane, a line, 1), so B of them are gathered
or scattered by B numbers in a single indexing operation. A step is as large as its moves, rounded up to a
power of two, so that the network sees few shapes, each at one address; a row without a move points at a
scratch area behind the last voxel. Nothing here waits for the device but
`collect`, `sample` and `download`. On a CPU with a C compiler `ffn.native.windows` gathers and scatters, in
fewer passes over memory; the results are the same.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ffn.canvas import Thresholds
from ffn.config import Triple
from ffn.engine import next_power_of_two
from ffn.faces import face_places, least_count
from ffn.native.windows import NativeWindows
from ffn.network import IMAGE, SEED

AHEAD = 8
"""So many queued positions of each object are looked up in a step, for the host to choose the next from."""

Box = tuple[slice, slice, slice]

_INFINITY, _NAN = float("inf"), float("nan")
_HUGE = float(np.finfo(np.float32).max)


class Slot:
    """The host's side of one step under way: what it asks, int64 (B, 4 + AHEAD), and what is answered.

    Asked: field of view in the image, the same in the belief, cell in `visited`, seed voxel, queued voxels.
    Answered, float32: K scores (-inf = closed), K places on the faces, K beliefs there now, belief at the
    seed, beliefs at the queued voxels.
    """

    def __init__(self, batch: int, faces: int, device: torch.device) -> None:
        pinned = device.type != "cpu"
        self.asked = torch.empty((batch, 4 + AHEAD), dtype=torch.int64, pin_memory=pinned)
        self.answered = torch.empty((batch, 3 * faces + 1 + AHEAD), pin_memory=pinned)
        self.ready = torch.Event(device=device) if pinned else None


class DeviceCanvas:
    """The tensors of the subvolumes and lanes, and what a step does to them.

    `images` are normalised, `closed` says where no centre may ever be; both (Z, Y, X), one per subvolume. A
    step has from `least` to `batch` rows.
    """

    def __init__(
        self,
        images: Sequence[NDArray[np.float32]],
        closed: Sequence[NDArray[np.bool_]],
        *,
        fov_zyx: Triple,
        deltas_zyx: Triple,
        thresholds: Thresholds,
        lanes: int,
        batch: int,
        least: int,
        device: torch.device,
        memory_format: torch.memory_format,
    ) -> None:
        self._least = least
        self.device, self.batch, self.fov_zyx, self.thresholds = device, batch, fov_zyx, thresholds
        z, y, x = np.max([fov_zyx, *(image.shape for image in images)], axis=0).tolist()
        self._shape: Triple = (int(z), int(y), int(x))
        self._strides: Triple = (self._shape[1] * self._shape[2], self._shape[2], 1)
        self._voxels = self._shape[0] * self._strides[0]
        self.native = NativeWindows.where_possible(
            device, fov_zyx, plane=self._strides[0], line=self._strides[1]
        )
        self._image, boxes = self._allocate(len(images), 0.0, torch.float32)
        self._closed, self._closed_boxes = self._allocate(len(images), 1, torch.uint8)
        self._belief, self._belief_boxes = self._allocate(lanes, float("nan"), torch.float32)
        self._visited, self._visited_boxes = self._allocate(lanes, 0, torch.uint8)
        self.idle_row = [len(images) * self._voxels] + [lanes * self._voxels] * (3 + AHEAD)
        """What a row without a move asks: everything in the scratch areas."""
        for number, (image, shut) in enumerate(zip(images, closed, strict=True)):
            z, y, x = image.shape
            boxes[number, :z, :y, :x] = torch.from_numpy(image)
            self._closed_boxes[number, :z, :y, :x] = torch.from_numpy(shut)
        cell: Triple = tuple(max(d, 1) for d in deltas_zyx)  # type: ignore[assignment]
        self._image_windows = self._windows(self._image, fov_zyx)
        self._belief_windows = self._windows(self._belief, fov_zyx)
        self._visited_windows = self._windows(self._visited, cell)
        self._make_tables(deltas_zyx)
        self._make_buffers(memory_format)

    def voxel(self, number: int, position: Sequence[int]) -> int:
        """The number of a voxel of a subvolume or lane."""
        (z, y, x), (plane, line, _) = position, self._strides
        return number * self._voxels + z * plane + y * line + x

    def begin(self, lane: int, seed_zyx: Triple) -> None:
        """Sets the seed voxel of a cleared lane to the initial activation."""
        self._belief[self.voxel(lane, seed_zyx)] = self.thresholds.init

    def clear(self, lane: int, box: Box) -> None:
        """Forgets what the object in a lane believed and visited; all of it lies in `box`."""
        self._belief_boxes[(lane, *box)] = float("nan")
        self._visited_boxes[(lane, *box)] = 0

    def put(self, lane: int, box: Box, belief: NDArray[np.float32]) -> None:
        """Fills a box of a lane."""
        self._belief_boxes[(lane, *box)] = torch.from_numpy(belief).to(self.device)

    def download(self, lane: int, box: Box) -> NDArray[np.float32]:
        """What is believed in a box of a lane; waits for all steps under way."""
        belief: NDArray[np.float32] = self._belief_boxes[(lane, *box)].cpu().numpy()
        return belief

    def close(self, number: int, box: Box, taken: NDArray[np.bool_]) -> None:
        """No centre any more where a subvolume is labelled."""
        self._closed_boxes[(number, *box)] |= torch.from_numpy(taken).to(self.device)

    def sample(self, voxels: Sequence[int]) -> list[float]:
        """What is believed at up to AHEAD + 1 voxels of lanes; waits for all steps under way."""
        padded = [*voxels, *self.idle_row[1 : AHEAD + 2 - len(voxels)]]
        values: list[float] = self._belief[torch.tensor(padded, device=self.device)].tolist()
        return values[: len(voxels)]

    def step(self, slot: Slot, ranks: Sequence[slice], network: Callable[[Tensor], Tensor]) -> None:
        """Evaluates B fields of view and moves the beliefs on; the answers come with `collect`.

        All are seen by the network as they are now. Rows of one rank lie in different lanes; those of the
        next rank are written after them, so that the disco rule finds what earlier moves of the object wrote.
        Rows behind the last rank carry no move. On an accelerator they fall into the scratch areas; in C they
        are left as they are.
        """
        used = slice(0, self.rows_of(ranks[-1].stop))
        if self.native is None and len(ranks) == 1:
            ranks = [used]
        with torch.inference_mode():
            asked = self._asked[used]
            asked.copy_(slot.asked[used], non_blocking=True)
            image_at, belief_at, cell_at = asked[:, 0], asked[:, 1], asked[:, 2]
            self._look(image_at, belief_at, used)
            logits = network(self.seen[used])
            for number, rows in enumerate(ranks):
                self._write(logits[rows], belief_at[rows], self._old[rows], first=number == 0)
            self._visited_windows[cell_at] = self._one
            slot.answered[used].copy_(self._answers(asked, used), non_blocking=True)
            if slot.ready is not None:
                slot.ready.record()

    def rows_of(self, moves: int) -> int:
        """How many rows a step of so many moves has."""
        rows = moves if self.native is not None else next_power_of_two(moves)
        return min(max(rows, self._least), self.batch)

    def collect(self, slot: Slot) -> list[list[float]]:
        """Waits for the answers of a step, row by row."""
        if slot.ready is not None:
            slot.ready.synchronize()
        rows: list[list[float]] = slot.answered.tolist()
        return rows

    def _look(self, image_at: Tensor, belief_at: Tensor, rows: slice) -> None:
        """`Canvas.gather`, into what the network sees; on an accelerator the belief as it is into `_old`."""
        image, belief, pad = self.seen[rows, IMAGE], self.seen[rows, SEED], self.thresholds.pad
        if self.native is not None:
            self.native.gather(self._image, image_at, image, unseen=_NAN)
            self.native.gather(self._belief, belief_at, belief, unseen=pad)
            return
        torch.ops.aten.index.Tensor_out(self._image_windows, [image_at], out=image)
        old = self._old[rows]
        torch.ops.aten.index.Tensor_out(self._belief_windows, [belief_at], out=old)
        torch.nan_to_num(old, nan=pad, posinf=_INFINITY, neginf=-_INFINITY, out=belief)

    def _write(self, logits: Tensor, at: Tensor, old: Tensor, *, first: bool) -> None:
        """`Canvas.scatter` of rows in different lanes; `old` (rows, Z, Y, X) becomes what is written.

        But for the `first` rank, an earlier move may have written where these do, so the belief is not `old`.
        """
        if self.native is not None:
            move, least = self.thresholds.move, self._disco_count
            self.native.scatter(self._belief, at, logits, old, move=move, least=least)
            return
        if not first:
            torch.ops.aten.index.Tensor_out(self._belief_windows, [at], out=old)
        self._obey_disco(logits, old)
        self._belief_windows[at] = old

    def _obey_disco(self, logits: Tensor, old: Tensor) -> None:
        """`old` (rows, Z, Y, X) becomes what `Canvas.scatter` would write: the logits, under the disco rule.

        Each old logit bounds the new one; those from `limit` on, and unseen ones (NaN), get a bound that
        nothing exceeds. In float arithmetic: one buffer will do, and no masks.
        """
        if self._disco_count is None:
            old.copy_(logits)
            return
        bound = self._bound[: len(logits)]
        torch.ge(logits, self.thresholds.move, out=bound)  # 1.0 or 0.0
        holds = bound.sum((1, 2, 3), keepdim=True) >= self._disco_count
        limit = torch.where(holds, 0.0, -_INFINITY)
        torch.ge(old, limit, out=bound)
        torch.add(old, bound, alpha=_HUGE, out=bound)
        torch.nan_to_num(bound, nan=_INFINITY, posinf=_INFINITY, neginf=-_INFINITY, out=bound)
        torch.minimum(logits, bound, out=old)

    def _answers(self, asked: Tensor, rows: slice) -> Tensor:
        """Float32 (rows, 3 K + 1 + AHEAD), the columns of `Slot.answered`."""
        image_at, belief_at = asked[:, 0], asked[:, 1]
        faces = self._old[rows].flatten(1).index_select(1, self._places)
        scores, places = faces.view(len(asked), self.faces, -1).max(2)  # the first maximum of each face
        offsets = self._reach[
            places + self._first_of_face
        ]  # (rows, K) from the first voxel of the field of view
        in_lane = belief_at[:, None] + offsets
        closed = self._closed[image_at[:, None] + offsets] | self._visited[in_lane]
        return torch.cat(
            (
                scores.masked_fill_(closed > 0, -_INFINITY),
                places.float(),
                self._belief[in_lane],
                self._belief[asked[:, 3:]],
            ),
            dim=1,
        )

    def _allocate(self, count: int, value: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """A flat tensor with a scratch area for one field of view, and its boxes (count, Z, Y, X)."""
        scratch = self.fov_zyx[0] * self._strides[0]
        flat = self._filled((count * self._voxels + scratch,), value, dtype)
        return flat, flat[: count * self._voxels].view(count, *self._shape)

    def _filled(self, shape: tuple[int, ...], value: float, dtype: torch.dtype = torch.float32) -> Tensor:
        """A tensor of one value; on a CPU numpy asks for huge pages, which spares a fifth of every gather."""
        if self.device.type != "cpu":
            return torch.full(shape, value, dtype=dtype, device=self.device)
        return torch.from_numpy(np.empty(shape, np.dtype(str(dtype).removeprefix("torch.")))).fill_(value)

    def _windows(self, flat: Tensor, shape_zyx: Triple) -> Tensor:
        span = sum((n - 1) * s for n, s in zip(shape_zyx, self._strides, strict=True)) + 1
        return flat.as_strided((flat.numel() - span + 1, *shape_zyx), (1, *self._strides))

    def _make_tables(self, deltas_zyx: Triple) -> None:
        places, self.offsets = face_places(self.fov_zyx, deltas_zyx)
        """Offsets zyx from the centre, by face and place on it."""
        self.faces = len(places)
        corner = [-(n // 2) for n in self.fov_zyx]
        reach = [[self.voxel(0, np.subtract(o, corner).tolist()) for o in face] for face in self.offsets]
        self._places = torch.from_numpy(places.reshape(-1)).to(self.device)
        self._reach = torch.tensor(reach, device=self.device).reshape(-1)
        self._first_of_face = torch.arange(self.faces, device=self.device) * places.shape[1]
        self._disco_count = least_count(self.thresholds.disco, int(np.prod(self.fov_zyx)))

    def _make_buffers(self, memory_format: torch.memory_format) -> None:
        """What every step works in; it keeps its address and shape for good."""
        batch, device = self.batch, self.device
        self.seen = self._filled((batch, 2, *self.fov_zyx), 0.0).contiguous(memory_format=memory_format)
        self._old = self._filled((batch, *self.fov_zyx), 0.0)
        self._bound = self._filled((batch, *self.fov_zyx), 0.0)
        self._asked = torch.zeros((batch, 4 + AHEAD), dtype=torch.int64, device=device)
        self._one = torch.tensor(1, dtype=torch.uint8, device=device)
