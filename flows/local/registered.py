"""Registered functions: source text that travels alone, packed with JSON as the Compute serialiser does."""

from __future__ import annotations

import importlib
import inspect
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_NAMESPACE = uuid.UUID("0b4a63a6-7e2f-5a0c-8a8e-5b0f3c1f6d11")


@dataclass(frozen=True, slots=True)
class RegisteredFunction:
    """A function as an endpoint knows it: a name and the source text that defines it."""

    name: str
    source: str

    @property
    def id(self) -> str:
        """An id that changes with the text."""
        return str(uuid.uuid5(_NAMESPACE, f"{self.name}:{self.source}"))

    def payload(self) -> str:
        """The text as `register_source_code` stores it: what PureSourceTextInspect makes of a function."""
        return f"st\n{self.name}:{self.source}"

    @classmethod
    def from_payload(cls, payload: str) -> RegisteredFunction:
        """The function that `payload` was made of."""
        name, _, source = payload.removeprefix("st\n").partition(":")
        return cls(name, source)


def registered_functions(module: str) -> dict[str, RegisteredFunction]:
    """By id: the functions of a module's ENTRY_POINTS, as source text."""
    entries = importlib.import_module(module).ENTRY_POINTS
    functions = [RegisteredFunction(entry.__name__, inspect.getsource(entry)) for entry in entries]
    return {function.id: function for function in functions}


def function_ids(module: str) -> dict[str, str]:
    """Ids by name, for the flow's input."""
    return {function.name: id_ for id_, function in registered_functions(module).items()}


def pack_task(function: RegisteredFunction, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """A call of `function` as an endpoint receives it; `args` and `kwargs` are JSON."""
    from globus_compute_sdk.serialize import ComputeSerializer, JSONData, PureSourceTextInspect

    data = ComputeSerializer(PureSourceTextInspect(), JSONData())
    return str(
        data.pack_buffers([function.payload(), data.serialize(list(args)), data.serialize(dict(kwargs))])
    )


def unpack_task(packed: str) -> tuple[RegisteredFunction, list[Any], dict[str, Any]]:
    """What `pack_task` was given."""
    from globus_compute_sdk.serialize import ComputeSerializer, JSONData, PureSourceTextInspect

    data = ComputeSerializer(
        PureSourceTextInspect(), JSONData(), allowed_deserializer_types=[PureSourceTextInspect, JSONData]
    )
    payload, args, kwargs = data.unpack_buffers(packed)
    return RegisteredFunction.from_payload(payload), data.deserialize(args), data.deserialize(kwargs)
