"""The segment step of a large volume as a discrete-event simulation: pure, seeded, without arrays."""
