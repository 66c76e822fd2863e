"""The training loop: reproducible to the bit, from any checkpoint.

What a step does follows from the seed, its number and the state before it alone: the order of rows has a generator of
its own for each epoch, the learning rate falls along a cosine of the step's number, and a checkpoint holds the module,
the optimizer and torch's own generator. The number of threads is kept too, since sums depend on it.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from trimtab_api.errors import PassFailed
from trimtab_optimizer.logs import say
from trimtab_optimizer.passes.contract import Checkpoints
from trimtab_optimizer.training.masks import Masks

_SAID_SECONDS: Final = 5.0
_HELD_OUT: Final = 0.1  # of the rows, which tell when to stop early

Loss = Callable[[torch.Tensor], torch.Tensor]  # row numbers -> the loss of those rows, a scalar


@dataclass(frozen=True, slots=True)
class Settings:
    """How long and how fast. `patience` is how many epochs may pass without a smaller held-out loss; None: all run."""

    epochs: int
    batch_size: int
    learning_rate: float
    seed: int
    patience: int | None = None
    checkpoint_seconds: float = 60.0


@dataclass(slots=True)
class History:
    """Losses, one for each epoch. `held_out` is empty where nothing was held out."""

    losses: list[float] = field(default_factory=list)
    held_out: list[float] = field(default_factory=list)
    resumed_at_step: int = 0
    stopped_early: bool = False


class Trainer:
    """Trains the parameters of a module in place."""

    def __init__(
        self, module: nn.Module, loss: Loss, rows: int, settings: Settings, checkpoints: Checkpoints, scratch: Path
    ) -> None:
        self._module, self._loss, self._settings = module, loss, settings
        self._checkpoints, self._scratch = checkpoints, scratch
        self._training, self._held_out = _split(rows, settings)
        self._optimizer = torch.optim.Adam(module.parameters(), settings.learning_rate)
        self._history, self._sum, self._steps_summed = History(), 0.0, 0
        self._best: dict[str, Any] = {}
        self._saved, self._said = time.monotonic(), 0.0

    def run(self, masks: Masks) -> History:
        """Train to the end, or as long as the held-out loss falls. Raises PassFailed where the loss is no number."""
        torch.use_deterministic_algorithms(True, warn_only=True)
        first, started = self._resume(), time.monotonic()
        for step, rows in self._steps(first):
            self._step(step, rows, masks)
            if (step + 1) % self._steps_per_epoch == 0 and self._end_epoch():
                break
            self._tell(step + 1, first, started)
            self._checkpoint(step + 1)
        if self._best:
            self._module.load_state_dict(self._best)
        self._module.eval()
        return self._history

    @property
    def _steps_per_epoch(self) -> int:
        return max(1, len(self._training) // self._settings.batch_size + (self._short > 1))

    @property
    def _short(self) -> int:
        """The rows of the last batch; a single one is left out, since a batch norm cannot learn from one."""
        return len(self._training) % self._settings.batch_size

    def _steps(self, first: int) -> Iterator[tuple[int, torch.Tensor]]:
        each = self._steps_per_epoch
        for epoch in range(first // each, self._settings.epochs):
            generator = torch.Generator().manual_seed(self._settings.seed * 1_000_003 + epoch)
            order = self._training[torch.randperm(len(self._training), generator=generator)]
            batches = self._batches(order)[:each]
            for number, rows in enumerate(batches):
                if epoch * each + number >= first:
                    yield epoch * each + number, rows

    def _step(self, step: int, rows: torch.Tensor, masks: Masks) -> None:
        self._module.train()
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate(step)
        self._optimizer.zero_grad()
        loss = self._loss(rows)
        if not torch.isfinite(loss):
            raise PassFailed(f"the loss is no number after {step} steps of training; lower learningRate")
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        masks.apply()
        self._sum, self._steps_summed = self._sum + float(loss.detach()), self._steps_summed + 1

    def _batches(self, rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return torch.split(rows, self._settings.batch_size)

    def _rate(self, step: int) -> float:
        total = self._steps_per_epoch * self._settings.epochs
        return self._settings.learning_rate * 0.5 * (1 + math.cos(math.pi * step / total))

    def _end_epoch(self) -> bool:
        """Note the epoch's losses, and say whether to stop."""
        self._history.losses.append(round(self._sum / self._steps_summed, 6))
        self._sum, self._steps_summed = 0.0, 0
        if not len(self._held_out):
            return False
        self._module.eval()
        with torch.inference_mode():
            losses = [float(self._loss(rows)) * len(rows) for rows in self._batches(self._held_out)]
        self._history.held_out.append(round(sum(losses) / len(self._held_out), 6))
        return self._stop()

    def _stop(self) -> bool:
        losses = self._history.held_out
        best = losses.index(min(losses))
        if best == len(losses) - 1:
            self._best = {name: value.clone() for name, value in self._module.state_dict().items()}
        self._history.stopped_early = len(losses) - 1 - best >= (self._settings.patience or 0)
        return self._history.stopped_early

    def _tell(self, done: int, first: int, started: float) -> None:
        now = time.monotonic()
        if now - self._said < _SAID_SECONDS and done % self._steps_per_epoch:
            return
        self._said = now
        total = self._steps_per_epoch * self._settings.epochs
        left = (now - started) / (done - first) * (total - done)
        loss = self._sum / self._steps_summed if self._steps_summed else self._history.losses[-1]
        say("training", step=done, of=total, loss=round(loss, 6), secondsLeft=round(left, 1))

    def _checkpoint(self, done: int) -> None:
        if time.monotonic() - self._saved < self._settings.checkpoint_seconds:
            return
        file = self._scratch / "training.pt"
        torch.save(self._state(done), file)
        self._checkpoints.save(file)
        self._saved = time.monotonic()

    def _state(self, done: int) -> dict[str, Any]:
        return {
            "done": done,
            "module": self._module.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "best": self._best,
            "random": torch.get_rng_state(),
            "threads": torch.get_num_threads(),
            "sum": (self._sum, self._steps_summed),
            "losses": self._history.losses,
            "heldOut": self._history.held_out,
        }

    def _resume(self) -> int:
        """Return how many steps were done before, after taking over their state."""
        file = self._checkpoints.load()
        if file is None:
            return 0
        state = torch.load(file, weights_only=True)
        self._module.load_state_dict(state["module"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._best, (self._sum, self._steps_summed) = state["best"], state["sum"]
        self._history = History(state["losses"], state["heldOut"], state["done"])
        torch.set_rng_state(state["random"])
        torch.set_num_threads(state["threads"])
        say("training goes on", step=state["done"])
        return int(state["done"])


def _split(rows: int, settings: Settings) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the numbers of rows to learn from, and of rows that tell when to stop."""
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(settings.seed))
    held_out = int(rows * _HELD_OUT) if settings.patience else 0
    return order[held_out:], order[:held_out]
