"""The viewer's state: image and segmentation layers of a published volume.

Neuroglancer has no relative addresses, and a bundle does not know where it will lie. So the state in the
bundle has a placeholder, `{base_url}`, wherever the bundle's address belongs; `at` fills it in.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from functions.model.artefacts import UNSEEN
from functions.model.errors import TaskError
from functions.model.geometry import ZYX
from functions.publication.omezarr import ARTEFACTS, LABELS

FILE = "neuroglancer.json"
PLACEHOLDER = "{base_url}"


def template(
    *,
    shape_zyx: ZYX,
    voxel_size_zyx_nm: tuple[float, float, float],
    segment_ids: tuple[int, ...] = (),
) -> dict[str, Any]:
    """State with a placeholder, centred on the volume; `segment_ids` are shown in 3-d at first."""
    source = f"zarr3://{PLACEHOLDER}/volume.zarr"
    # x, y, z here alone: Neuroglancer shows the first two dimensions of a state in its main panel
    voxel_m = [float(f"{v * 1e-9:.9g}") for v in reversed(voxel_size_zyx_nm)]
    extent_nm = [n * v for n, v in zip(shape_zyx, voxel_size_zyx_nm, strict=True)]
    widest = max(extent_nm[1:])
    return {
        "dimensions": {name: [size, "m"] for name, size in zip("xyz", voxel_m, strict=True)},
        "position": [n // 2 + 0.5 for n in reversed(shape_zyx)],
        "crossSectionScale": max(widest / voxel_size_zyx_nm[2] / 480, 0.01),
        "projectionScale": max(extent_nm) / voxel_size_zyx_nm[2] * 1.5,
        "layers": [
            {"type": "image", "source": source, "tab": "rendering", "name": "image"},
            {
                "type": "segmentation",
                "source": f"{source}/labels/{LABELS}",
                "tab": "segments",
                "segments": [str(i) for i in segment_ids],
                "selectedAlpha": 0.3,
                "notSelectedAlpha": 0.2,
                "name": LABELS,
            },
            {
                "type": "segmentation",
                "source": f"{source}/labels/{ARTEFACTS}",
                "segments": [str(code) for code in UNSEEN if code],
                "visible": False,
                "name": ARTEFACTS,
            },
        ],
        "selectedLayer": {"layer": LABELS, "visible": True},
        "layout": "4panel-alt",
    }


def at(state: dict[str, Any], base_url: str) -> dict[str, Any]:
    """The state for a bundle served at `base_url` (http or https, with or without a final slash).

    Raises:
        TaskError: `base_url` is no web address.
    """
    if not base_url.startswith(("http://", "https://")):
        raise TaskError(f"base_url: {base_url!r} is no web address", remedy="give the bundle's https address")
    text = json.dumps(state).replace(PLACEHOLDER, json.dumps(base_url.rstrip("/"))[1:-1])
    filled: dict[str, Any] = json.loads(text)
    return filled


def compact(state: dict[str, Any]) -> str:
    """The state as JSON text of one line."""
    return json.dumps(state, separators=(",", ":"), sort_keys=False)


def link(state: dict[str, Any], *, viewer_url: str) -> str:
    """Address that opens the whole state in a Neuroglancer at `viewer_url`."""
    return f"{viewer_url.rstrip('/')}/#!{quote(compact(state), safe='')}"
