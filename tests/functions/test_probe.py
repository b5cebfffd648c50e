"""The probe: what a worker says of itself, with a broken environment too."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version

from functions import probe
from functions.runtime import execute


def test_it_names_versions_devices_and_pins(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.delenv("ZE_AFFINITY_MASK", raising=False)
    found = execute("probe", {})
    assert (found["status"], found["problems"]) == ("ok", [])
    assert found["paths"]["python"] == sys.version.split()[0]
    assert found["paths"]["petavoxel"] == version("petavoxel")
    assert found["paths"]["globus-compute-sdk"] == version("globus-compute-sdk")
    assert found["paths"]["CUDA_VISIBLE_DEVICES"] == "3"
    assert "ZE_AFFINITY_MASK" not in found["paths"]
    assert found["figures"]["cuda_devices"] >= 0
    assert len(json.dumps(found)) < 2000


def test_what_is_not_installed_is_said(monkeypatch):
    monkeypatch.setattr(probe, "PACKAGES", ("petavoxel", "no-such-package-anywhere"))
    assert execute("probe", {})["paths"]["no-such-package-anywhere"] == "not installed"


def test_folders_and_markers_are_looked_for(tmp_path):
    (tmp_path / "marker").touch()
    asked = [str(tmp_path), str(tmp_path / "marker"), str(tmp_path / "nothing")]
    folder, marker, nothing = execute("probe", {"folders": asked})["folders"]
    assert [folder["exists"], marker["exists"], nothing["exists"]] == [True, True, False]
    assert (folder["writable"], marker["writable"]) == (True, True)
    assert folder["free_gib"] > 0
    assert nothing == {"path": str(tmp_path / "nothing"), "exists": False, "writable": False, "free_gib": 0.0}


def test_a_torch_that_does_not_load_is_a_problem_not_a_failure(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    found = execute("probe", {})
    assert (found["status"], found["paths"]["torch"]) == ("failed", "not installed")
    (problem,) = found["problems"]
    assert (problem["code"], problem["subject"][:19]) == ("torch", "ModuleNotFoundError")


def test_a_shadowed_name_is_a_problem(tmp_path):
    (tmp_path / "flows").mkdir()
    (tmp_path / "flows" / "__init__.py").touch()
    code = (
        "import sys; from functions import probe\n"
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        "print([p.subject for p in probe._shadowed()])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"['flows: {tmp_path}']"


def test_importing_it_loads_no_array_library():
    code = "import sys, functions.probe; print({'torch', 'numpy', 'zarr'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
