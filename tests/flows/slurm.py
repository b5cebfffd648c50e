"""A Slurm of five small scripts: jobs run at once on this machine, in sessions of their own.

`FakeSlurm.write(folder)` writes sbatch, squeue, sacct, scancel and srun; put `bin` on PATH. Calls are kept in
`calls`. The commands take what Parsl's SlurmProvider and SrunLauncher say to them, no more.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

HEAD = """#!/bin/bash
ROOT={root}
echo "$(basename "$0") $*" >> "$ROOT/calls"
state() {{
  job="$ROOT/jobs/$1"
  if [ -e "$job/cancelled" ]; then echo CANCELLED
  elif [ -e "$job/status" ]; then [ "$(cat "$job/status")" = 0 ] && echo COMPLETED || echo FAILED
  elif kill -0 "$(cat "$job/pid")" 2>/dev/null; then echo RUNNING
  else echo FAILED; fi
}}
asked() {{ sed -n "s/.*--job '\\{{0,1\\}}\\([0-9,]*\\).*/\\1/p" <<< "$*" | tr , ' '; }}
"""
SCRIPTS = {
    "sbatch": """
exec 9> "$ROOT/lock"; flock 9
id=$(( $(ls "$ROOT/jobs" | wc -l) + 1 )); job="$ROOT/jobs/$id"
mkdir "$job"; cp "$1" "$job/script"
option() { sed -n "s/^#SBATCH --$1=//p" "$job/script"; }
export SLURM_JOB_ID=$id SLURM_JOB_NAME="$(option job-name)"
export SLURM_JOB_NUM_NODES=1 SLURM_CPUS_ON_NODE="$(nproc)"
setsid bash -c 'bash "$1/script"; echo $? > "$1/status"' run "$job" \\
  > "$(option output)" 2> "$(option error)" < /dev/null 9>&- &
echo $! > "$job/pid"
echo "Submitted batch job $id"
""",
    "sacct": """
for id in $(asked "$@"); do echo "$id $(state "$id")"; done
""",
    "squeue": """
for id in $(asked "$@"); do [ "$(state "$id")" = RUNNING ] && echo "$id R"; done
exit 0
""",
    "scancel": """
for id in "$@"; do
  touch "$ROOT/jobs/$id/cancelled"
  kill -TERM -- "-$(cat "$ROOT/jobs/$id/pid")" 2>/dev/null
done
exit 0
""",
    "srun": """
while [ "$1" != bash ]; do shift; done
exec "$@"
""",
}


@dataclass(frozen=True, slots=True)
class FakeSlurm:
    """Where its commands, jobs and the log of calls lie."""

    root: Path

    @classmethod
    def write(cls, root: Path) -> FakeSlurm:
        """Write the commands to `root/bin`."""
        (root / "jobs").mkdir(parents=True)
        (root / "bin").mkdir()
        (root / "calls").touch()
        for name, script in SCRIPTS.items():
            command = root / "bin" / name
            command.write_text(HEAD.format(root=root) + script)
            command.chmod(0o755)
        return cls(root)

    def calls(self, name: str) -> list[str]:
        """Arguments of every call of a command, in order."""
        lines = (self.root / "calls").read_text().splitlines()
        return [line.removeprefix(f"{name} ") for line in lines if line.split()[0] == name]

    def running(self) -> list[str]:
        """Ids of jobs that have a living process."""
        return [job.name for job in sorted((self.root / "jobs").iterdir()) if _alive(job / "pid")]

    def engine_config(self, **more: object) -> str:
        """An endpoint's configuration for this cluster, JSON being YAML; `more` goes to its engine.

        There is no block until there is work.
        """
        return json.dumps(
            {
                "display_name": "a Slurm cluster",
                "idle_heartbeats_soft": 10,
                "engine": {
                    "type": "GlobusComputeEngine",
                    "address": "127.0.0.1",
                    "max_workers_per_node": 2,
                    "cores_per_worker": 0.5,
                    "max_retries_on_system_failure": 1,
                    "heartbeat_period": 2,
                    "job_status_kwargs": {"max_idletime": 2, "strategy_period": 1},
                    "provider": {
                        "type": "SlurmProvider",
                        "launcher": {"type": "SrunLauncher", "overrides": "--gpus-per-node 2"},
                        "partition": "gpu",
                        "account": "m1234",
                        "walltime": "00:30:00",
                        "init_blocks": 0,
                        "min_blocks": 0,
                        "max_blocks": 1,
                        "worker_init": f"export PATH={Path(sys.executable).parent}:$PATH MODULES=loaded",
                    },
                    **more,
                },
            }
        )


def _alive(pid_file: Path) -> bool:
    try:
        os.kill(int(pid_file.read_text()), 0)
    except (FileNotFoundError, ProcessLookupError):
        return False
    return True
