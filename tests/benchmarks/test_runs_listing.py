"""The list of many runs stays quick: pages through the client, without loading what a list does not show."""

from __future__ import annotations

from tests.benchmarks.runs_listing import measure


def test_a_list_costs_at_most_two_milliseconds_a_run():
    measured = measure(200)
    assert measured["list_cpu_s"] < 0.4, measured
