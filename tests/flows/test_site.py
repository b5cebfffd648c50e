"""Site profiles: strict, ready-made ones complete once filled in, people named and few."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.endpoint import READY_MADE, config_problems, new_profile
from flows.errors import SiteError
from flows.site import Collection, load_site, local_site, read_profile, unfilled
from tests.flows.sites import fill, filled_site, some_id


@pytest.mark.parametrize("ready_made", READY_MADE)
def test_a_new_profile_says_what_to_fill_in(tmp_path, ready_made):
    path = tmp_path / "sites" / "lab.toml"
    new_profile("lab", ready_made, path=path)
    with pytest.raises(
        SiteError, match=r"not filled in yet: instrument\.id: UUID of the collection"
    ) as raised:
        load_site("lab", home=tmp_path)
    for field in (
        "scratch.base_path",
        "compute.endpoint_id",
        "compute.environment",
        "people.starters",
        "auth.",
    ):
        assert field in str(raised.value)


@pytest.mark.parametrize("ready_made", READY_MADE)
def test_a_filled_profile_loads_and_suits_its_endpoint(tmp_path, ready_made):
    site = filled_site(tmp_path, ready_made)
    assert site.name == "lab"
    assert not site.embedded
    assert site.compute.template == ready_made
    assert config_problems(site.compute) == []
    assert site.people.starters == (some_urn := site.people.starters[0],)
    assert some_urn.startswith("urn:globus:auth:identity:")


def test_a_profile_is_never_overwritten(tmp_path):
    path = tmp_path / "lab.toml"
    new_profile("lab", "polaris", path=path)
    before = path.read_bytes()
    with pytest.raises(SiteError, match="exists already"):
        new_profile("lab", "aurora", path=path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["local", "../x", "a b", ""])
def test_impossible_names_are_refused(tmp_path, name):
    with pytest.raises(SiteError, match="not a site's name"):
        new_profile(name, "polaris", path=tmp_path / "x.toml")
    assert not (tmp_path / "x.toml").exists()


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ('starters = ["public"]', "people.starters"),
        ('starters = ["all_authenticated_users"]', "people.starters"),
        ('starters = ["someone@example.org"]', "people.starters"),
        (f"starters = {[f'urn:globus:groups:id:{some_id(str(n))}' for n in range(17)]}", "at most 16"),
        ("starters = []\nowners = []", "people.owners"),
    ],
)
def test_people_are_named_and_few(tmp_path, line, named):
    filled_site(tmp_path)
    path = tmp_path / "sites" / "lab.toml"
    text = path.read_text()
    begin = text.index("starters = ")
    path.write_text(text[:begin] + line + text[text.index("\n", begin) :])
    with pytest.raises(SiteError, match=named):
        load_site("lab", home=tmp_path)


@pytest.mark.parametrize("environment", ["venv", "/opt/$(touch x)", "/opt/a b", "/opt/x; rm -rf /", "/a\n/b"])
def test_an_environment_cannot_carry_shell(tmp_path, environment):
    filled_site(tmp_path)
    path = tmp_path / "sites" / "lab.toml"
    path.write_text(path.read_text().replace('"/opt/petavoxel/venv"', f"'''{environment}'''"))
    with pytest.raises(SiteError, match=r"compute\.environment"):
        load_site("lab", home=tmp_path)


def test_what_the_endpoint_would_refuse_is_named(tmp_path):
    site = filled_site(tmp_path)
    config = {**site.compute.user_endpoint_config, "walltime": "6 hours", "worker_init": "rm -rf /"}
    problems = config_problems(site.compute.model_copy(update={"user_endpoint_config": config}))
    assert any("walltime" in p and "6 hours" in p for p in problems)
    assert any("worker_init" in p for p in problems)
    assert len(problems) == 2


def test_an_index_needs_readers(tmp_path):
    filled_site(tmp_path)
    path = tmp_path / "sites" / "lab.toml"
    path.write_text(path.read_text().replace('# search_index = ""', f'search_index = "{some_id("i")}"'))
    with pytest.raises(SiteError, match="search_visible_to: say who"):
        load_site("lab", home=tmp_path)


def test_a_collection_maps_its_folder_both_ways():
    mapped = Collection(id=some_id("c"), base_path="/eagle/lab/em", root="/lab/em")
    assert mapped.collection_path(Path("/eagle/lab/em/b7/.raw")) == "/lab/em/b7/.raw"
    assert mapped.file_path("/lab/em/b7/.raw") == Path("/eagle/lab/em/b7/.raw")
    assert mapped.collection_path(Path("/eagle/lab/em")) == "/lab/em"
    with pytest.raises(SiteError, match="base_path /eagle/lab/em"):
        mapped.collection_path(Path("/eagle/other"))
    with pytest.raises(SiteError, match="root /lab/em"):
        mapped.file_path("/lab/other")


def test_the_embedded_site_stays(tmp_path):
    assert load_site("local", home=tmp_path) == local_site(tmp_path)
    path = tmp_path / "sites" / "mine.toml"
    new_profile("mine", "workstation", path=path)
    fill(path)
    path.write_text(path.read_text().replace('name = "mine"', 'name = "local"'))
    with pytest.raises(SiteError, match="is built in"):
        load_site("mine", home=tmp_path)


def test_unfilled_looks_everywhere():
    payload = {"a": {"b": ["x", "<c>"]}, "d": "<e>", "f": 1}
    assert unfilled(payload) == {"a.b[1]": "c", "d": "e"}


def test_a_missing_profile_says_what_to_do(tmp_path):
    with pytest.raises(SiteError, match="petavoxel site init"):
        read_profile(tmp_path / "none.toml")
