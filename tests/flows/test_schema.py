"""The input schema takes what build_input makes and refuses the rest."""

from __future__ import annotations

import copy
import json

import pytest
from jsonschema import Draft7Validator

from flows.errors import InputError
from flows.inputs import RunRequest, acquisition_name, build_input
from flows.local.registered import function_ids
from flows.schema import check_input, input_schema
from flows.site import Collection, Site, load_site, local_site
from functions.model.parameters import Parameters

FUNCTIONS = function_ids("functions.entrypoints")


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "brain 7"
    folder.mkdir()
    return folder


@pytest.fixture
def site(tmp_path) -> Site:
    return local_site(tmp_path / "home", workers=1)


def test_is_a_draft_7_schema_without_references():
    Draft7Validator.check_schema(input_schema())
    text = json.dumps(input_schema())
    assert "$ref" not in text
    assert "prefixItems" not in text


def test_takes_a_built_input(source, site):
    document = build_input(RunRequest(source=str(source)), site, functions=FUNCTIONS)
    assert check_input(document) == []
    facts = document["input"]
    assert facts["acquisition_id"] == "brain_7"
    assert facts["run"]["work"].endswith("/home/scratch/brain_7/work")
    assert facts["work"]["path"] == "/brain_7/work"
    assert facts["raw"]["path"] == "/brain_7/raw"
    assert facts["publication"]["path"] == "/brain_7"
    assert facts["source"]["path"] == str(source)
    assert "permission" not in facts


@pytest.mark.parametrize(
    ("place", "value", "named"),
    [
        (("shards",), 201, "input.shards"),
        (("start_at",), "sew", "input.start_at"),
        (("secret",), "x", "secret"),
        (("raw", "path"), "/a/../b", "input.raw.path"),
        (("raw", "path"), "relative", "input.raw.path"),
        (("compute", "functions", "plan"), "plan", "input.compute.functions.plan"),
        (("run", "parameters", "segment", "overlap_zyx_px"), [1, 2], "overlap_zyx_px"),
        (("run", "parameters", "segment", "overlap_zyx_px"), [1, 2, 3, 4], "overlap_zyx_px"),
        (("run", "parameters", "stitch", "no_such"), 1, "no_such"),
    ],
)
def test_refuses_and_names_the_field(source, site, place, value, named):
    document = copy.deepcopy(build_input(RunRequest(source=str(source)), site, functions=FUNCTIONS))
    node = document["input"]
    for key in place[:-1]:
        node = node[key]
    node[place[-1]] = value
    errors = check_input(document)
    assert len(errors) == 1
    assert named in errors[0]


def test_sections_of_the_request_win(source, site):
    request = RunRequest(source=str(source), sections=(3, 9), parameters=Parameters())
    facts = build_input(request, site, functions=FUNCTIONS)["input"]
    assert facts["run"]["parameters"]["ingest"]["sections"] == [3, 9]


def test_refuses_steps_in_the_wrong_order(source, site):
    request = RunRequest(source=str(source), start_at="segment", stop_after="stitch")
    with pytest.raises(InputError, match="start_at: segment comes after stop_after: stitch"):
        build_input(request, site, functions=FUNCTIONS)


def test_refuses_a_missing_folder(tmp_path, site):
    with pytest.raises(InputError, match="not a folder"):
        build_input(RunRequest(source=str(tmp_path / "none")), site, functions=FUNCTIONS)


def test_name_comes_from_the_manifest(source):
    (source / "acquisition.json").write_text('{"id": "mouse-3"}')
    assert acquisition_name(source) == "mouse-3"
    (source / "acquisition.json").write_text("{")
    with pytest.raises(InputError, match=r"acquisition.json: not JSON"):
        acquisition_name(source)


def test_profile_from_toml(tmp_path):
    site = local_site(tmp_path)
    lines = ['name = "polaris"', "workers = 4", f'search_index = "{site.search_index}"']
    lines += [f'search_visible_to = ["{site.search_visible_to[0]}"]']
    for name in ("instrument", "scratch", "publication"):
        lines += [f"[{name}]", f'id = "{site.scratch.id}"', f'base_path = "/lus/{name}"']
    lines += [
        "[compute]", f'endpoint_id = "{site.compute.endpoint_id}"',
        "[compute.user_endpoint_config]", 'queue = "debug"',
    ]  # fmt: skip
    (tmp_path / "sites").mkdir()
    (tmp_path / "sites" / "polaris.toml").write_text("\n".join(lines))
    loaded = load_site("polaris", home=tmp_path)
    assert loaded.scratch == Collection(id=site.scratch.id, base_path="/lus/scratch")
    assert loaded.compute.user_endpoint_config == {"queue": "debug"}
    assert not loaded.embedded


def test_profile_errors_name_file_and_field(tmp_path):
    (tmp_path / "x.toml").write_text('name = "x"\nworker = 3')
    with pytest.raises(Exception, match=r"x\.toml: .*worker: Extra inputs"):
        load_site(str(tmp_path / "x.toml"), home=tmp_path)
    with pytest.raises(Exception, match=r"no such site profile"):
        load_site("nowhere", home=tmp_path)
