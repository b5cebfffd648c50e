"""Paths, parameters, expressions and comparisons of the flow language."""

from __future__ import annotations

import pytest

from flows.local.choices import OPERATORS, holds
from flows.local.expressions import EvaluationError, calculate, evaluate
from flows.paths import PathError, parse_path, read_path, write_path


# -- paths and parameters --------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("path", "tokens"),
    [
        ("$", ()),
        ("$.a.b", ("a", "b")),
        ("$.a[0].b", ("a", 0, "b")),
        ("$['a key'].b", ("a key", "b")),
        ("$.a['b'][12]", ("a", "b", 12)),
    ],
)
def test_paths_parse(path, tokens):
    assert parse_path(path) == tokens


@pytest.mark.parametrize("path", ["a.b", "$a", "$.a[", "$..a", "$.a[*]", ""])
def test_bad_paths_are_refused(path):
    with pytest.raises(PathError):
        parse_path(path)


def test_result_paths_nest_replace_and_discard():
    state = {"a": {"b": 1}, "c": 2}
    assert write_path(state, "$.a.d", 3) == {"a": {"b": 1, "d": 3}, "c": 2}
    assert write_path(state, "$.x.y", 3) == {**state, "x": {"y": 3}}
    assert write_path(state, "$", {"z": 1}) == {"z": 1}
    assert write_path(state, None, 3) == state
    assert state == {"a": {"b": 1}, "c": 2}
    with pytest.raises(PathError, match=r"\$\.a\.q: the state has no 'q' there"):
        read_path(state, "$.a.q")


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("a + 1", 4),
        ("b.c + '/' + _context.run_id", "x/r1"),
        ("[i * 2 for i in l if i > 1]", [4, 6]),
        ("'big' if a > 2 else 'small'", "big"),
        ("is_present('b.c')", True),
        ("is_present('b.q')", False),
        ("getattr('b.q', 'none')", "none"),
        ("getattr('b.c', 'none')", "x"),
        ("pathsplit('/a/b/c')", ["/a/b", "c"]),
        ("pathsplit('/a')[0]", "/"),
        ("{'k': l[0]}", {"k": 1}),
    ],
)
def test_expressions(expression, value):
    assert (
        calculate(expression, {"a": 3, "b": {"c": "x"}, "l": [1, 2, 3], "_context": {"run_id": "r1"}})
        == value
    )


@pytest.mark.parametrize(
    "expression",
    ["range(3)", "open('x')", "nothing", "().__class__", "1 +", "l[9]", "b.q", "len(l)", "9**9**9"],
)
def test_expressions_that_are_refused(expression):
    with pytest.raises(EvaluationError):
        calculate(expression, {"l": [1], "b": {}})


def test_parameters_at_any_depth():
    parameters = {
        "k": 1,
        "p.$": "$.a",
        "list": [{"deep.=": "a + 1"}, "text"],
        "run.$": "$._context.run_id",
        "__Private_Parameters": ["k"],
    }
    value = evaluate(parameters, state={"a": 3}, context={"run_id": "r1"})
    assert value == {"k": 1, "p": 3, "list": [{"deep": 4}, "text"], "run": "r1"}


# -- choices ---------------------------------------------------------------------------------------
NAMES = {
    "s": "b", "n": 5, "t": "2026-01-01T00:00:00Z", "b": True, "z": None,
    "s2": "b", "n2": 4, "t2": "2026-01-02T00:00:00+00:00", "b2": False,
}  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({"Variable": "$.s", "StringEquals": "b"}, True),
        ({"Variable": "$.s", "StringLessThan": "c"}, True),
        ({"Variable": "$.s", "StringGreaterThanEquals": "c"}, False),
        ({"Variable": "$.s", "StringEqualsPath": "$.s2"}, True),
        ({"Variable": "$.n", "StringEquals": "5"}, False),
        ({"Variable": "$.n", "NumericEquals": 5.0}, True),
        ({"Variable": "$.n", "NumericGreaterThanPath": "$.n2"}, True),
        ({"Variable": "$.n", "NumericLessThanEquals": 4}, False),
        ({"Variable": "$.b", "NumericEquals": 1}, False),
        ({"Variable": "$.t", "TimestampLessThanPath": "$.t2"}, True),
        ({"Variable": "$.t", "TimestampEquals": "2026-01-01T01:00:00+01:00"}, True),
        ({"Variable": "$.b", "BooleanEquals": True}, True),
        ({"Variable": "$.b", "BooleanEqualsPath": "$.b2"}, False),
        ({"Variable": "$.s", "StringMatches": "*"}, True),
        ({"Variable": "$.t", "StringMatches": "2026-*Z"}, True),
        ({"Variable": "$.s", "StringMatches": "\\*"}, False),
        ({"Variable": "$.z", "IsNull": True}, True),
        ({"Variable": "$.s", "IsNull": False}, True),
        ({"Variable": "$.q", "IsPresent": False}, True),
        ({"Variable": "$.z", "IsPresent": True}, True),
        ({"Variable": "$.n", "IsNumeric": True}, True),
        ({"Variable": "$.s", "IsString": False}, False),
        ({"Variable": "$.b", "IsBoolean": True}, True),
        ({"Variable": "$.t", "IsTimestamp": True}, True),
        ({"Variable": "$.s", "IsTimestamp": True}, False),
        (
            {
                "And": [
                    {"Variable": "$.n", "NumericEquals": 5},
                    {"Not": {"Variable": "$.b", "BooleanEquals": False}},
                ]
            },
            True,
        ),
        (
            {
                "Or": [
                    {"Variable": "$.n", "NumericEquals": 6},
                    {"Variable": "$.s", "StringEquals": "x"},
                ]
            },
            False,
        ),
    ],
)
def test_choice_rules(rule, expected):
    assert holds({**rule, "Next": "N"}, NAMES) is expected


def test_every_operator_of_the_language_is_there():
    kinds = ("String", "Numeric", "Timestamp")
    names = ("Equals", "LessThan", "GreaterThan", "LessThanEquals", "GreaterThanEquals")
    expected = {f"{k}{n}{p}" for k in kinds for n in names for p in ("", "Path")}
    expected |= {"BooleanEquals", "BooleanEqualsPath", "StringMatches", "IsPresent", "IsNull"}
    assert expected | {"IsNumeric", "IsString", "IsBoolean", "IsTimestamp"} == OPERATORS
