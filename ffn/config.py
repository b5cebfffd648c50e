"""The frozen parameter sets of a flood-filling network, and their strict JSON form.

Every parameter set is a frozen, slotted, keyword-only dataclass that checks itself. `to_json` and `from_json`
turn one into a plain dictionary and back; a wrong key, type or value is an error that names the field.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, Union

Triple = tuple[int, int, int]
T = TypeVar("T")


class ConfigError(ValueError):
    """A parameter has the wrong name, type or value; the message starts with the field."""


def require(condition: bool, field: str, remedy: str) -> None:
    """Raises ConfigError(`field: remedy`) unless the condition holds."""
    if not condition:
        raise ConfigError(f"{field}: {remedy}")


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkConfig:
    """The shape of the network. Defaults are those of the published FIB-25 network.

    `fov_zyx` is the field of view in voxels (odd), input and output alike; `deltas_zyx` is the distance in
    voxels from its centre to the faces on which the next moves are looked for.
    """

    modules: int = 12
    features: int = 32
    fov_zyx: Triple = (33, 33, 33)
    deltas_zyx: Triple = (8, 8, 8)

    def __post_init__(self) -> None:
        require(self.modules >= 1, "modules", "must be at least 1")
        require(self.features >= 1, "features", "must be at least 1")
        require(all(n >= 3 and n % 2 == 1 for n in self.fov_zyx), "fov_zyx", "must be odd and at least 3")
        require(
            all(0 <= d <= n // 2 for d, n in zip(self.deltas_zyx, self.fov_zyx, strict=True)),
            "deltas_zyx",
            "must lie between 0 and half the field of view",
        )
        require(any(d > 0 for d in self.deltas_zyx), "deltas_zyx", "at least one must be positive")


@dataclass(frozen=True, slots=True, kw_only=True)
class Normalisation:
    """The network sees `(image - mean) / std`; both in grey values."""

    mean: float = 128.0
    std: float = 33.0

    def __post_init__(self) -> None:
        require(math.isfinite(self.mean), "mean", "must be finite")
        require(math.isfinite(self.std) and self.std > 0, "std", "must be positive")


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedConfig:
    """Where objects are started. Defaults are google/ffn's PolicyPeaks, made for FIB-25 at 10 nm.

    `policy` finds the interior of cells: "peaks" as the voxels off the strong edges (Sobel magnitude below
    its Gaussian mean), "distance" as those brighter than their Gaussian mean (bright cytoplasm, dark
    membranes).
    Seeds are the peaks of the distance to everything else, at least `min_distance` voxels apart and
    `min_depth` voxels deep, in the order z, y, x ("raster"), the same backwards ("reversed"), or the deepest
    first ("depth"). Two orders make two segmentations for an oversegmentation consensus.

    `sigma_zyx`: Gaussian of that local mean, in voxels, about the calibre of a neurite; `smooth_zyx`:
    Gaussian against noise, in voxels, applied first by "distance"; `spacing_zyx`: relative voxel size.
    `fill_rounds`: once the seeds are used up, as many rounds of further seeds in what is still unlabelled.
    """

    policy: Literal["peaks", "distance"] = "peaks"
    sigma_zyx: tuple[float, float, float] = (49 / 6, 49 / 6, 49 / 6)
    smooth_zyx: tuple[float, float, float] = (1.0, 1.0, 1.0)
    spacing_zyx: tuple[float, float, float] = (1.0, 1.0, 1.0)
    min_distance: int = 3
    min_depth: float = 0.0
    order: Literal["raster", "reversed", "depth"] = "raster"
    fill_rounds: int = 0

    def __post_init__(self) -> None:
        require(self.policy in ("peaks", "distance"), "policy", "is peaks or distance")
        require(self.order in ("raster", "reversed", "depth"), "order", "is raster, reversed or depth")
        require(all(s > 0 for s in self.sigma_zyx), "sigma_zyx", "must be positive")
        require(all(s >= 0 for s in self.smooth_zyx), "smooth_zyx", "must be >= 0")
        require(all(s > 0 for s in self.spacing_zyx), "spacing_zyx", "must be positive")
        require(self.min_distance >= 1, "min_distance", "must be at least 1 voxel")
        require(self.min_depth >= 0, "min_depth", "must be >= 0")
        require(self.fill_rounds >= 0, "fill_rounds", "must be >= 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceConfig:
    """How one subvolume is flooded. Defaults are the published settings of FIB-25.

    The activations and thresholds are probabilities; the canvas holds their logits. `disco_seed_threshold` (a
    fraction of the field of view): where more than that passes the move threshold, voxels once thought
    outside may not rise, which keeps objects apart. None turns the rule off (google/ffn: a negative number).

    `deltas_zyx`: the distance in voxels to the faces on which the next moves are looked for; None takes the
    network's. `frontier_batch` moves of one object go through the network at once; 1 is google/ffn's order,
    exactly.
    `min_move_distance`: a move nearer than that (Euclidean, voxels) to a visited centre is left out; 0 is
    exact.
    """

    init_activation: float = 0.95
    pad_value: float = 0.05
    move_threshold: float = 0.9
    segment_threshold: float = 0.6
    disco_seed_threshold: float | None = 0.0
    min_boundary_distance_zyx: Triple = (1, 1, 1)
    min_segment_size: int = 1000
    deltas_zyx: Triple | None = None
    frontier_batch: int = 1
    min_move_distance: float = 0.0
    seeds: SeedConfig = SeedConfig()

    def __post_init__(self) -> None:
        for name in ("init_activation", "pad_value", "move_threshold", "segment_threshold"):
            require(0.0 < getattr(self, name) < 1.0, name, "is a probability between 0 and 1, both excluded")
        require(
            all(d >= 0 for d in self.min_boundary_distance_zyx), "min_boundary_distance_zyx", "must be >= 0"
        )
        require(
            self.move_threshold <= self.init_activation,
            "move_threshold",
            "must not be above init_activation, or no seed could ever move",
        )
        require(self.min_segment_size >= 0, "min_segment_size", "is a number of voxels, at least 0")
        deltas = self.deltas_zyx or (1, 1, 1)
        require(
            all(d >= 0 for d in deltas) and any(deltas), "deltas_zyx", "must be >= 0, one of them positive"
        )
        require(self.frontier_batch >= 1, "frontier_batch", "must be at least 1 move")
        least = self.min_move_distance
        require(math.isfinite(least) and least >= 0, "min_move_distance", "is in voxels, at least 0")


def reach(config: InferenceConfig, network: NetworkConfig) -> Triple:
    """Where the next moves are looked for, from the centre; raises ConfigError outside the field of view."""
    deltas = config.deltas_zyx or network.deltas_zyx
    inside = all(d <= f // 2 for d, f in zip(deltas, network.fov_zyx, strict=True))
    require(inside, "deltas_zyx", f"{deltas} leave the field of view {network.fov_zyx}; take smaller ones")
    return deltas


def fast(config: InferenceConfig, network: NetworkConfig) -> InferenceConfig:
    """The same settings with half of the fields of view, at no worse quality on FIB-25.

    Half of google/ffn's moves land beside a centre that the object has visited: its lattice is quantised, the
    moves are not. Here a move has to lead nearly half of the field of view's radius from every visited
    centre, though never more than nearly a whole delta; and the deepest seeds, whose objects are the largest
    and safest, come first. Moves that are asked to lead farther, and looked for farther out, save more still,
    but begin to split thin neurites in volumes beyond a box; a distance along the axes (Chebyshev) asks for
    more on the diagonals than this one, at no better quality.
    """
    deltas = network.deltas_zyx
    least = min(min(d, f // 2 / 2) for d, f in zip(deltas, network.fov_zyx, strict=True) if d > 0)
    return dataclasses.replace(
        config,
        min_move_distance=least * 15 / 16,
        seeds=dataclasses.replace(config.seeds, order="depth"),
    )


def logit(probability: float) -> float:
    """ln(p / (1 - p)), the scale on which the network adds its updates."""
    return math.log(probability / (1.0 - probability))


def to_json(value: Any) -> dict[str, Any]:
    """The dataclass as a dictionary of JSON values (tuples become lists, nested dataclasses dictionaries)."""
    return {f.name: _encode(getattr(value, f.name)) for f in dataclasses.fields(value)}


def from_json(kind: type[T], data: object, *, where: str = "") -> T:
    """Builds the dataclass `kind` from a dictionary; absent fields take their default, unknown are refused.

    `where` is put before the field's name in errors. Raises ConfigError.
    """
    prefix = f"{where}." if where else ""
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where or kind.__name__}: expected an object, found {type(data).__name__}")
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for key in data:
        if key not in fields:
            raise ConfigError(f"{prefix}{key}: unknown field; known are {', '.join(sorted(fields))}")
    values = {name: _decode(hints[name], data[name], prefix + name) for name in fields if name in data}
    for name, field in fields.items():
        no_default = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if name not in values and no_default:
            raise ConfigError(f"{prefix}{name}: is missing; add it")
    try:
        return kind(**values)
    except ConfigError as error:
        raise ConfigError(f"{prefix}{error}") from None


def _encode(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_json(value)
    if isinstance(value, tuple | list):
        return [_encode(v) for v in value]
    return value


def _decode(hint: Any, value: Any, where: str) -> Any:
    """One field's value checked against its annotation: dataclass, Literal, X | None, tuple, or scalar."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return from_json(hint, value, where=where)
    if origin is Literal:
        if value not in args:
            raise ConfigError(f"{where}: {value!r} is not one of {', '.join(map(repr, args))}")
        return value
    if origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _decode(next(a for a in args if a is not type(None)), value, where)
    if origin is tuple:
        return _decode_tuple(args, value, where)
    return _decode_scalar(hint, value, where)


def _decode_tuple(args: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{where}: expected a list, found {value!r}")
    if len(args) == 2 and args[1] is Ellipsis:
        return tuple(_decode(args[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if len(value) != len(args):
        raise ConfigError(f"{where}: expected {len(args)} values, found {len(value)}")
    return tuple(_decode(a, v, f"{where}[{i}]") for i, (a, v) in enumerate(zip(args, value, strict=True)))


def _decode_scalar(hint: Any, value: Any, where: str) -> Any:
    if hint is Any:
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ConfigError(f"{where}: expected {hint.__name__}, found {value!r}")
    return value
