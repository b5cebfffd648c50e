"""What is published: the OME-Zarr volume, its viewer state, its report and its provenance."""
