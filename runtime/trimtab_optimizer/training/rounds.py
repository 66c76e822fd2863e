"""Training in rounds, between which a module loses channels: a checkpoint has what each round left, and where one is.

Which channels go next depends on the weights that the round before left. So a Job that goes on cuts again, round after
round, from the weights of that time, and trains only what no checkpoint has.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trimtab_optimizer.passes.contract import Checkpoints
from trimtab_optimizer.training.loop import History

CHECKPOINT_SECONDS = 60.0


class Rounds:
    """The rounds of one pass; to the one that runs, its checkpoints."""

    def __init__(self, kept: Checkpoints, scratch: Path) -> None:
        self._kept, self._scratch = kept, scratch
        file = kept.load()
        self._state: dict[str, Any] = torch.load(file, weights_only=True) if file else {"ended": [], "running": None}
        self._number, self._saved = 0, time.monotonic()
        if "threads" in self._state:
            torch.set_num_threads(self._state["threads"])  # sums depend on it, and so does what is cut next

    def train(self, module: nn.Module, run: Callable[[Checkpoints], History]) -> History:
        """Run one round on a module, or give the module the weights that this round left before."""
        ended: list[dict[str, Any]] = self._state["ended"]
        self._number += 1
        if self._number <= len(ended):
            return _resume(module, ended[self._number - 1])
        history = run(self)
        ended.append(_left_by(module, history))
        self._state["running"] = None
        if time.monotonic() - self._saved >= CHECKPOINT_SECONDS:
            self._save()
        return history

    def load(self) -> Path | None:
        """Return the checkpoint of the round that was running, once."""
        running, self._state["running"] = self._state["running"], None
        if running is None:
            return None
        file = self._scratch / "round.pt"
        torch.save(running, file)
        return file

    def save(self, file: Path) -> None:
        """Keep a checkpoint of the round that is running, with what the rounds before left."""
        self._state["running"] = torch.load(file, weights_only=True)
        self._save()

    def _save(self) -> None:
        file = self._scratch / "rounds.pt"
        torch.save(self._state | {"threads": torch.get_num_threads()}, file)
        self._kept.save(file)
        self._saved = time.monotonic()


def _left_by(module: nn.Module, history: History) -> dict[str, Any]:
    return {
        "module": {name: value.clone() for name, value in module.state_dict().items()},
        "losses": history.losses,
        "random": torch.get_rng_state(),
    }


def _resume(module: nn.Module, left: dict[str, Any]) -> History:
    module.load_state_dict(left["module"])
    torch.set_rng_state(left["random"])
    module.eval()
    return History(left["losses"])
