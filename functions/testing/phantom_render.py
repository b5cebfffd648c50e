"""Grey values of the phantom: what an electron microscope would see of neurites whose geometry is known."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from functions.testing.phantom_neurites import CentreLines, GrowthConfig

Float = NDArray[np.float32]
Labels = NDArray[np.uint32]


@dataclass(frozen=True, slots=True, kw_only=True)
class PhantomConfig:
    """What tissue to make. Grey values are 0..255; lengths are voxels."""

    seed: int = 0
    shape_zyx: tuple[int, int, int] = (48, 400, 400)
    voxel_size_zyx_nm: tuple[float, float, float] = (16.0, 16.0, 16.0)
    growth: GrowthConfig = field(default_factory=GrowthConfig)
    warp_amplitude: float = 4.0
    warp_scale: float = 24.0
    membrane_half_width: float = 1.6
    extracellular_fraction: float = 0.04
    mitochondria_per_ball: float = 0.05
    vesicle_clusters_per_ball: float = 0.06
    min_body_voxels: int = 1000
    cytoplasm_grey: float = 165.0
    membrane_grey: float = 62.0
    noise_grey: float = 11.0

    def __post_init__(self) -> None:
        if min(self.shape_zyx) < 16:
            raise ValueError(f"shape_zyx: {self.shape_zyx} must be at least 16 voxels on every axis")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tissue:
    """Geometry of the phantom, all (Z, Y, X): nearest ball's index, distance to the neurite's border, half
    the width of the extracellular gap, labels."""

    lines: CentreLines
    ball: NDArray[np.int32]
    depth: Float
    gap: Float
    labels: Labels


def render(tissue: Tissue, config: PhantomConfig, rng: np.random.Generator) -> NDArray[np.uint8]:
    """The image (Z, Y, X): cytoplasm, organelles, membranes, gaps, then blur and noise."""
    labels, depth, gap = tissue.labels, tissue.depth, tissue.gap
    tone = np.concatenate([[0], rng.normal(0, 7, int(labels.max()))]).astype(np.float32)
    image = config.cytoplasm_grey + tone[labels] + 5 * smooth_noise(labels.shape, scale=4.0, rng=rng)
    _add_mitochondria(image, tissue, config, rng)
    _add_vesicles(image, tissue, config, rng)
    image = np.where((labels == 0) & (gap > 0), config.cytoplasm_grey + 15, image)
    # A membrane follows each side of the gap; without a gap both are one dark line.
    membrane = np.exp(-(((depth - gap) / (0.8 * config.membrane_half_width)) ** 2))
    image += (config.membrane_grey - image) * membrane
    shed = (labels == 0) & (depth > config.membrane_half_width + gap)  # bodies too small to keep
    image = np.where(shed, config.membrane_grey + 25, image)
    image = ndimage.gaussian_filter(image, 0.6)
    grain = ndimage.gaussian_filter(rng.standard_normal(labels.shape, np.float32), 0.5)
    image += config.noise_grey * (grain / grain.std())
    return np.asarray(np.clip(np.rint(image), 0, 255), np.uint8)


def _add_mitochondria(image: Float, tissue: Tissue, config: PhantomConfig, rng: np.random.Generator) -> None:
    """Dark ellipsoids along the neurite with a darker rim and wavy cristae, where there is room for them."""
    centres = _deep_voxels(tissue, config.mitochondria_per_ball, min_depth=6.0, rng=rng)
    for centre in centres:
        z, y, x = (int(v) for v in centre)
        depth, ball = float(tissue.depth[z, y, x]), int(tissue.ball[z, y, x])
        parent = max(int(tissue.lines.parent[ball]), 0)
        axis = tissue.lines.points_zyx[ball] - tissue.lines.points_zyx[parent]
        axis = axis / max(float(np.linalg.norm(axis)), 1e-6)
        across, along = min(0.62 * depth, 6.5) * rng.uniform(0.8, 1.1), rng.uniform(7, 17)
        where = tuple(
            slice(max(0, int(c - along - 2)), min(n, int(c + along + 3)))
            for c, n in zip((z, y, x), image.shape, strict=True)
        )
        grid = np.meshgrid(*(np.arange(s.start, s.stop) for s in where), indexing="ij")
        offset = np.stack([g - c for g, c in zip(grid, (z, y, x), strict=True)], -1)
        u = offset @ axis
        shell = np.sqrt((u / along) ** 2 + ((offset**2).sum(-1) - u**2).clip(0) / across**2)
        body = (shell < 1) & (tissue.labels[where] == tissue.labels[z, y, x]) & (tissue.depth[where] > 2.6)
        cristae = 14 * np.sin(1.7 * u + 0.5 * offset[..., 1] + rng.uniform(0, 6))
        grey = np.where(shell > 1 - 1.4 / across, 82, 112 + cristae)
        image[where] = np.where(body, grey, image[where])


def _add_vesicles(image: Float, tissue: Tissue, config: PhantomConfig, rng: np.random.Generator) -> None:
    """Clusters of small dark vesicles."""
    centres = _deep_voxels(tissue, config.vesicle_clusters_per_ball, min_depth=3.5, rng=rng)
    dots = np.zeros(image.shape, np.float32)
    for centre in centres:
        places = np.rint(centre + rng.normal(0, 6.0, (int(rng.integers(15, 60)), 3))).astype(int)
        z, y, x = places[((places >= 0) & (places < image.shape)).all(1)].T
        home = int(tissue.labels[tuple(centre)])
        fits = (tissue.labels[z, y, x] == home) & (tissue.depth[z, y, x] > 2.8 + tissue.gap[z, y, x])
        dots[z[fits], y[fits], x[fits]] = 1
    dots = ndimage.gaussian_filter(dots, 0.9)
    image -= 55 * np.minimum(dots / 0.0871, 1)


def _deep_voxels(
    tissue: Tissue, per_ball: float, *, min_depth: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Random voxels (N, 3) inside neurites and far enough from their membranes."""
    wanted = round(per_ball * len(tissue.lines.radius))
    tries = rng.integers(0, tissue.labels.shape, (40 * wanted + 1, 3))
    z, y, x = tries.T
    fits = (tissue.labels[z, y, x] > 0) & (tissue.depth[z, y, x] - tissue.gap[z, y, x] > min_depth)
    return np.asarray(tries[fits][:wanted])


def smooth_noise(shape: tuple[int, ...], *, scale: float, rng: np.random.Generator) -> Float:
    """Noise of mean about 0 and deviation 1 that varies over `scale` voxels: a random cubic B-spline."""
    bases = [_spline_basis(n, scale) for n in shape]
    field = rng.normal(0, 1, [b.shape[1] for b in bases]).astype(np.float32)
    for axis, basis in enumerate(bases):
        field = np.moveaxis(np.tensordot(basis, field, (1, axis)), 0, axis)
    deviation = (151 / 315) ** (len(shape) / 2)  # of a cubic B-spline with independent unit coefficients
    return np.ascontiguousarray(field / np.float32(deviation))


def _spline_basis(n: int, scale: float) -> Float:
    t = np.arange(n) / scale
    i = np.floor(t).astype(int)
    u = t - i
    weights = np.stack([(1 - u) ** 3, 3 * u**3 - 6 * u**2 + 4, -3 * u**3 + 3 * u**2 + 3 * u + 1, u**3], 1) / 6
    basis = np.zeros((n, int(i.max()) + 4), np.float32)
    np.put_along_axis(basis, i[:, None] + np.arange(4), weights.astype(np.float32), 1)
    return basis
