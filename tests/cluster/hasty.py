"""Snakemake that looks after its jobs each second: the executor waits longer with every look."""

import asyncio

from snakemake.cli import main
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor


async def sleep(_executor: RemoteExecutor) -> None:
    """Wait for the next look."""
    await asyncio.sleep(1)


if __name__ == "__main__":
    RemoteExecutor.sleep = sleep
    main()
