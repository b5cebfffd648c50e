"""Fake registered functions: the shapes of the real ones, files instead of volumes.

The shims at the end travel as source text, like the real ones, and find the rest by import. A unit is a file
`<work>/<step>/<unit>`; each computation of a unit leaves a line in `<work>/counts`.
`parameters.segment.model` carries orders: `slow`, `fail:<step>`, `raise:<step>`, `die:<step>`,
`drain:<step>` (workers leave after a unit), `lose:<step>` (they are lost after a unit), `stall:<step>` (they
do nothing), `kill:<step>` (a unit ends the first three of them), and for the gate behind align_solve `refuse`
and `doubt`.
"""

import json
import os
import pathlib
import time


def fake_plan(task):
    work = pathlib.Path(task["run"]["work"])
    step = task["step"]
    units = [f"u{i}" for i in range(6)]
    done = [unit for unit in units if (work / step / unit).exists()]
    left = [unit for unit in units if unit not in done]
    count = max(1, min(task["shards"], len(left)))
    manifest = work / f"{step}.json"
    work.mkdir(parents=True, exist_ok=True)
    shards = [left[i::count] for i in range(count)]
    manifest.write_text(json.dumps({"step": step, "run": task["run"], "shards": shards}))
    tasks = [
        {"function_id": task["function_id"], "kwargs": {"task": {"manifest": str(manifest), "shard": i}}}
        for i in range(count)
    ]
    return {
        "step": "plan", "status": "ok", "units": len(units), "computed": 0, "reused": len(done),
        "seconds": 0.0, "figures": {"settled": len(done), "kept": 0, "lost": len(list(work.glob("lost-*")))},
        "paths": {}, "problems": [],
        "problem_count": 0, "tasks": tasks,
    }  # fmt: skip


def fake_shard(task):
    manifest = json.loads(pathlib.Path(task["manifest"]).read_text())
    work, step = pathlib.Path(manifest["run"]["work"]), manifest["step"]
    order = manifest["run"]["parameters"]["segment"]["model"]
    computed = reused = 0
    units = [] if order == f"stall:{step}" else manifest["shards"][task["shard"]]
    for unit in units:
        path = work / step / unit
        if path.exists():
            reused += 1
            continue
        if order == f"die:{step}" and not (work / "died").exists():
            (work / "died").touch()
            os._exit(9)
        if order == f"kill:{step}" and not (work / "lost-2").exists():
            (work / f"lost-{len(list(work.glob('lost-*')))}").touch()
            raise RuntimeError(f"{step}: the worker was lost")
        if order == f"raise:{step}":
            raise RuntimeError(f"{step}: volume.zarr: shape differs; run stitch again")
        with open(work / "counts", "a") as handle:
            handle.write(f"{step}/{unit}\n")
        time.sleep(0.06 if order == "slow" else 0)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(unit)
        computed += 1
        if order == f"lose:{step}":
            raise RuntimeError(f"{step}: the worker was lost")
        if order == f"drain:{step}":
            break
    left = sum(not (work / step / f"u{i}").exists() for i in range(6))
    problems = []
    if order == f"fail:{step}":
        problems = [{"code": "blank", "subject": "sections[3].tiles[0]", "remedy": "image it again"}]
    return {
        "step": step, "status": "failed" if problems else "ok", "units": computed + reused,
        "computed": computed, "reused": reused, "seconds": 0.0, "figures": {}, "paths": {},
        "problems": problems, "problem_count": len(problems), "left": left,
    }  # fmt: skip


def fake_solve(task):
    """As fake_single, with the gate's verdict on the stack."""
    order = task["run"]["parameters"]["segment"]["model"]
    status = {"refuse": "failed", "doubt": "look"}.get(order, "ok")
    told = {
        "code": "gate_fail",
        "subject": "z00003: pair z00003-z00004: off by 21 px",
        "remedy": "look at it",
    }
    problems = [] if status == "ok" else [told]
    return {**fake_single(task), "status": status, "problems": problems, "problem_count": len(problems)}


def fake_single(task):
    work = pathlib.Path(task["run"]["work"])
    order = task["run"]["parameters"]["segment"]["model"]
    time.sleep(0.06 if order == "slow" else 0)
    bundle = work / "finish" / "key" / "bundle"
    bundle.mkdir(parents=True, exist_ok=True)
    made = sorted(str(p.relative_to(work)) for p in work.glob("*/u*"))
    (bundle / "search.json").write_text(json.dumps(made))
    return {
        "step": "single", "status": "ok", "units": 1, "computed": 1, "reused": 0, "seconds": 0.0,
        "figures": {"made": len(made)}, "paths": {"bundle": str(bundle)}, "problems": [],
        "problem_count": 0, "entry": {"title": "fake", "units": len(made)},
    }  # fmt: skip


def plan(task):
    from tests.flows.fake_steps import fake_plan

    return fake_plan(task)


def ingest(task):
    from tests.flows.fake_steps import fake_single

    return fake_single(task)


def stitch(task):
    from tests.flows.fake_steps import fake_shard

    return fake_shard(task)


def align_pairs(task):
    from tests.flows.fake_steps import fake_shard

    return fake_shard(task)


def align_solve(task):
    from tests.flows.fake_steps import fake_solve

    return fake_solve(task)


def align_render(task):
    from tests.flows.fake_steps import fake_shard

    return fake_shard(task)


def segment(task):
    from tests.flows.fake_steps import fake_shard

    return fake_shard(task)


def match(task):
    from tests.flows.fake_steps import fake_shard

    return fake_shard(task)


def reconcile(task):
    from tests.flows.fake_steps import fake_single

    return fake_single(task)


def relabel(task):
    from tests.flows.fake_steps import fake_shard

    return fake_shard(task)


def candidates(task):
    from tests.flows.fake_steps import fake_shard

    return fake_shard(task)


def resegment(task):
    from tests.flows.fake_steps import fake_shard

    return fake_shard(task)


def agglomerate(task):
    from tests.flows.fake_steps import fake_single

    return fake_single(task)


def finish(task):
    from tests.flows.fake_steps import fake_single

    return fake_single(task)


def publish(task):
    from tests.flows.fake_steps import fake_single

    return fake_single(task)


ENTRY_POINTS = (
    plan, ingest, stitch, align_pairs, align_solve, align_render,
    segment, match, reconcile, relabel, candidates, resegment, agglomerate, finish, publish,
)  # fmt: skip
