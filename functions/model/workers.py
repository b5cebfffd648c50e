"""Which of a site's worker processes this one is: 0, 1, ... on its machine."""

from __future__ import annotations

import os

WORKER_VARIABLE = "PETAVOXEL_WORKER"
"""Set in each worker of the embedded site."""
ENDPOINT_VARIABLE = "PARSL_WORKER_RANK"
"""Set by Parsl's high-throughput executor, which runs the workers of a Compute endpoint; counts per node."""
LAUNCHER_VARIABLES = ("SLURM_LOCALID", "PALS_LOCAL_RANKID", "OMPI_COMM_WORLD_LOCAL_RANK")
"""Set by srun, by mpiexec of PBS sites, and by Open MPI, where they start the workers themselves."""


def worker_number() -> int:
    """The number; 0 outside any pool of workers."""
    for name in (WORKER_VARIABLE, ENDPOINT_VARIABLE, *LAUNCHER_VARIABLES):
        if os.environ.get(name, "").isdecimal():
            return int(os.environ[name])
    return 0
