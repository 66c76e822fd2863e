"""Checkpoints of a pass that takes long, in the registry: a Job that is killed leaves nothing else behind.

Each has the tag of the pass it belongs to, so only a Job with the same plan up to there finds it.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from trimtab_api.errors import UserError
from trimtab_api.plan import tag_of
from trimtab_optimizer.logs import say
from trimtab_optimizer.run import Run
from trimtab_optimizer.store import Store, repository_uri

_NAME: Final = "checkpoint"


@dataclass(frozen=True, slots=True)
class RegistryCheckpoints:
    """The checkpoints of one pass, each an image with one file."""

    store: Store
    repository: str
    tag: str
    scratch: Path

    def load(self) -> Path | None:
        """Return the last checkpoint; one that is damaged counts as none, and the pass begins anew."""
        found = self.store.find(self.repository, self.tag)
        folder = self.scratch / f"{self.tag[:40]}-loaded"
        shutil.rmtree(folder, ignore_errors=True)
        if found is None:
            return None
        try:
            self.store.pull(repository_uri(self.repository, digest=found[0]), folder)
        except UserError as error:
            say("checkpoint not usable", tag=self.tag, cause=str(error))
            return None
        return folder / _NAME if (folder / _NAME).is_file() else None

    def save(self, file: Path) -> None:
        """Push a file under the tag of the pass; the checkpoint before loses its tag."""
        folder = self.scratch / f"{self.tag[:40]}-saved"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        shutil.move(file, folder / _NAME)
        digest = self.store.push(folder, self.repository, (self.tag,), {})
        say("checkpoint saved", tag=self.tag, digest=digest)


def checkpoints_of(run: Run, number: int) -> RegistryCheckpoints:
    """Return the checkpoints of the pass with a number, counted from 1."""
    tag = tag_of(run.plan.pass_key(number, run.resolved), "checkpoint")
    return RegistryCheckpoints(run.store, run.repository, tag, run.scratch)
