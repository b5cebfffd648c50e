"""Batch systems of small shell scripts: jobs run at once on this machine, in sessions of their own.

`FakeSlurm.write(folder)` and `FakePbs.write(folder)` write their commands; put `bin` on PATH. Calls are kept
in `calls`. The commands take what Parsl's providers and launchers say to them, no more.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from flows.local.interchange import is_alive

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
begin() {{  # script, stdout, stderr
  setsid bash -c 'cd "$1"; bash script; echo $? > status' run "$job" > "$2" 2> "$3" < /dev/null 9>&- &
  echo $! > "$job/pid"
}}
end() {{
  touch "$ROOT/jobs/$1/cancelled"
  kill -TERM -- "-$(cat "$ROOT/jobs/$1/pid")" 2>/dev/null
}}
new_job() {{
  exec 9> "$ROOT/lock"; flock 9
  id=$(( $(ls "$ROOT/jobs" | wc -l) + 1 )); job="$ROOT/jobs/$id"
  mkdir "$job"; cp "$1" "$job/script"
}}
asked() {{ sed -n "s/.*--job '\\{{0,1\\}}\\([0-9,]*\\).*/\\1/p" <<< "$*" | tr , ' '; }}
"""
SLURM = {
    "sbatch": """
new_job "$1"
option() { sed -n "s/^#SBATCH --$1=//p" "$job/script"; }
export SLURM_JOB_ID=$id SLURM_JOB_NAME="$(option job-name)"
export SLURM_JOB_NUM_NODES=1 SLURM_CPUS_ON_NODE="$(nproc)"
begin "$job" "$(option output)" "$(option error)"
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
for id in "$@"; do end "$id"; done
exit 0
""",
    "srun": """
while [ "$1" != bash ]; do shift; done
exec "$@"
""",
}
PBS = {
    "qsub": """
new_job "${@: -1}"
option() { sed -n "s/^#PBS -$1 //p" "$job/script"; }
export PBS_JOBID=$id.fake PBS_JOBNAME="$(option N)" PBS_NODEFILE="$job/nodes"
hostname > "$job/nodes"
begin "$job" "$(option o)" "$(option e)"
echo "$id.fake"
""",
    "qstat": """
shift 4
separator=""
echo '{"Jobs": {'
for id in "$@"; do
  case "$(state "${id%.fake}")" in RUNNING) letter=R;; *) letter=F;; esac
  echo "$separator\\"$id\\": {\\"job_state\\": \\"$letter\\"}"; separator=,
done
echo '}}'
""",
    "qdel": """
for id in "$@"; do end "${id%.fake}"; done
exit 0
""",
    "mpiexec": """
while [ "$1" != /usr/bin/sh ]; do shift; done
exec "$@"
""",
}


@dataclass(frozen=True, slots=True)
class FakeBatch:
    """Where its commands, jobs and the log of calls lie."""

    root: Path
    scripts: ClassVar[dict[str, str]]
    cancel: ClassVar[str]
    """The command that ends a job."""

    @classmethod
    def write(cls, root: Path) -> Self:
        """Write the commands to `root/bin`."""
        (root / "jobs").mkdir(parents=True)
        (root / "bin").mkdir()
        (root / "calls").touch()
        for name, script in cls.scripts.items():
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
        started = [job for job in sorted((self.root / "jobs").iterdir()) if (job / "pid").exists()]
        return [job.name for job in started if is_alive(int((job / "pid").read_text()))]

    def engine_config(self, **more: object) -> str:
        """An endpoint's configuration for this cluster, JSON being YAML; `more` goes to its engine.

        There is no block until there is work.
        """
        provider = {
            "account": "m1234",
            "walltime": "00:30:00",
            "init_blocks": 0,
            "min_blocks": 0,
            "max_blocks": 1,
            "worker_init": f"export PATH={Path(sys.executable).parent}:$PATH MODULES=loaded",
        }
        return json.dumps(
            {
                "display_name": "a cluster",
                "idle_heartbeats_soft": 10,
                "engine": {
                    "type": "GlobusComputeEngine",
                    "address": "127.0.0.1",
                    "max_workers_per_node": 2,
                    "cores_per_worker": 0.5,
                    "max_retries_on_system_failure": 1,
                    "heartbeat_period": 2,
                    "job_status_kwargs": {"max_idletime": 2, "strategy_period": 1},
                    "provider": provider | self.provider(),
                    **more,
                },
            }
        )

    def provider(self) -> dict[str, Any]:
        """Type, launcher and queue of its provider."""
        raise NotImplementedError


class FakeSlurm(FakeBatch):
    """sbatch, squeue, sacct, scancel and srun."""

    scripts = SLURM
    cancel = "scancel"

    def provider(self) -> dict[str, Any]:
        """SlurmProvider."""
        launcher = {"type": "SrunLauncher", "overrides": "--gpus-per-node 2"}
        return {"type": "SlurmProvider", "launcher": launcher, "partition": "gpu"}


class FakePbs(FakeBatch):
    """qsub, qstat, qdel and mpiexec."""

    scripts = PBS
    cancel = "qdel"

    def provider(self) -> dict[str, Any]:
        """PBSProProvider."""
        launcher = {"type": "MpiExecLauncher", "bind_cmd": "--cpu-bind", "overrides": "--ppn 1"}
        return {
            "type": "PBSProProvider",
            "launcher": launcher,
            "queue": "debug",
            "select_options": "ngpus=2",
            "cpus_per_node": 2,
        }
