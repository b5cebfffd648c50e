"""Parameter sets check themselves, and their JSON form is strict."""

import json

import pytest

from ffn.config import (
    ConfigError,
    InferenceConfig,
    NetworkConfig,
    Normalisation,
    Triple,
    fast,
    from_json,
    reach,
    to_json,
)


@pytest.mark.parametrize(
    "value",
    [
        NetworkConfig(),
        NetworkConfig(modules=4, features=16, fov_zyx=(9, 17, 17), deltas_zyx=(0, 6, 6)),
        Normalisation(mean=120.0, std=30.5),
        InferenceConfig(),
        InferenceConfig(disco_seed_threshold=None, min_segment_size=300),
    ],
)
def test_json_round_trip(value: object) -> None:
    assert from_json(type(value), json.loads(json.dumps(to_json(value)))) == value


def test_absent_fields_take_their_default() -> None:
    assert from_json(NetworkConfig, {"features": 8}) == NetworkConfig(features=8)


@pytest.mark.parametrize(
    ("kind", "data", "message"),
    [
        (NetworkConfig, {"fetures": 8}, "net.fetures: unknown field"),
        (NetworkConfig, {"features": "8"}, "net.features: expected int"),
        (NetworkConfig, {"features": True}, "net.features: expected int"),
        (NetworkConfig, {"features": 0}, "net.features: must be at least 1"),
        (NetworkConfig, {"fov_zyx": [17, 17]}, "net.fov_zyx: expected 3 values, found 2"),
        (NetworkConfig, {"fov_zyx": [17, 17, "17"]}, r"net.fov_zyx\[2\]: expected int"),
        (NetworkConfig, {"fov_zyx": [17, 17, 16]}, "net.fov_zyx: must be odd"),
        (NetworkConfig, {"fov_zyx": 17}, "net.fov_zyx: expected a list"),
        (NetworkConfig, {"fov_zyx": [9, 9, 9]}, "net.deltas_zyx: must lie between 0 and half"),
        (NetworkConfig, [1], "net: expected an object"),
        (Normalisation, {"std": 0}, "net.std: must be positive"),
        (Normalisation, {"mean": float("nan")}, "net.mean: must be finite"),
        (InferenceConfig, {"move_threshold": 1.0}, "net.move_threshold: is a probability"),
        (InferenceConfig, {"seeds": {"policy": "random"}}, "net.seeds.policy: 'random' is not one of"),
    ],
)
def test_errors_name_the_field(kind: type, data: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_json(kind, data, where="net")


def test_integers_serve_as_floats() -> None:
    assert from_json(Normalisation, {"mean": 128, "std": 33}) == Normalisation(mean=128.0, std=33.0)


def test_fast_moves_lead_nearly_a_delta_but_not_half_of_the_field_of_view() -> None:
    def least(fov: Triple, deltas: Triple) -> float:
        network = NetworkConfig(fov_zyx=fov, deltas_zyx=deltas)
        return fast(InferenceConfig(), network).min_move_distance

    assert least((33, 33, 33), (8, 8, 0)) == 7.5
    assert least((33, 33, 33), (1, 2, 2)) == 15 / 16
    assert least((17, 17, 17), (6, 6, 6)) == 3.75
    assert least((7, 7, 7), (2, 2, 2)) == 1.5 * 15 / 16
    quick = fast(InferenceConfig(move_threshold=0.8), NetworkConfig())
    assert quick.deltas_zyx is None
    assert quick.seeds.order == "depth"
    assert quick.move_threshold == 0.8
    assert from_json(InferenceConfig, to_json(quick)) == quick


def test_reach_stays_in_the_field_of_view() -> None:
    network = NetworkConfig(modules=1, fov_zyx=(9, 9, 9), deltas_zyx=(2, 2, 2))
    assert reach(InferenceConfig(), network) == (2, 2, 2)
    assert reach(InferenceConfig(deltas_zyx=(0, 4, 4)), network) == (0, 4, 4)
    with pytest.raises(ConfigError, match=r"deltas_zyx: \(5, 1, 1\) leave the field of view"):
        reach(InferenceConfig(deltas_zyx=(5, 1, 1)), network)
