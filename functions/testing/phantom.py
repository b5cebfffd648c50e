"""A synthetic piece of nerve tissue with exact truth: packed neurites with membranes, organelles and noise.

    centre lines -> power diagram of their balls, bent by a smooth warp -> labels and distance to the membrane
                 -> grey values: cytoplasm, membranes, extracellular gaps, mitochondria, vesicles -> noise

Everything follows from the seed. Arrays are zyx; lengths are voxels.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from skimage.measure import label as connected_components

from functions.testing.phantom_neurites import CentreLines, grow_neurites
from functions.testing.phantom_render import PhantomConfig, Tissue, render, smooth_noise

Float = NDArray[np.float32]
Labels = NDArray[np.uint32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Phantom:
    """`image` uint8 and `labels` uint32 (Z, Y, X); label 0 is membrane and extracellular space.

    Every label is one face-connected body of the volume.
    """

    config: PhantomConfig
    image: NDArray[np.uint8]
    labels: Labels


def make_phantom(config: PhantomConfig) -> Phantom:
    """The tissue of this configuration; the same configuration gives the same voxels."""
    rng = np.random.default_rng(config.seed)
    lines = grow_neurites(shape_zyx=config.shape_zyx, config=config.growth, rng=rng)
    ball, depth = _power_diagram(lines, config, rng)
    gap = _gap_half_width(config, rng)
    inside = depth > config.membrane_half_width + gap
    labels = _bodies(lines.neurite[ball], inside, config.min_body_voxels)
    tissue = Tissue(lines=lines, ball=ball, depth=depth, gap=gap, labels=labels)
    image = render(tissue, config, rng)
    return Phantom(config=config, image=image, labels=labels)


def _power_diagram(
    lines: CentreLines, config: PhantomConfig, rng: np.random.Generator
) -> tuple[NDArray[np.int32], Float]:
    """For every voxel the nearest ball's index, and the distance to the border with the next neurite.

    "Nearest" is by power distance d^2 - r^2, whose borders are planes: the difference of two power distances
    over twice the distance of the centres is the distance to the plane. A block of 16^3 looks only nearby.
    """
    shape = config.shape_zyx
    warp = [config.warp_amplitude * smooth_noise(shape, scale=config.warp_scale, rng=rng) for _ in range(3)]
    owner = np.zeros(shape, np.int32)
    depth = np.zeros(shape, np.float32)
    points, squared_radius = lines.points_zyx.astype(np.float32), (lines.radius**2).astype(np.float32)
    block, nearest = 16, min(72, len(points))
    for corner in np.ndindex(*(-(-n // block) for n in shape)):
        where = tuple(slice(c * block, min((c + 1) * block, n)) for c, n in zip(corner, shape, strict=True))
        grid = np.meshgrid(*(np.arange(s.start, s.stop, dtype=np.float32) for s in where), indexing="ij")
        query = np.stack([g + w[where] for g, w in zip(grid, warp, strict=True)], -1).reshape(-1, 3)
        centre = query.mean(0)
        power_at_centre = ((points - centre) ** 2).sum(1) - squared_radius
        near = np.argpartition(power_at_centre, nearest - 1)[:nearest]
        first, distance = _two_nearest(
            query - centre, points[near] - centre, squared_radius[near], lines.neurite[near]
        )
        owner[where] = near[first].reshape(owner[where].shape)
        depth[where] = distance.reshape(owner[where].shape)
    return owner, depth


def _two_nearest(
    query: Float, points: Float, squared_radius: Float, neurite: NDArray[np.int32]
) -> tuple[NDArray[np.int64], Float]:
    """Index (Q,) of the ball nearest to each query, and distance (Q,) to the border with another neurite."""
    power = ((points**2).sum(1) - squared_radius)[None] - 2 * query @ points.T  # d^2 - r^2 - |query|^2
    first = power.argmin(1)
    best = np.take_along_axis(power, first[:, None], 1)[:, 0]
    power[neurite[None] == neurite[first][:, None]] = np.inf
    second = power.argmin(1)
    other = np.take_along_axis(power, second[:, None], 1)[:, 0]
    centres = np.linalg.norm(points[first] - points[second], axis=1)
    distance = (other - best) / np.maximum(2 * centres, 1e-3)
    shown: Float = np.minimum(distance, 32.0).astype(np.float32)
    return first, shown


def _gap_half_width(config: PhantomConfig, rng: np.random.Generator) -> Float:
    """Half the extra width of the extracellular space: 0 nearly everywhere, up to 2.5 voxels in patches."""
    noise = smooth_noise(config.shape_zyx, scale=14.0, rng=rng)
    threshold = np.quantile(noise[::2, ::4, ::4], 1 - 4 * config.extracellular_fraction)
    return np.asarray(np.clip(1.5 * (noise - threshold), 0, 2.5))


def _bodies(owner: NDArray[np.int32], inside: NDArray[np.bool_], min_voxels: int) -> Labels:
    """Connected components of the neurites' insides; bodies too small to matter become extracellular."""
    components = connected_components(np.where(inside, owner, 0), background=0, connectivity=1)
    sizes = np.bincount(components.ravel())
    keep = sizes >= min_voxels
    keep[0] = False
    renumber = np.where(keep, np.cumsum(keep), 0).astype(np.uint32)
    return np.asarray(renumber[components])
