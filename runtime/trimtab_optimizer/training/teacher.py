"""The answers of a teacher: computed once for all epochs where they fit into memory, else batch by batch."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch

from trimtab_optimizer.data import Dataset
from trimtab_optimizer.predict import Predictor

_BATCH: Final = 256
_LARGEST_KEPT: Final = 512 << 20


class Answers:
    """What a teacher answers to the rows of a data set; any model that can be run may teach."""

    def __init__(self, teacher: Predictor, data: Dataset) -> None:
        self._teacher, self._data = teacher, data
        first = self._compute(torch.arange(min(_BATCH, data.rows)))
        size = sum(value.nbytes for value in first) / len(first[0]) * data.rows
        self._kept = self._all() if size <= _LARGEST_KEPT else None

    def of(self, rows: torch.Tensor) -> list[torch.Tensor]:
        """Return one tensor per output, first axis the rows asked for."""
        return [value[rows] for value in self._kept] if self._kept else self._compute(rows)

    def _all(self) -> list[torch.Tensor]:
        parts = [self._compute(rows) for rows in torch.split(torch.arange(self._data.rows), _BATCH)]
        return [torch.cat(list(values)) for values in zip(*parts, strict=True)]

    def _compute(self, rows: torch.Tensor) -> list[torch.Tensor]:
        inputs = {name: values[rows.numpy()] for name, values in self._data.inputs.items()}
        return [torch.from_numpy(np.ascontiguousarray(value)) for value in self._teacher.predict(inputs)]


class Rows:
    """The rows of a data set as tensors, in the order in which a module takes its inputs."""

    def __init__(self, data: Dataset, names: Sequence[str]) -> None:
        self.count = data.rows
        self._inputs = [torch.from_numpy(np.ascontiguousarray(data.inputs[name])) for name in names]
        self._labels = None if data.labels is None else torch.from_numpy(data.labels)

    @property
    def have_labels(self) -> bool:
        return self._labels is not None

    def inputs(self, rows: torch.Tensor) -> list[torch.Tensor]:
        """Return the inputs of rows."""
        return [value[rows] for value in self._inputs]

    def labels(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the labels of rows, which are there."""
        assert self._labels is not None
        return self._labels[rows]
