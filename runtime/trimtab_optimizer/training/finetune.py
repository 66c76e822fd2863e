"""Training on labels alone, after something was cut away."""

from pathlib import Path

import torch
from torch import nn

from trimtab_api.errors import InvalidData
from trimtab_api.package import ModelPackage
from trimtab_api.spec import FineTune
from trimtab_optimizer.data import Dataset
from trimtab_optimizer.importers.pytorch import ordered_outputs
from trimtab_optimizer.passes.contract import Checkpoints
from trimtab_optimizer.training import rounds
from trimtab_optimizer.training.loop import History, Settings, Trainer
from trimtab_optimizer.training.losses import label_loss
from trimtab_optimizer.training.masks import Masks
from trimtab_optimizer.training.teacher import Rows


def fine_tune(
    module: nn.Module,
    package: ModelPackage,
    data: Dataset,
    options: FineTune,
    masks: Masks,
    seed: int,
    checkpoints: Checkpoints,
    scratch: Path,
) -> History:
    """Train a module in place. Raises InvalidData without labels, and PassFailed where the loss is no number."""
    rows = Rows(data, [tensor.name for tensor in package.inputs])
    if not rows.have_labels:
        raise InvalidData("prune: fineTune needs the array `label` in its data; add it, or distill afterwards instead")

    def loss(numbers: torch.Tensor) -> torch.Tensor:
        return label_loss(ordered_outputs(module(*rows.inputs(numbers)), package)[0], rows.labels(numbers))

    often = rounds.CHECKPOINT_SECONDS
    settings = Settings(options.epochs, options.batch_size, options.learning_rate, seed, checkpoint_seconds=often)
    return Trainer(module, loss, rows.count, settings, checkpoints, scratch).run(masks)
