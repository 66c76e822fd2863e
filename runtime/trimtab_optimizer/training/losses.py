"""What is made small: the distance from labels, from a teacher's answers, and from what its layers give.

alpha weighs the labels, 1 - alpha the teacher (Hinton et al. 2015, arXiv:1503.02531). The teacher's part is multiplied
by the square of the temperature, so that its gradients stay as large as those of the labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional


def label_loss(output: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the distance of an output from labels.

    Whole numbers are classes of scores [..., classes], of each row or each token (-100 is left out); other labels are
    the values themselves.
    """
    if labels.is_floating_point():
        return functional.mse_loss(output.reshape(labels.shape), labels)
    return functional.cross_entropy(output.flatten(0, -2), labels.flatten())


def answer_loss(outputs: Sequence[torch.Tensor], answers: Sequence[torch.Tensor], temperature: float) -> torch.Tensor:
    """Return the distance of outputs from a teacher's.

    Scores of classes, [..., classes] with two or more, are compared as distributions at a temperature; whatever else a
    model gives, and any output beside the first, by its mean squared difference.
    """
    first = _distribution_loss if outputs[0].ndim > 1 and outputs[0].shape[-1] > 1 else _value_loss
    total = first(outputs[0], answers[0], temperature)
    for output, answer in zip(outputs[1:], answers[1:], strict=True):
        total = total + _value_loss(output, answer, temperature)
    return total


def _distribution_loss(output: torch.Tensor, answer: torch.Tensor, temperature: float) -> torch.Tensor:
    learned = functional.log_softmax(output.flatten(0, -2) / temperature, -1)
    taught = functional.log_softmax(answer.flatten(0, -2) / temperature, -1)
    return functional.kl_div(learned, taught, reduction="batchmean", log_target=True) * temperature**2


def _value_loss(output: torch.Tensor, answer: torch.Tensor, temperature: float) -> torch.Tensor:
    return functional.mse_loss(output, answer)


@dataclass(frozen=True, slots=True)
class FeatureLoss:
    """Compares what one layer of the student gives with one of the teacher's.

    `values`: mean squared difference, through a linear map that is learned where the widths differ (Romero et al. 2015,
    arXiv:1412.6550). `attention`: where each looks, as the normalized mean square over channels, whatever their widths
    (Zagoruyko and Komodakis 2017, arXiv:1612.03928).
    """

    match: str
    weight: float
    projection: nn.Module

    def __call__(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """Return the weighted distance of [rows, channels, ...] from [rows, other channels, ...]."""
        if self.match == "attention":
            return self.weight * functional.mse_loss(_attention(student), _attention(teacher))
        return self.weight * functional.mse_loss(self.projection(student), teacher)


def _attention(values: torch.Tensor) -> torch.Tensor:
    """Return where a layer looks: positions [rows, positions] of a convolution, or of the tokens of a transformer."""
    over = -1 if values.ndim == 3 else 1
    return functional.normalize(values.pow(2).mean(over).flatten(1), dim=1)
