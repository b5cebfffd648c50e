"""What runs at the HPC site: steps that read boxes, call pure functions, write boxes and report."""
