"""A real Slurm of several nodes on this machine: loopback, free ports, a folder of its own."""

from __future__ import annotations

import getpass
import itertools
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from shutil import which

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun")
"""What must be there, from Debian's packages slurm-wlm and munge."""
NODES = ("n1", "n2")

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=10
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
# Memory is watched by polling, as no control groups are at hand
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
GresTypes=gpu
# Nodes claim more cores and memory than this machine may have
SlurmdParameters=config_overrides
SlurmdTimeout=5
KillWait=5
# What has ended is remembered, as there is no accounting to ask
MinJobAge=3600
{nodes}
PartitionName=both Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
PartitionName=second Nodes=n2 MaxTime=INFINITE State=UP
"""
NODE = (
    "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} Weight={weight} CPUs=4 "
    "RealMemory=64000 Gres=gpu:1 State=UNKNOWN"
)


@dataclass
class Slurm:
    """Two nodes with four cores and a GPU each, n1 before n2."""

    folder: Path
    daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """Variables by which Slurm's commands find this one, before all others."""
        path = f"{self.folder}/bin{os.pathsep}{os.environ['PATH']}"
        return {**os.environ, "SLURM_CONF": f"{self.folder}/slurm.conf", "PATH": path}

    def ask(self, *command: str) -> str:
        """Output of one of Slurm's commands."""
        return subprocess.run(
            command, env=self.environment, check=True, stdout=subprocess.PIPE, text=True
        ).stdout

    def jobs(self) -> list[dict[str, str]]:
        """All jobs since the start, with what is known of each."""
        found = []
        for line in self.ask("scontrol", "--oneliner", "show", "jobs").splitlines():
            pairs = [word.split("=", 1) for word in line.split() if "=" in word]
            if pairs:
                found.append(dict(pairs))
        return found

    def states(self) -> dict[str, str]:
        """State of each node, such as idle or down; a * is one that does not answer."""
        lines = self.ask("sinfo", "--Node", "--noheader", "--format=%N %T").splitlines()
        return dict(line.split() for line in lines)

    def ready(self) -> bool:
        """Whether all nodes wait for jobs."""
        with suppress(subprocess.CalledProcessError):  # nothing answers yet
            return set(self.states().values()) == {"idle"}
        return False

    def processes(self, node: str | None = None) -> list[int]:
        """Processes of jobs, and those of Slurm that look after them, on one node or on all."""
        nodes = NODES if node is None else (node,)
        wanted = {f"SLURMD_NODENAME={name}".encode() for name in nodes}
        ours, found = f"SLURM_CONF={self.folder}/slurm.conf".encode(), []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                variables = set(path.read_bytes().split(b"\0"))
                if ours in variables and wanted & variables:
                    found.append(int(path.parent.name))
        return found

    def kill(self, node: str) -> None:
        """End a node as a power cut does; the others notice by themselves."""
        self.daemons[node].kill()
        self.daemons[node].wait()
        end(self.processes(node))

    def start(self, name: str, *command: str, **environment: str) -> None:
        """Start a daemon in the foreground, so that it ends with us."""
        with (self.folder / f"{name}.log").open("wb") as log:
            self.daemons[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment | environment,
            )

    def stop(self) -> None:
        """End jobs and daemons, whatever state they are in."""
        for daemon in reversed(self.daemons.values()):
            daemon.kill()
        for daemon in self.daemons.values():
            daemon.wait()
        end(self.processes())


@contextmanager
def started(folder: Path) -> Iterator[Slurm]:
    """Slurm with its nodes ready; it and its jobs end with the context."""
    slurm = Slurm(folder)
    configure(folder)
    try:
        key, place = f"--key-file={folder}/munge.key", f"--socket={folder}/munge.socket"
        files = (f"--{each}-file={folder}/munged.{each}" for each in ("pid", "log", "seed"))
        slurm.start("munged", "munged", "--foreground", "--force", key, place, *files)
        wait_for("munged listens", lambda: (folder / "munge.socket").exists())
        slurm.start("slurmctld", "slurmctld", "-D", "-c")
        for node in NODES:
            slurm.start(node, "slurmd", "-D", "-N", node, SLURMD_NODENAME=node)
        wait_for("the nodes wait for jobs", slurm.ready)
        yield slurm
    finally:
        slurm.stop()


def configure(folder: Path) -> None:
    """Write what Slurm reads."""
    # Other users may read what the daemons listen at, and not the key.
    folder.chmod(0o755)
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o400)
    (folder / "state").mkdir()
    host = socket.gethostname().split(".")[0]
    nodes = [
        NODE.format(name=name, host=host, port=free_port(), weight=weight)
        for weight, name in enumerate(NODES, start=1)
    ]
    values = {"host": host, "port": free_port(), "user": getpass.getuser(), "folder": folder}
    text = CONFIGURATION.format(**values, nodes="\n".join(nodes))
    (folder / "slurm.conf").write_text(text)
    # Any file does for the device: nothing is computed on it.
    (folder / "gres.conf").write_text("NodeName=n1,n2 Name=gpu File=/dev/null\n")
    (folder / "cgroup.conf").write_text("CgroupAutomount=no\n")
    # The executor takes SLURM_CONF away from the srun inside a job.
    srun = folder / "bin/srun"
    srun.parent.mkdir()
    srun.write_text(f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {which("srun")} "$@"\n')
    srun.chmod(0o755)


def end(processes: Iterable[int]) -> None:
    """Kill processes, stopped before so that none tells of another's end."""
    for number, process in itertools.product((signal.SIGSTOP, signal.SIGKILL), list(processes)):
        with suppress(ProcessLookupError):
            os.kill(process, number)


def free_port() -> int:
    """Port that nobody listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


def wait_for(what: str, happened: Callable[[], bool], seconds: float = 60) -> None:
    """Return once something has happened.

    Raises
    ------
    TimeoutError
        If it does not.
    """
    end = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds} s: {what}")
        time.sleep(0.1)
