"""Provenance: a crate whose references all lead somewhere."""

from __future__ import annotations

import json
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from functions.publication import bundle, rocrate
from functions.store.cells import CODE_VERSION
from functions.store.run import Run
from tests.functions.finished import LICENSE


@pytest.fixture(scope="module")
def crate(finished: Run) -> tuple[Path, dict[str, dict[str, Any]]]:
    """The bundle and the entities of its crate by id."""
    folder = finished.cell("finish").file("bundle")
    document = json.loads((folder / rocrate.FILE).read_text())
    assert document["@context"] == "https://w3id.org/ro/crate/1.1/context"
    entities = {entity["@id"]: entity for entity in document["@graph"]}
    assert len(entities) == len(document["@graph"])
    return folder, entities


def test_descriptor_and_root_name_their_profiles(crate: tuple[Path, dict[str, dict[str, Any]]]) -> None:
    _, entities = crate
    descriptor = entities["ro-crate-metadata.json"]
    assert descriptor["conformsTo"] == {"@id": "https://w3id.org/ro/crate/1.1"}
    root = entities[descriptor["about"]["@id"]]
    assert root["conformsTo"] == {"@id": "https://w3id.org/ro/wfrun/process/0.5"}
    assert root["@type"] == "Dataset"
    assert root["license"] == {"@id": LICENSE}
    assert entities[root["creator"][0]["@id"]]["name"] == "Lab of Examples"
    assert datetime.fromisoformat(root["datePublished"])


def test_every_reference_is_described(crate: tuple[Path, dict[str, dict[str, Any]]]) -> None:
    _, entities = crate
    known = {*entities, rocrate.CRATE_PROFILE, "http://schema.org/CompletedActionStatus"}

    def references(value: Any) -> list[str]:
        if isinstance(value, dict):
            return (
                [value["@id"]]
                if set(value) == {"@id"}
                else [r for v in value.values() for r in references(v)]
            )
        return [r for v in value for r in references(v)] if isinstance(value, list) else []

    assert {r for entity in entities.values() for r in references(entity)} <= known


def test_parts_exist_in_the_bundle(crate: tuple[Path, dict[str, dict[str, Any]]]) -> None:
    folder, entities = crate
    for part in entities["./"]["hasPart"]:
        assert (folder / part["@id"]).exists()
    assert entities["report.html"]["contentSize"] == str((folder / "report.html").stat().st_size)


def test_one_action_a_step_with_times_from_marks(crate: tuple[Path, dict[str, dict[str, Any]]]) -> None:
    _, entities = crate
    actions = [e for e in entities.values() if e["@type"] == "CreateAction"]
    assert [a["name"] for a in actions] == [
        "ingest", "stitch", "align_pairs", "align_solve", "align_render",
        "segment", "match", "reconcile", "relabel", "finish",
    ]  # fmt: skip
    for action in actions:
        program = entities[action["instrument"]["@id"]]
        assert (program["@type"], program["version"]) == ("SoftwareApplication", CODE_VERSION)
        assert action["object"]
        assert action["result"]
        if action["name"] != "finish":
            assert datetime.fromisoformat(action["startTime"]) < datetime.fromisoformat(action["endTime"])
    stitch = entities["#stitch-action"]
    start, end = (datetime.fromisoformat(stitch[k]).timestamp() for k in ("startTime", "endTime"))
    assert start == 1_780_000_010.0
    assert end == pytest.approx(1_780_000_080.0 + 1.8)


def test_nothing_says_where_it_was_made(finished: Run) -> None:
    folder = finished.cell("finish").file("bundle")
    for name in (*bundle.DOCUMENTS, bundle.MANIFEST):
        text = re.sub(r"data:image/[a-z]+;base64,[A-Za-z0-9+/=]+", "", (folder / name).read_text())
        assert str(finished.work.parent) not in text
