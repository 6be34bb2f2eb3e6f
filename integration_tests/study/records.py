"""Result files: one JSON per run, with what it takes to do it again."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from integration_tests.pipelines.files import provenance, write_whole
from integration_tests.pipelines.stages import StageError
from integration_tests.study.design import PROFILES, Result, Run


class Records:
    """A folder of result files.

    Args:
        folder: Created with the first result.
        profile: Name of the study's sizes.
    """

    def __init__(self, folder: Path, profile: str) -> None:
        self.folder, self.profile = folder, profile

    def results(self) -> dict[str, Result]:
        """Return the results by name of the run."""
        return {path.stem: content["result"] for path, content in self.files().items()}

    def files(self) -> dict[Path, dict[str, Any]]:
        """Return the content of every result file.

        Raises:
            StageError: If one is of another profile.
        """
        files = {path: json.loads(path.read_text()) for path in sorted(self.folder.glob("*.json"))}
        for path, content in files.items():
            if content["profile"] != self.profile:
                raise StageError(
                    f"{str(path)!r} is of the profile {content['profile']!r}, not of "
                    f"{self.profile!r}; choose another --out"
                )
        return files

    def add(self, run: Run, work: Callable[[], Result]) -> None:
        """Do a run and write its result under a temporary name, then rename it.

        The seconds that are stored are those of this start, with what the run shares with others
        if it comes first.
        """
        started = time.perf_counter()
        result = work()
        command = f"nox -s study -- --profile {self.profile} --seeds {run.seed}"
        if run.seed not in PROFILES[self.profile].seeds:
            command += " --out FOLDER"
        content = {
            "run": run.name,
            "options": dict(run.options),
            "profile": self.profile,
            **provenance(command, run.seed),
            "seconds": round(time.perf_counter() - started),
            "result": result,
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{run.name}.json"
        write_whole(path, json.dumps(content, indent=1) + "\n")
