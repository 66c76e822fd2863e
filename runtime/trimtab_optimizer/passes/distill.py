"""distill: a module learns to answer as a teacher does, from the teacher's answers, labels, and layers inside.

The student is the model so far (pruned, say) or a package of its own; the teacher is the source before all passes or a
package of its own, in any format that can be run. With `quantization` the student's weights are rounded as it learns.
"""

from dataclasses import dataclass

import torch
from torch import nn

from trimtab_api.errors import InvalidData, PassFailed
from trimtab_api.spec import Distill, ModelFormat, OptimizationPass
from trimtab_optimizer.data import Dataset
from trimtab_optimizer.importers.pytorch import load_module, ordered_outputs, save_module, structure_of
from trimtab_optimizer.package import Model
from trimtab_optimizer.passes.contract import Outcome, Workplace
from trimtab_optimizer.predict import predictor_of
from trimtab_optimizer.training.features import Features
from trimtab_optimizer.training.loop import Loss, Settings, Trainer
from trimtab_optimizer.training.losses import answer_loss, label_loss
from trimtab_optimizer.training.masks import masks_of
from trimtab_optimizer.training.rounding import keep_rounded, round_while_training
from trimtab_optimizer.training.teacher import Answers, Rows


def distill(item: OptimizationPass, model: Model, work: Workplace) -> Outcome:
    """Return the student, trained. Raises PassFailed where student and teacher do not fit, InvalidData for the data."""
    options = item.distill
    assert options
    assert work.data
    class_room = _gather(options, model, work)
    student = load_module(class_room.student, class_room.allow_pickle)
    sparse = structure_of(class_room.student).sparse
    rounded = round_while_training(student, options.quantization) if options.quantization else []
    rows = Rows(work.data, [tensor.name for tensor in class_room.student.package.inputs])
    features = _features(options, student, class_room, rows)
    loss = _loss(options, student, class_room, rows, work.data, features)
    learner = nn.ModuleList([student, *(features.projections if features else [])])
    trainer = Trainer(learner, loss, rows.count, _settings(options, work.seed), work.checkpoints, work.scratch)
    history = trainer.run(masks_of(student, sparse))
    keep_rounded(student)
    made = save_module(class_room.student, student, sparse, work.target)
    notes = {
        "losses": history.losses,
        "heldOutLosses": history.held_out,
        "stoppedEarly": history.stopped_early,
        "resumedAtStep": history.resumed_at_step,
        "roundedWeights": len(rounded),
    }
    return Outcome(made, notes)


@dataclass(frozen=True, slots=True)
class _ClassRoom:
    """Who learns from whom. Only the source's own packages may be pickled, as its spec allows."""

    student: Model
    teacher: Model
    allow_pickle: bool
    teacher_allow_pickle: bool


def _gather(options: Distill, model: Model, work: Workplace) -> _ClassRoom:
    student = work.packages[options.student.uri] if options.student else model
    teacher = work.packages[options.teacher.uri] if options.teacher else work.source
    if student.package.format is not ModelFormat.PYTORCH:
        raise PassFailed(
            "distill trains a PyTorch module, and the model is ONNX; "
            "put distill before convert, or name a student package"
        )
    _check_fit(student, teacher)
    package = student.package.model_copy(update={"name": model.package.name, "labels": model.package.labels})
    return _ClassRoom(
        student=Model(student.folder, package),
        teacher=teacher,
        allow_pickle=work.allow_pickle and not options.student,
        teacher_allow_pickle=work.allow_pickle and not options.teacher,
    )


def _check_fit(student: Model, teacher: Model) -> None:
    """Raise PassFailed where the two do not take and give the same."""
    for what, mine, other in (
        ("input", student.package.inputs, teacher.package.inputs),
        ("output", student.package.outputs, teacher.package.outputs),
    ):
        for one, two in zip(mine, other, strict=False):
            if (one.name, one.datatype, one.shape) != (two.name, two.datatype, two.shape):
                said = f"{one.name} {one.datatype} {list(one.shape)}, the teacher has {two.name} {two.datatype}"
                raise PassFailed(
                    f"distill: the student has the {what} {said} {list(two.shape)}; name a teacher or student that fits"
                )
        if len(mine) != len(other):
            raise PassFailed(
                f"distill: the student has {len(mine)} {what}s and the teacher {len(other)}; they have to fit"
            )


def _settings(options: Distill, seed: int) -> Settings:
    return Settings(
        epochs=options.epochs,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        seed=seed,
        patience=options.patience,
        checkpoint_seconds=options.checkpoint_seconds,
    )


def _features(options: Distill, student: nn.Module, class_room: _ClassRoom, rows: Rows) -> Features | None:
    if not options.features:
        return None
    if class_room.teacher.package.format is not ModelFormat.PYTORCH:
        raise PassFailed("distill: features compare layers, and the teacher is ONNX; name a PyTorch teacher")
    teacher = load_module(class_room.teacher, class_room.teacher_allow_pickle)
    example = rows.inputs(torch.arange(min(2, rows.count)))
    return Features(options.features, student, teacher, example)


def _loss(
    options: Distill,
    student: nn.Module,
    class_room: _ClassRoom,
    rows: Rows,
    data: Dataset,
    features: Features | None,
) -> Loss:
    """Return the loss of rows: labels by alpha, the teacher's answers by the rest, and what layers give on top."""
    if options.alpha > 0 and not rows.have_labels:
        raise InvalidData(
            f"distill: alpha {options.alpha:g} weighs labels and the data has none; add `label`, or set alpha: 0"
        )
    answers = _answers(class_room, data) if options.alpha < 1 else None

    def loss(numbers: torch.Tensor) -> torch.Tensor:
        inputs = rows.inputs(numbers)
        outputs = ordered_outputs(student(*inputs), class_room.student.package)
        parts = []
        if options.alpha > 0:
            parts.append(options.alpha * label_loss(outputs[0], rows.labels(numbers)))
        if answers:
            parts.append((1 - options.alpha) * answer_loss(outputs, answers.of(numbers), options.temperature))
        if features:
            parts.append(features(inputs))
        return torch.stack(parts).sum()

    return loss


def _answers(class_room: _ClassRoom, data: Dataset) -> Answers:
    return Answers(predictor_of(class_room.teacher, class_room.teacher_allow_pickle, threads=0), data)
