"""FEABAS 3.0.6 on one set: what its scripts do, and where points went. Run by the Python of the peers.

    python registration_feabas.py SET POINTS OUT --threads 1

The package on PyPI holds the library but neither its scripts nor its default configuration, so the steps are
called here, in the order of its documentation and with the defaults of its `default_*_configs.yaml`, in one
process (which spares it ten starts of the interpreter). `configs/general_configs.yaml` must lie in the
working folder before the package is imported. What differs from them is in `registration_feabas_settings.py`.
"""

import argparse
import csv
import json
import os
import resource
import time
from pathlib import Path

import numpy as np
from registration_feabas_settings import (
    BLOCKS,
    COMPARE_DISTANCE,
    DRAW_TILES,
    ELASTIC,
    FEATURES,
    GROUP,
    LOAD_TILES,
    MATCH_SECTIONS,
    MATCH_TILES,
    MESH_PX,
    MESH_SIZES,
    MESH_TILES,
    MESHING,
    TRANSLATION,
    WINDOW,
)


class Watch:
    """Seconds and CPU seconds by stage."""

    def __init__(self, started):
        self.seconds = {"start": time.time() - started}
        self.cpu = {"start": _cpu()}

    def run(self, stage, call, *args):
        """What `call` returns; its time counts for `stage`."""
        wall, cpu = time.perf_counter(), _cpu()
        out = call(*args)
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - wall
        self.cpu[stage] = self.cpu.get(stage, 0.0) + _cpu() - cpu
        return out


