"""The trigger: sees sections and acquisitions complete, and starts flows, each exactly once.

    adapter.observe ─► ledger ─► completeness ─► batches ─► outbox ─► ledger ─► starter

Imports neither an array library nor torch: it runs on the microscope's computer.
"""
