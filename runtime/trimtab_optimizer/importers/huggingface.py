"""Hugging Face folders: `config.json` and weights become a PyTorch package, which every pass can work on.

The class comes from the transformers library, by the name in `config.json`. A folder whose class is not there (it would
bring code of its own) is refused. `model.yaml` is optional: inputs and outputs of usual heads follow from the class.
"""

import json
import shutil
from pathlib import Path
from typing import Any, Final

import safetensors.torch
import torch

from trimtab_api.errors import InvalidPackage
from trimtab_api.package import MANIFEST_FILE, WEIGHTS_FILE, Datatype, ModelPackage, Tensor
from trimtab_api.spec import ModelFormat, ModelSource
from trimtab_optimizer.importers import huggingface_entrypoint
from trimtab_optimizer.package import Model, load_package, share_file, write_package
from trimtab_optimizer.store import Reference
from trimtab_optimizer.streaming.shards import merge_shards, read_header

_CONFIG: Final = "config.json"
_INDEX: Final = "model.safetensors.index.json"
_PICKLED: Final = "pytorch_model.bin"
_TOKENIZER: Final = (  # of which only a conversion to genai makes use
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("chat_template.jinja", "vocab.json", "merges.txt", "tokenizer.model"),
)
_ENTRYPOINT: Final = "huggingface_entrypoint"

_TEXT: Final = ("input_ids", "attention_mask")
_IMAGE: Final = "pixel_values"


def import_huggingface(source: ModelSource, folder: Path, target: Path) -> Model:
    """Lay a folder out in `target` as a PyTorch package. Raises InvalidPackage naming what is missing."""
    config = _read_config(folder)
    package = _described(folder, config, source)
    target.mkdir(parents=True)
    for name in (_CONFIG, "generation_config.json", *_TOKENIZER):
        if (folder / name).is_file():
            shutil.copyfile(folder / name, target / name)
    weights = _lay_weights(folder, target)
    if weights == WEIGHTS_FILE and _has_other_names(target, config):
        _rename(folder, target, config)
    shutil.copyfile(str(huggingface_entrypoint.__file__), target / f"{_ENTRYPOINT}.py")
    changes = {"format": ModelFormat.PYTORCH, "entrypoint": f"{_ENTRYPOINT}:build", "weights": weights}
    return write_package(target, package.model_copy(update=changes))


def is_huggingface(model: Model) -> bool:
    """Tell whether a package was made of a Hugging Face folder here."""
    return (model.package.entrypoint or "").startswith(f"{_ENTRYPOINT}:") and (model.folder / _CONFIG).is_file()


def _read_config(folder: Path) -> dict[str, Any]:
    import transformers

    try:
        config: dict[str, Any] = json.loads((folder / _CONFIG).read_bytes())
        architecture = config["architectures"][0]
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise InvalidPackage(
            f"{_CONFIG} names no architecture ({error!r}); push the whole Hugging Face folder"
        ) from error
    if not hasattr(transformers, architecture):
        known = f"transformers {transformers.__version__} has no class {architecture}"
        raise InvalidPackage(f"{known}, and code of a folder is never run; wrap the model as a PyTorch package")
    return config


def _described(folder: Path, config: dict[str, Any], source: ModelSource) -> ModelPackage:
    """Return what `model.yaml` says, or what the class tells."""
    if (folder / MANIFEST_FILE).is_file():
        return load_package(folder).package
    architecture = config["architectures"][0]
    name = Reference.parse(source.uri).repository.rpartition("/")[2]
    labels = _labels(config)
    count = len(labels) if labels else int(config.get("num_labels", 2))
    tokens = Tensor(name="logits", shape=(-1, -1, int(config.get("vocab_size", -1))))
    shapes: dict[str, tuple[tuple[Tensor, ...], Tensor]] = {
        "ForSequenceClassification": (_texts(), Tensor(name="logits", shape=(-1, count))),
        "ForTokenClassification": (_texts(), Tensor(name="logits", shape=(-1, -1, count))),
        "ForImageClassification": (_images(config), Tensor(name="logits", shape=(-1, count))),
        "ForCausalLM": (_texts(), tokens),
        "LMHeadModel": (_texts(), tokens),
        "ForMaskedLM": (_texts(), tokens),
        "Model": (_texts(), Tensor(name="last_hidden_state", shape=(-1, -1, int(config.get("hidden_size", -1))))),
    }
    for ending, (inputs, output) in shapes.items():
        if architecture.endswith(ending):
            kept = labels if "Classification" in ending else None
            return ModelPackage(
                name=name, format=ModelFormat.HUGGINGFACE, inputs=inputs, outputs=(output,), labels=kept
            )
    raise InvalidPackage(
        f"what {architecture} takes and gives is not known; add a {MANIFEST_FILE} with inputs and outputs"
    )


def _labels(config: dict[str, Any]) -> tuple[str, ...] | None:
    named = config.get("id2label")
    return tuple(str(named[key]) for key in sorted(named, key=int)) if isinstance(named, dict) and named else None


def _texts() -> tuple[Tensor, ...]:
    return tuple(Tensor(name=name, datatype=Datatype.INT64, shape=(-1, -1)) for name in _TEXT)


def _images(config: dict[str, Any]) -> tuple[Tensor, ...]:
    side, channels = config.get("image_size", 224), int(config.get("num_channels", 3))
    height, width = side if isinstance(side, list) else (side, side)
    return (Tensor(name=_IMAGE, shape=(-1, channels, int(height), int(width))),)


def _lay_weights(folder: Path, target: Path) -> str:
    """Put the weights into a folder, shards as one file, and return their name."""
    for name in (WEIGHTS_FILE, _PICKLED):
        if (folder / name).is_file():
            share_file(folder / name, target / name)
            return name
    if (folder / _INDEX).is_file():
        merge_shards(folder / _INDEX, target / WEIGHTS_FILE)
        return WEIGHTS_FILE
    raise InvalidPackage(
        f"the folder has no {WEIGHTS_FILE}, {_INDEX} or {_PICKLED}; push the whole Hugging Face folder"
    )


def _has_other_names(folder: Path, config: dict[str, Any]) -> bool:
    """Tell whether weights have names of an older version of their class, which transformers knows how to change."""
    import transformers

    loaded = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    with torch.device("meta"):
        module = getattr(transformers, config["architectures"][0])(loaded)
    return not set(read_header(folder / WEIGHTS_FILE)[1]) <= set(module.state_dict())


def _rename(folder: Path, target: Path, config: dict[str, Any]) -> None:
    """Let transformers read the weights, in memory, and store them by the names that they have now."""
    import transformers

    kind = getattr(transformers, config["architectures"][0])
    module = kind.from_pretrained(folder, local_files_only=True, use_safetensors=True, dtype="auto")
    safetensors.torch.save_model(module, str(target / WEIGHTS_FILE))
