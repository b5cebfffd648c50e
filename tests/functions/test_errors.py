"""Paths from outside metadata stay under their root."""

import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions.model.errors import UnsafePathError, safe_join


@pytest.mark.parametrize(
    "path", ["../x.tif", "a/../../x.tif", "/etc/passwd", r"..\..\x.tif", r"C:\x.tif", "", ".", "a\0b", "a/.."]
)
def test_paths_that_leave_the_folder_are_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(UnsafePathError, match=r"tiles\[3\]\.path"):
        safe_join(tmp_path, path, field="tiles[3].path")


def test_windows_separators_are_understood(tmp_path: Path) -> None:
    assert safe_join(tmp_path, r"tiles\g0\t1.tif", field="f") == tmp_path / "tiles" / "g0" / "t1.tif"


def test_a_link_that_leads_out_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "out").symlink_to(tmp_path)
    with pytest.raises(UnsafePathError, match="leaves root/"):
        safe_join(root, "out/secret.tif", field="f")


@given(st.text(alphabet=string.ascii_letters + "./\\:~\0 ", max_size=30))
def test_whatever_is_accepted_lies_under_the_root(text: str) -> None:
    root = Path("/tmp/acquisition")
    try:
        path = safe_join(root, text, field="f")
    except UnsafePathError:
        return
    assert path.is_relative_to(root.resolve())
