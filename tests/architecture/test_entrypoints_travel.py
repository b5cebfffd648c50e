"""The contract of registered functions: each runs alone, from its source text, in a clean process."""

from __future__ import annotations

import ast
import inspect
import json
import subprocess
import sys

import pytest

from flows.inputs import FunctionIds
from flows.local.registered import registered_functions
from functions import entrypoints

FUNCTIONS = sorted(registered_functions("functions.entrypoints").values(), key=lambda f: f.name)
RUN = """
import json, sys
from globus_compute_sdk.serialize import ComputeSerializer, JSONData, PureSourceTextInspect
before = set(sys.modules)
serializer = ComputeSerializer(
    PureSourceTextInspect(), JSONData(), allowed_deserializer_types=[PureSourceTextInspect, JSONData])
answers = {}
for name, packed in json.load(sys.stdin).items():
    function, args, kwargs = serializer.unpack_and_deserialize(packed)
    try:
        answers[name] = serializer.serialize(function(*args, **kwargs))
    except Exception as error:
        answers[name] = f"{type(error).__name__}: {error}"
json.dump(answers, sys.stdout)
"""


@pytest.fixture(scope="module")
def answers() -> dict[str, str]:
    """What each function says, sent as source text into a process that knows nothing of them."""
    from globus_compute_sdk.serialize import ComputeSerializer, JSONData, PureSourceTextInspect

    serializer = ComputeSerializer(PureSourceTextInspect(), JSONData())
    packed = {
        function.name: serializer.pack_buffers(
            [function.payload(), serializer.serialize([]), serializer.serialize({"task": {"wrong": 1}})]
        )
        for function in FUNCTIONS
        if function.name != "probe"
    }
    done = subprocess.run(
        [sys.executable, "-c", RUN], input=json.dumps(packed), capture_output=True, text=True, check=True
    )
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("name", [f.name for f in FUNCTIONS if f.name != "probe"])
def test_runs_alone_and_names_wrong_fields(answers, name):
    """A task that does not parse gets as far as the step's own parser, whose message comes back."""
    assert answers[name].startswith(f"StepFailed: {name}: {name} task: ")
    assert "wrong: Extra inputs are not permitted" in answers[name]


@pytest.mark.parametrize("function", entrypoints.ENTRY_POINTS, ids=lambda f: f.__name__)
def test_is_self_contained(function):
    source = inspect.getsource(function)
    (node,) = ast.parse(source).body
    assert isinstance(node, ast.FunctionDef)
    assert node.decorator_list == []
    assert [argument.arg for argument in node.args.args] == ["task"]
    assert node.returns is None
    assert not any(argument.annotation for argument in node.args.args)
    loaded = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    assert loaded <= {"task", "execute"}


def test_every_function_of_the_flow_is_an_entry_point():
    assert set(FunctionIds.model_fields) <= {function.name for function in FUNCTIONS}


def test_submitting_loads_neither_torch_nor_zarr():
    """A microscope PC builds, checks and starts a flow without them."""
    code = (
        "import sys\n"
        "import flows, flows.definition, flows.lint, flows.schema, flows.inputs, flows.run, flows.site\n"
        "import flows.local.process, flows.local.store, flows.local.compute\n"
        "from flows.local.registered import function_ids\n"
        "from flows.lint import lint\n"
        "lint(flows.definition.definition(), schema=flows.schema.input_schema())\n"
        "function_ids('functions.entrypoints')\n"
        "print([m for m in ('torch', 'zarr', 'numpy', 'scipy', 'skimage') if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
