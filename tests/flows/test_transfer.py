"""The Transfer provider copies whole files and whole folders, and stays inside its collections."""

from __future__ import annotations

import os

import pytest

from flows.errors import ActionError
from flows.local import transfer as module
from flows.local.actions import Progress
from flows.local.search import LocalIndex
from flows.local.transfer import Collections, stat, transfer


@pytest.fixture
def sides(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    source = tmp_path / "a" / "acq"
    (source / "sub").mkdir(parents=True)
    (source / "x.bin").write_bytes(os.urandom(1000))
    (source / "sub" / "y.bin").write_bytes(b"")
    return Collections({"A": tmp_path / "a", "B": tmp_path / "b"}), tmp_path


def copy(collections, source="/acq", destination="/raw", recursive=True, progress=None):
    body = {
        "source_endpoint": "A",
        "destination_endpoint": "B",
        "DATA": [{"source_path": source, "destination_path": destination, "recursive": recursive}],
    }
    return transfer(collections, body, progress or Progress())


def test_copies_a_folder_whole(sides):
    collections, root = sides
    progress = Progress()
    result = copy(collections, progress=progress)
    assert result["files_transferred"] == 2
    assert result["bytes_transferred"] == 1000
    assert (progress.done, progress.total) == (2, 2)
    assert (root / "b/raw/x.bin").read_bytes() == (root / "a/acq/x.bin").read_bytes()
    assert sorted(p.name for p in (root / "b").iterdir()) == ["raw"]


def test_a_second_copy_moves_only_what_differs(sides):
    collections, root = sides
    copy(collections)
    assert copy(collections)["files_skipped"] == 2
    (root / "b/raw/x.bin").write_bytes(b"\0" * 1000)  # same size, other content
    result = copy(collections)
    assert (result["files_transferred"], result["files_skipped"]) == (1, 1)
    assert (root / "b/raw/x.bin").read_bytes() == (root / "a/acq/x.bin").read_bytes()


def test_a_cancelled_copy_shows_nothing_and_goes_on_later(sides):
    collections, root = sides
    progress = Progress()
    progress.stop.set()
    with pytest.raises(ActionError, match="cancelled"):
        copy(collections, progress=progress)
    assert not (root / "b/raw").exists()
    partial = root / "b/.raw.partial"
    (partial / "stale.bin").write_bytes(b"left by an earlier try")
    (partial / "x.bin").write_bytes((root / "a/acq/x.bin").read_bytes())
    assert copy(collections)["files_skipped"] == 1
    assert sorted(p.name for p in (root / "b/raw").iterdir()) == ["sub", "x.bin"]
    assert not partial.exists()


def test_a_copy_that_differs_is_never_shown(sides, monkeypatch):
    collections, root = sides
    monkeypatch.setattr(module, "_sha256", lambda path: "not it")
    with pytest.raises(OSError, match="checksum differs"):
        copy(collections)
    assert not (root / "b/raw").exists()


@pytest.mark.parametrize("path", ["/../b", "/acq/../../b", "/acq/\0"])
@pytest.mark.parametrize("side", ["source", "destination"])
def test_paths_stay_in_their_collection(sides, path, side):
    with pytest.raises(ActionError, match="leaves its collection"):
        copy(sides[0], **{side: path})


def test_links_do_not_lead_out(sides):
    collections, root = sides
    (root / "secret").write_text("s")
    (root / "a/acq/inside").symlink_to("x.bin")
    copy(collections, destination="/with-inner-link")
    assert (root / "b/with-inner-link/inside").read_bytes() == (root / "a/acq/x.bin").read_bytes()
    (root / "a/acq/outside").symlink_to(root / "secret")
    with pytest.raises(ActionError, match="outside: a link that leaves the folder"):
        copy(collections)
    (root / "b/way-out").symlink_to(root)
    with pytest.raises(ActionError, match="by a link"):
        copy(collections, source="/acq/x.bin", destination="/way-out/x.bin", recursive=False)


def test_a_linked_folder_that_leads_out_is_refused(sides):
    collections, root = sides
    (root / "elsewhere").mkdir()
    (root / "a/acq/linked").symlink_to(root / "elsewhere")
    with pytest.raises(ActionError, match="linked: a link that leaves the folder"):
        copy(collections)


@pytest.mark.parametrize(
    ("source", "recursive", "message"),
    [
        ("/none", True, "does not exist"),
        ("/acq", False, "a folder"),
        ("/acq/x.bin", True, "not a folder"),
    ],
)
def test_refuses_what_is_not_as_said(sides, source, recursive, message):
    with pytest.raises(ActionError, match=message):
        copy(sides[0], source=source, recursive=recursive)


def test_stat(sides):
    facts = stat(sides[0], {"endpoint_id": "A", "path": "/acq/x.bin"}, Progress())
    assert (facts["name"], facts["type"], facts["size"]) == ("x.bin", "file", 1000)
    with pytest.raises(ActionError, match="does not exist"):
        stat(sides[0], {"endpoint_id": "A", "path": "/acq/z"}, Progress())


def test_index_keeps_one_entry_a_subject(tmp_path):
    index = LocalIndex(tmp_path / "index.sqlite")
    entry = {
        "search_index": "i",
        "subject": "s",
        "id": "volume",
        "visible_to": ["urn:x"],
        "content": {"v": 1},
    }
    index.ingest(entry, Progress())
    index.ingest({**entry, "content": {"v": 2}}, Progress())
    index.ingest({**entry, "subject": "t"}, Progress())
    assert index.entries(search_index="i") == [
        {"subject": "s", "id": "volume", "content": {"v": 2}},
        {"subject": "t", "id": "volume", "content": {"v": 1}},
    ]
    with pytest.raises(ActionError, match="visible_to"):
        index.ingest({**entry, "visible_to": []}, Progress())
