"""`--set` and `--sections`: parsed by the parameters' own types, errors name the field and close matches."""

from __future__ import annotations

import pytest

from functions.model.errors import TaskError
from functions.model.parameters import Parameters
from typer_cli.settings import names, parse_sections, parse_settings


def test_values_take_the_parameters_types() -> None:
    found = parse_settings(
        [
            "segment.overlap_zyx_px=24,24,24",
            "segment.subvolume_zyx_px = (32, 64, 64)",
            "segment.device=cpu",
            "ingest.verify_checksums=false",
            "ingest.blank_std=1.5",
            "ingest.sections=3,9",
            "align.neighbours=3",
        ]
    )
    assert found.segment.overlap_zyx_px == (24, 24, 24)
    assert found.segment.subvolume_zyx_px == (32, 64, 64)
    assert found.segment.device == "cpu"
    assert found.ingest.verify_checksums is False
    assert found.ingest.blank_std == 1.5
    assert found.ingest.sections == (3, 9)
    assert found.align.neighbours == 3
    assert found.stitch == Parameters().stitch


def test_zyx_may_be_left_out_of_a_name() -> None:
    found = parse_settings(["segment.overlap_px=24,24,24", "segment.subvolume_px=48,64,64"])
    assert found.segment.overlap_zyx_px == (24, 24, 24)
    assert found.segment.subvolume_zyx_px == (48, 64, 64)


def test_none_and_base() -> None:
    base = parse_settings(["ingest.sections=3,9", "segment.device=cuda"])
    found = parse_settings(["ingest.sections=none"], base=base)
    assert found.ingest.sections is None
    assert found.segment.device == "cuda"


def test_every_parameter_can_be_named() -> None:
    assert "segment.overlap_zyx_px" in names()
    assert len(names()) == len(set(names())) > 10


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("segment.overlap_voxels=24,24,24", "did you mean segment.overlap_zyx_px"),
        ("segmnt.overlap_zyx_px=24", "did you mean segment.overlap_zyx_px"),
        ("nothing.at_all=1", "no such parameter"),
        ("segment.overlap_zyx_px=24,24", "segment.overlap_zyx_px=24,24: overlap_zyx_px"),
        ("segment.overlap_zyx_px=a,b,c", "valid integer"),
        ("segment.overlap_zyx_px=24,24,-1", "greater than or equal to 0"),
        ("segment.device=gpu", "'auto', 'cpu', 'cuda' or 'xpu'"),
        ("segment.device", "not a setting"),
        ("device=cpu", "not a setting"),
        ("segment.=cpu", "no such parameter"),
        ("segment.model_fields=1", "no such parameter"),
    ],
)
def test_errors_name_the_field(setting: str, message: str) -> None:
    with pytest.raises(TaskError, match=r"--set") as caught:
        parse_settings([setting])
    assert message in str(caught.value)
    assert caught.value.remedy


def test_sections() -> None:
    assert parse_sections("3:9") == (3, 9)
    assert parse_sections(None) is None


@pytest.mark.parametrize("text", ["3", "9:3", "3:3", "a:b", ":", "-1:3", "3:9:1"])
def test_sections_that_are_none(text: str) -> None:
    with pytest.raises(TaskError, match="3:9 for 3 to 8"):
        parse_sections(text)
