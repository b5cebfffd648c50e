"""The only door to the run directory: cells, done marks, fingerprints, volumes, pyramids."""
