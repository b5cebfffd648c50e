"""`--set segment.overlap_zyx_px=24,24,24` and `--sections 3:9` as values of the parameters' own types."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, get_args, get_origin

from pydantic import ValidationError

from functions.model.base import Document, describe
from functions.model.errors import TaskError
from functions.model.parameters import Parameters


def parse_settings(settings: Sequence[str], *, base: Parameters | None = None) -> Parameters:
    """`base` (by default all defaults) with each `group.name=value` put in.

    Raises:
        TaskError: no such parameter (naming close matches), or a value that does not fit its type.
    """
    parameters = base or Parameters()
    for setting in settings:
        path, equals, text = setting.partition("=")
        group_name, dot, name = path.strip().partition(".")
        if not equals or not dot:
            raise TaskError(f"--set {setting}: not a setting", remedy="write it like segment.device=cpu")
        group: Document = getattr(parameters, _known(group_name, Parameters, path))
        name = _known(name, type(group), path)
        parameters = parameters.model_copy(update={group_name: _replace(group, name, text.strip(), path)})
    return parameters


def parse_sections(text: str | None) -> tuple[int, int] | None:
    """First and last-plus-one z index of `3:9`.

    Raises:
        TaskError: not two numbers in ascending order.
    """
    if text is None:
        return None
    first, colon, end = text.partition(":")
    if not (colon and first.strip().isdecimal() and end.strip().isdecimal() and int(first) < int(end)):
        raise TaskError(f"--sections {text}: not a range", remedy="write FIRST:END, e.g. 3:9 for 3 to 8")
    return int(first), int(end)


def names() -> list[str]:
    """Every parameter as `group.name`."""
    groups = {name: type(getattr(Parameters(), name)) for name in Parameters.model_fields}
    return [f"{group}.{name}" for group, kind in groups.items() for name in kind.model_fields]


def _known(name: str, kind: type[Document], path: str) -> str:
    """The parameter's name; `zyx_` may be left out, so that `overlap_px` stands for `overlap_zyx_px`."""
    for full in (name, f"{name.removesuffix('_px')}_zyx_px"):
        if full in kind.model_fields:
            return full
    close = get_close_matches(path.strip(), names(), n=3, cutoff=0.5)
    group = path.partition(".")[0].strip()
    known = close or [n for n in names() if n.startswith(f"{group}.")] or sorted(Parameters.model_fields)
    raise TaskError(f"--set {path}: no such parameter", remedy=f"did you mean {', '.join(known[:6])}?")


def _replace(group: Document, name: str, text: str, path: str) -> Document:
    """A copy of the group with one field parsed from text and checked."""
    value = _value(text, type(group).model_fields[name].annotation)
    try:
        return type(group).model_validate({**group.model_dump(), name: value})
    except ValidationError as error:
        raise TaskError(
            f"--set {path}={text}: {describe(error)}", remedy="give a value of that type"
        ) from None


def _value(text: str, annotation: Any) -> object:
    """What pydantic can turn into the annotated type: None, a list of strings, or the string."""
    options = get_args(annotation)
    if text.lower() in ("none", "null") and type(None) in options:
        return None
    kinds = [annotation, *options]
    if any(get_origin(kind) in (tuple, list) for kind in kinds):
        return [part.strip() for part in text.strip("[]()").split(",") if part.strip()]
    return text
