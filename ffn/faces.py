"""Tables for batches: where the faces of the move cube lie, and from how many voxels the disco rule holds."""

import numpy as np
from numpy.typing import NDArray

from ffn.config import Triple


def face_places(
    fov_zyx: Triple, deltas_zyx: Triple
) -> tuple[NDArray[np.int64], tuple[tuple[Triple, ...], ...]]:
    """The voxels of each face of the cube of `deltas_zyx`, in the order of `movement.face_maxima`.

    Places int64 (K, M) in a flattened field of view, and the same as offsets from its centre. A face smaller
    than the largest is filled up by its first voxel, which leaves its first maximum what it was. An axis
    without a delta has no faces.
    """
    centre = [n // 2 for n in fov_zyx]
    faces: list[list[Triple]] = []
    for axis, delta in enumerate(deltas_zyx):
        for step in (-delta, delta) if delta > 0 else ():
            ranges = [range(-d, d + 1) for d in deltas_zyx]
            ranges[axis] = range(step, step + 1)
            faces.append([(z, y, x) for z in ranges[0] for y in ranges[1] for x in ranges[2]])
    longest = max(len(face) for face in faces)
    offsets = tuple((*face, *face[:1] * (longest - len(face))) for face in faces)
    positions = np.array(offsets, np.int64) + centre
    places = positions @ np.array([fov_zyx[1] * fov_zyx[2], fov_zyx[2], 1], np.int64)
    return places, offsets


def least_count(fraction: float | None, voxels: int) -> int | None:
    """The least number of voxels that is more than `fraction` of them; None without a rule.

    Integers compare alike on every device, fractions in single precision need not.
    """
    if fraction is None:
        return None
    guess = max(int(fraction * voxels) - 1, 0)
    while guess / voxels <= fraction:
        guess += 1
    return guess
