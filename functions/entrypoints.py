"""The registered functions: each travels to the endpoint as source text and is run there alone.

Self-contained, undecorated, imports in the body, one JSON object in, one small JSON object out. They say
nothing but which step to run, so a new release of the package needs no new registration.
"""

from __future__ import annotations


def plan(task):  # type: ignore[no-untyped-def]
    from functions.runtime import execute

    return execute("plan", task)


def ingest(task):  # type: ignore[no-untyped-def]
    from functions.runtime import execute

    return execute("ingest", task)


def stitch(task):  # type: ignore[no-untyped-def]
    from functions.runtime import execute

    return execute("stitch", task)


def align_pairs(task):  # type: ignore[no-untyped-def]
    from functions.runtime import execute

    return execute("align_pairs", task)


def align_solve(task):  # type: ignore[no-untyped-def]
    from functions.runtime import execute

    return execute("align_solve", task)


def align_render(task):  # type: ignore[no-untyped-def]
    from functions.runtime import execute

    return execute("align_render", task)


def segment(task):  # type: ignore[no-untyped-def]
    from functions.runtime import execute

    return execute("segment", task)


def match(task):  # type: ignore[no-untyped-def]
    from functions.runtime import execute

    return execute("match", task)


def reconcile(task):  # type: ignore[no-untyped-def]
    from functions.runtime import execute

    return execute("reconcile", task)


def relabel(task):  # type: ignore[no-untyped-def]
    from functions.runtime import execute

    return execute("relabel", task)


def candidates(task):  # type: ignore[no-untyped-def]
    from functions.runtime import execute

    return execute("candidates", task)


def resegment(task):  # type: ignore[no-untyped-def]
    from functions.runtime import execute

    return execute("resegment", task)


def agglomerate(task):  # type: ignore[no-untyped-def]
    from functions.runtime import execute

    return execute("agglomerate", task)


def finish(task):  # type: ignore[no-untyped-def]
    from functions.runtime import execute

    return execute("finish", task)


def publish(task):  # type: ignore[no-untyped-def]
    from functions.runtime import execute

    return execute("publish", task)


def probe(task):  # type: ignore[no-untyped-def]
    from functions.runtime import execute

    return execute("probe", task)


ENTRY_POINTS = (
    plan, ingest, stitch, align_pairs, align_solve, align_render,
    segment, match, reconcile, relabel, candidates, resegment, agglomerate, finish, publish, probe,
)  # fmt: skip