def _cpu():
    used = [resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


# -- tiles ------------------------------------------------------------------------------------------------


def stitch(folder, watch):
    """Match, optimise and draw the tiles of a set; the optimised stitcher and the pairs that it used."""
    import cv2
    from feabas import constant
    from feabas.stitcher import MontageRenderer, Stitcher

    with open(folder / "positions.csv", newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    height, width = cv2.imread(str(folder / "tiles" / rows[0]["file"]), cv2.IMREAD_GRAYSCALE).shape
    lines = [f"{{ROOT_DIR}}\t{folder / 'tiles'}", "{RESOLUTION}\t4.0", f"{{TILE_SIZE}}\t{height}\t{width}"]
    lines += [f"{row['file']}\t{row['x']}\t{row['y']}" for row in rows]
    Path("section.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    stitcher = Stitcher.from_coordinate_file("section.txt")
    watch.run("correlation", lambda: stitcher.dispatch_matchers(verbose=False, **MATCH_TILES))
    stitcher.save_to_h5("match.h5", save_matches=True, save_meshes=False)
    watch.run("solve", optimise_tiles, stitcher, constant)
    stitcher.save_to_h5("tform.h5", save_matches=False, save_meshes=True)

    def draw():
        renderer = MontageRenderer.from_h5("tform.h5", loader_settings=dict(LOAD_TILES))
        os.makedirs("stitched", exist_ok=True)
        renderer.render_one_section("stitched/section", meta_name="stitched/metadata.txt", **DRAW_TILES)

    watch.run("render", draw)
    order = [stitcher.imgrelpaths.index(row["file"]) for row in rows]
    place = {k: n for n, k in enumerate(order)}
    kept = sorted({tuple(sorted((place[int(a)], place[int(b)]))) for a, b in stitcher.matches})
    return [stitcher.meshes[k] for k in order], {"kept": np.array(kept, dtype=np.int64).reshape(-1, 2)}


def optimise_tiles(stitcher, constant):
    """Translations, then what all tiles share, then each tile's own mesh."""
    fixed, moving = constant.MESH_GEAR_FIXED, constant.MESH_GEAR_MOVING
    stitcher.filter_match_by_weight(0.1)
    stitcher.set_groupings(np.zeros(stitcher.num_tiles, dtype=np.int32))
    stitcher.initialize_meshes(MESH_SIZES, **MESH_TILES)
    stitcher.optimize_translation(target_gear=fixed, **TRANSLATION)
    stitcher.optimize_group_intersection(target_gear=fixed, **GROUP)
    stitcher.optimize_translation(target_gear=fixed, **TRANSLATION)
    stitcher.optimize_elastic(use_groupings=True, target_gear=fixed, **GROUP)
    stitcher.optimize_elastic(target_gear=moving, **ELASTIC)
    stitcher.normalize_coordinates(rotation_threshold=0.5, offset=[1, 1])
    if stitcher.connect_isolated_subsystem(explode_factor=1.0) > 1:
        stitcher.normalize_coordinates(rotation_threshold=0.5, offset=[1, 1])


# -- sections ---------------------------------------------------------------------------------------------


def align(folder, watch):
    """Match thumbnails, match finely, optimise and draw; the meshes and the matches of every pair."""
    import cv2
    from feabas import dal, mesh
    from feabas.aligner import Aligner

    files = sorted((folder / "sections").glob("*.png"))
    names = [file.stem for file in files]
    images = watch.run("reading", lambda: [cv2.imread(str(f), cv2.IMREAD_GRAYSCALE) for f in files])
    for name in ("thumbnails", "meshes", "matches", "tform", "aligned", "masks"):
        os.makedirs(name, exist_ok=True)
    watch.run("thumbnails", match_thumbnails, names, images)

    def build():
        for name, image in zip(names, images, strict=True):
            cv2.imwrite(f"masks/{name}.png", np.zeros_like(image))
            made = mesh.mesh_from_mask(f"masks/{name}.png", mesh_size=MESH_PX, resolution=4.0, **MESHING)
            made.save_to_h5(f"meshes/{name}.h5", save_material=True, override_dict={"name": name})

    watch.run("solve", build)
    loaders = {n: dal.StreamLoader(i, resolution=4.0, fillval=0) for n, i in zip(names, images, strict=True)}
    watch.run("correlation", match_sections, loaders)
    aligner = Aligner("meshes", "tform", "matches", section_list=names, mip_level=0)
    settings = {"stack_config": {"mip_level": 0}, "slide_window": dict(WINDOW), "chunked_to_depth": 0}
    watch.run("solve", lambda: aligner.run(num_workers=1, **settings))
    watch.run("render", draw_sections, loaders)
    placed = [mesh.Mesh.from_h5(f"tform/{n}.h5") if os.path.exists(f"tform/{n}.h5") else None for n in names]
    return placed, read_matches(names)


def match_thumbnails(names, images):
    """Rough matches of every section with the next two."""
    from feabas import thumbnail

    known = [
        thumbnail.prepare_image(i, mask=np.ones_like(i, dtype=np.uint16), resolution=4.0, **FEATURES)
        for i in images
    ]
    for step in range(1, COMPARE_DISTANCE + 1):
        for k in range(len(names) - step):
            thumbnail.align_two_thumbnails(
                known[k],
                known[k + step],
                f"thumbnails/{names[k]}__to__{names[k + step]}.h5",
                resolution=4.0,
                feature_matching=FEATURES,
                block_matching=BLOCKS,
                region_labels=[0],
            )


def match_sections(loaders):
    """Fine matches of all pairs that have rough ones."""
    from feabas.aligner import match_section_from_initial_matches

    for file in sorted(Path("thumbnails").glob("*.h5")):
        pair = [loaders[name] for name in file.stem.split("__to__")]
        match_section_from_initial_matches(str(file), "meshes", pair, "matches", MATCH_SECTIONS)


def draw_sections(loaders):
    """Every aligned section as PNG tiles, in the frame that holds them all."""
    from feabas import constant
    from feabas.mesh import Mesh
    from feabas.renderer import render_whole_mesh

    files = sorted(Path("tform").glob("*.h5"))
    moved = [Mesh.from_h5(str(file)) for file in files]
    corner = np.min([m.bbox(gear=constant.MESH_GEAR_MOVING, offsetting=True)[:2] for m in moved], axis=0)
    for file, section in zip(files, moved, strict=True):
        section.change_resolution(4.0)
        section.apply_translation(-corner, gear=constant.MESH_GEAR_MOVING)
        render_whole_mesh(
            section,
            loaders[file.stem],
            f"aligned/{file.stem}",
            num_workers=1,
            tile_size=[1024, 1024],
            pattern="_tr{ROW_IND}-tc{COL_IND}.png",
            one_based=True,
            remap_interp="LANCZOS",
        )


def read_matches(names):
    """The fine matches of each pair (N, 4: x, y in a, x, y in b)."""
    import h5py

    out = {}
    for file in Path("matches").glob("*.h5"):
        a, b = (names.index(name) for name in file.stem.split("__to__"))
        with h5py.File(file, "r") as archive:
            out[f"pair {a}-{b}"] = np.concatenate([archive["xy0"][()], archive["xy1"][()]], axis=1)
    return out


# -- where points went ------------------------------------------------------------------------------------


def follow(mesh, points_xy):
    """Points (N, 2) through a mesh: linear in each triangle, the nearest triangle's map beyond the mesh."""
    from feabas import constant
    from matplotlib.tri import Triangulation
    from scipy.spatial import KDTree

    before = mesh.vertices_w_offset(gear=constant.MESH_GEAR_INITIAL)
    after = mesh.vertices_w_offset(gear=constant.MESH_GEAR_MOVING)
    corners = mesh.triangles
    found = Triangulation(before[:, 0], before[:, 1], corners).get_trifinder()(
        points_xy[:, 0], points_xy[:, 1]
    )
    outside = found < 0
    if outside.any():
        found[outside] = KDTree(before[corners].mean(axis=1)).query(points_xy[outside])[1]
    a, b, c = (before[corners[found, k]] for k in range(3))
    edges = np.stack([b - a, c - a], axis=2)
    weight = np.linalg.solve(edges, (points_xy - a)[:, :, None])[:, :, 0]
    p, q, r = (after[corners[found, k]] for k in range(3))
    return p + weight[:, :1] * (q - p) + weight[:, 1:] * (r - p)


def answers(meshes, asked):
    """Where the asked points went; NaN in a section that was not aligned."""
    out, first = [], 0
    for index, length in zip(asked["index"], asked["length"], strict=True):
        points = asked["points_xy"][first : first + length]
        first += int(length)
        mesh = meshes[int(index)]
        out.append(np.full_like(points, np.nan) if mesh is None else follow(mesh, points))
    return np.concatenate(out)


def main():
    """Run the set and write `mapped.npz` and `figures.json`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("points", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--started", type=float, default=time.time())
    arguments = parser.parse_args()
    folder, points, out = (p.resolve() for p in (arguments.folder, arguments.points, arguments.out))
    work = out / "work"
    (work / "configs").mkdir(parents=True, exist_ok=True)
    general = f"working_directory: {work}\ncpu_budget: {arguments.threads}\nparallel_framework: process\n"
    general += "full_resolution: 4\nsection_thickness: 30\nlogfile_level: WARNING\nconsole_level: INFO\n"
    (work / "configs" / "general_configs.yaml").write_text(general, encoding="utf-8")
    (work / "configs" / "thumbnail_configs.yaml").write_text("thumbnail_mip_level: 0\n", encoding="utf-8")
    os.chdir(work)
    import cv2
    import feabas.aligner
    import feabas.stitcher  # noqa: F401

    cv2.setNumThreads(arguments.threads)
    watch = Watch(arguments.started)
    meshes, kept = (align if (folder / "sections").is_dir() else stitch)(folder, watch)
    cpu = _cpu()
    peak = max(resource.getrusage(w).ru_maxrss for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    with np.load(points) as archive:
        mapped = answers(meshes, dict(archive))
    np.savez(out / "mapped.npz", mapped_xy=mapped, **kept)
    figures = {
        "seconds": {stage: round(s, 2) for stage, s in sorted(watch.seconds.items())},
        "cpu": {stage: round(s, 2) for stage, s in sorted(watch.cpu.items())},
        "total": round(sum(watch.seconds.values()), 2),
        "cpu_seconds": round(cpu, 2),
        "peak_mb": round(peak / 1024),
        "refused": [k for k, mesh in enumerate(meshes) if mesh is None],
    }
    (out / "figures.json").write_text(json.dumps(figures), encoding="utf-8")


if __name__ == "__main__":
    main()
