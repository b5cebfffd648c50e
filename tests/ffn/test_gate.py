"""A reduced precision is judged by what it segments."""

import dataclasses

import numpy as np
import pytest
import torch

from ffn.config import ConfigError
from ffn.engine import Precision
from ffn.gate import Comparison, GateThresholds, compare, gate, judge
from ffn.inference import Progress
from ffn.network import FloodFillingNetwork
from tests.ffn.test_inference import brightness_model, two_slabs

CPU = torch.device("cpu")


def three_blocks() -> np.ndarray:
    labels = np.zeros((6, 10, 36), np.uint32)
    labels[:, :, 2:11], labels[:, :, 13:22], labels[:, :, 24:33] = 1, 2, 3
    return labels


def test_equal_segmentations_pass_whatever_their_names() -> None:
    labels = three_blocks()
    renamed = np.array([0, 7, 3, 5], np.uint32)[labels]
    found = compare(labels, renamed, truth=labels, share=0.1)
    assert (found.voi_split, found.voi_merge, found.merged, found.split, found.lost) == (0, 0, 0, 0, 0)
    assert (found.objects_reference, found.objects_reduced) == (3, 3)
    assert found.truth_voi_reference == found.truth_voi_reduced == 0
    assert judge(found, GateThresholds()) == ()


def test_merged_split_and_lost_objects_are_counted() -> None:
    labels = three_blocks()
    merged = np.array([0, 1, 1, 3], np.uint32)[labels]
    found = compare(labels, merged, truth=labels, share=0.1)
    assert (found.merged, found.split, found.lost) == (2, 0, 0)
    assert found.voi_merge == pytest.approx(2 / 3)
    reasons = judge(found, GateThresholds())
    assert reasons[0].split(" 0.")[0] == "VOI between the two"
    assert "objects merged 2 of 3, at most 0.06 is allowed" in reasons
    assert any(r.startswith("VOI against the truth rises by 0.6") for r in reasons)

    halved = labels.copy()
    halved[:3][labels[:3] == 1] = 9
    found = compare(labels, halved, share=0.1)
    assert (found.merged, found.split, found.lost) == (0, 1, 0)
    assert found.voi_split == pytest.approx(1 / 3)
    assert found.truth_voi_reduced is None

    gone = labels.copy()
    gone[labels == 3] = 0
    gone[0, 0, 24] = 3
    found = compare(labels, gone, share=0.1)
    assert (found.merged, found.split, found.lost) == (0, 0, 1)
    reasons = judge(found, GateThresholds())
    assert len(reasons) == 1
    assert reasons[0].startswith("labelled fraction lost 0.2495")
    gone[labels == 2] = 0
    assert any(
        "objects split or lost 2 of 3" in r for r in judge(compare(labels, gone, share=0.1), GateThresholds())
    )


def test_a_few_voxels_on_the_wrong_side_are_no_event() -> None:
    labels = three_blocks()
    strayed = labels.copy()
    strayed[0, :, 9:11] = 2  # 20 of 540 voxels of object 1
    found = compare(labels, strayed, share=0.1)
    assert (found.merged, found.split, found.lost) == (0, 0, 0)
    assert found.voi_split > 0
    found = compare(labels, strayed, share=0.03)
    assert (found.merged, found.split) == (2, 1)


def test_nothing_found_decides_nothing() -> None:
    nothing = np.zeros((4, 5, 6), np.uint32)
    reasons = judge(compare(nothing, nothing, share=0.1), GateThresholds())
    assert reasons == ("fp32 finds no object in the box: it decides nothing",)


def test_what_is_not_a_number_does_not_pass() -> None:
    comparison = Comparison(
        voi_split=float("nan"),
        voi_merge=0.0,
        labelled_reference=0.5,
        labelled_reduced=0.5,
        objects_reference=3,
        objects_reduced=0,
        merged=0,
        split=0,
        lost=0,
    )
    assert judge(comparison, GateThresholds()) != ()


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_the_gate_segments_twice(precision: Precision) -> None:
    image, truth = two_slabs()
    seen: list[tuple[Precision, Progress]] = []
    result = gate(
        image,
        model=brightness_model(),
        precision=precision,
        device=CPU,
        truth=truth,
        progress=lambda numbers, progress: seen.append((numbers, progress)),
    )
    assert {numbers for numbers, _ in seen} == {"fp32", precision}
    assert result.passed
    assert result.comparison.objects_reduced == 2
    assert result.comparison.truth_voi_reference is not None
    assert result.reference.counters.fovs > 0 < result.reduced.counters.fovs


def test_a_network_that_8_bits_blind_fails() -> None:
    """A huge weight on a channel that is always 0 changes nothing in fp32; in 8 bits it drowns all others."""
    model = brightness_model()
    blindable = FloodFillingNetwork(dataclasses.replace(model.network.config, features=3))
    with torch.no_grad():
        for name, values in blindable.named_parameters():
            values.zero_()
            narrow = model.network.get_parameter(name)
            values[tuple(slice(n) for n in narrow.shape)] = narrow
        blindable.conv0_b.weight[0, 2] = 1e4
    image, truth = two_slabs()
    model = dataclasses.replace(model, network=blindable)
    result = gate(image, model=model, precision="int8", device=CPU, truth=truth)
    assert result.comparison.objects_reference == 2
    assert not result.passed
    assert any(reason.startswith("labelled fraction lost") for reason in result.reasons)
    assert gate(image, model=model, precision="bf16", device=CPU, truth=truth).passed


@pytest.mark.parametrize("name", ["voi_sum", "labelled_drop", "split_fraction"])
def test_thresholds_check_themselves(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        dataclasses.replace(GateThresholds(), **{name: -1.0})
    with pytest.raises(ConfigError, match="share"):
        GateThresholds(share=0.9)
