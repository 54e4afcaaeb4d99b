"""Small volumes that share a job: a step for each, of which only what is missing is done."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unetflow.progress import log, one_line, track
from unetflow.states import digest, state_of_file, write_receipt
from unetflow.store import read_json, write_json


@dataclass(frozen=True)
class Pack:
    """What a step of the small volumes that share a job reads and writes.

    Attributes
    ----------
    before : Path or None
        What the step before has written for them, as `output`; None where there is none.
    output : Path
        JSON in the folder of the first of them, written once all are done: `made_from`, of each
        volume the digest of all that its results depend on, and `restored`.
    paths : mapping
        Of each volume, patterns in which `{volume}` stands for its name.
    code : str
        Digest of the code of the step.
    restored : str
        See `states.restored`.
    """

    before: Path | str | None
    output: Path | str
    paths: Mapping[str, str]
    code: str
    restored: str = ""

    def paths_of(self, volume: str) -> dict[str, Path]:
        """Paths of a volume."""
        return {name: Path(path.replace("{volume}", volume)) for name, path in self.paths.items()}

    def record(self, volume: str) -> Path:
        """Hidden file of a volume that says what its results were made from, and their states.

        It lies in the volume's own folder, whichever volumes share a job with it later.
        """
        output = Path(self.output)
        return output.parents[1] / volume / f".{output.stem}_own.json"

    def states(self, volume: str, results: Sequence[str]) -> list[list[list[int]]]:
        """Size and time of change of each of some results, see `states.state_of_file`."""
        paths = self.paths_of(volume)
        return [[list(state) for state in state_of_file(paths[name])] for name in results]

    def each(
        self,
        step: Callable[[str, dict[str, Path]], None],
        members: Mapping[str, Any],
        made_from: Any,
        results: Sequence[str],
    ) -> None:
        """Do a step for each volume whose results are not there as they were left, from the same.

        So neither a job that was killed nor one volume that is another now does the work of all
        again. A volume that fails does not keep the others.

        Parameters
        ----------
        step : callable
            Does it for the volume of a name, with these paths.
        members : mapping of volume to what it alone depends on, plain values
        made_from : plain values
            What all depend on.
        results : sequence
            Names of the paths that are there once it is done.

        Raises
        ------
        ValueError
            Naming the volumes that have failed, once the others are done.
        """
        earlier = dict.fromkeys(members, "")
        if self.before is not None:
            earlier = read_json(Path(self.before))["made_from"]
        common = [made_from, self.code]
        of = {volume: digest(earlier[volume], own, common) for volume, own in members.items()}

        def record_of(volume: str) -> dict[str, Any]:
            return {"made_from": of[volume], "states": self.states(volume, results)}

        def is_done(volume: str) -> bool:
            record = self.record(volume)
            return record.is_file() and bool(read_json(record) == record_of(volume))

        def do(volume: str) -> None:
            step(volume, self.paths_of(volume))
            write_json(self.record(volume), record_of(volume))

        waiting = [volume for volume in members if not is_done(volume)]
        log(f"{len(waiting)} of {len(members)} volumes")
        do_each(do, waiting, len(members))
        write_receipt(Path(self.output), {"made_from": of, "restored": self.restored})


def do_each(step: Callable[[str], None], volumes: Sequence[str], in_all: int) -> None:
    """Do a step for each of several volumes; one that fails does not keep the others.

    Raises
    ------
    ValueError
        Naming, of all that share the job, the volumes that have failed, once the others are done.
    """
    errors = []
    for volume in track(volumes, "volumes", len(volumes)):
        try:
            step(volume)
        except (OSError, RuntimeError, ValueError) as error:
            errors.append(f"{volume}: {one_line(error)}")
            log(f"failed: {errors[-1]}")
    if errors:
        raise ValueError(f"{len(errors)} of {in_all} volumes failed: {'; '.join(errors)}")
