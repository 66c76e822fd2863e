"""Hugging Face folders are served like any package, by classes of transformers alone; their own code never runs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from trimtab_api.errors import InvalidPackage, UnsafeFormat
from trimtab_api.spec import ModelFormat, ModelSource
from trimtab_optimizer.importers import import_source
from trimtab_optimizer.package import Model
from trimtab_optimizer.predict import predictor_of

URI = "oci://registry.local:5000/models/tiny-model:v1"
BERT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 100}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 100}
LLAMA = BERT | {"num_key_value_heads": 2}
VIT = {key: value for key, value in BERT.items() if key != "vocab_size"} | {"image_size": 32, "patch_size": 8}

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "BertForSequenceClassification": ("BertConfig", BERT | {"id2label": {0: "bad", 1: "good"}}),
    "BertModel": ("BertConfig", BERT),
    "GPT2LMHeadModel": ("GPT2Config", GPT2),
    "LlamaForCausalLM": ("LlamaConfig", LLAMA),
    "ViTForImageClassification": ("ViTConfig", VIT),
}


def saved(kind: str, folder: Path, **options: Any) -> torch.nn.Module:
    """Write a small model with random weights as transformers does, and return it."""
    torch.manual_seed(0)
    config_kind, settings = KINDS[kind]
    module = getattr(transformers, kind)(getattr(transformers, config_kind)(**settings))
    module.save_pretrained(folder, **options)
    return module.eval()  # type: ignore[no-any-return]


def imported(folder: Path, allow_pickle: bool = False) -> Model:
    source = ModelSource(uri=URI, format=ModelFormat.HUGGINGFACE, allow_pickle=allow_pickle)
    return import_source(source, folder, folder.with_name(f"{folder.name}-imported"))


def text() -> dict[str, Any]:
    return {"input_ids": np.arange(14).reshape(2, 7) + 3, "attention_mask": np.ones((2, 7), np.int64)}


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_predicts_what_transformers_does(kind: str, tmp_path: Path) -> None:
    module = saved(kind, tmp_path / "tiny")
    rows = text() if "ViT" not in kind else {"pixel_values": np.ones((2, 3, 32, 32), np.float32)}
    with torch.inference_mode():
        expected = module(**{name: torch.from_numpy(value) for name, value in rows.items()})[0].numpy()

    model = imported(tmp_path / "tiny")

    assert np.allclose(predictor_of(model, False).predict(rows)[0], expected, atol=1e-5)
    assert model.package.name == "tiny-model"


def test_labels_come_from_the_config(tmp_path: Path) -> None:
    saved("BertForSequenceClassification", tmp_path / "tiny")

    assert imported(tmp_path / "tiny").package.labels == ("bad", "good")


def test_shards_are_put_together(tmp_path: Path) -> None:
    module = saved("BertModel", tmp_path / "tiny", max_shard_size="20KB")
    assert len(list((tmp_path / "tiny").glob("*.safetensors"))) > 2

    model = imported(tmp_path / "tiny")

    with torch.inference_mode():
        expected = module(**{name: torch.from_numpy(value) for name, value in text().items()})[0].numpy()
    assert np.allclose(predictor_of(model, False).predict(text())[0], expected, atol=1e-5)


def test_a_shard_that_ends_early_is_named_with_the_tensor(tmp_path: Path) -> None:
    saved("BertModel", tmp_path / "tiny", max_shard_size="20KB")
    shard = sorted((tmp_path / "tiny").glob("*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:-10])

    with pytest.raises(InvalidPackage, match=f"{shard.name} ends within tensor "):
        imported(tmp_path / "tiny")


def test_code_of_a_folder_is_never_run(tmp_path: Path) -> None:
    saved("BertModel", tmp_path / "tiny")
    config = json.loads((tmp_path / "tiny/config.json").read_text())
    trap = tmp_path / "ran"
    (tmp_path / "tiny/mine.py").write_text(f"open({str(trap)!r}, 'w')\n")
    changes = {"auto_map": {"AutoConfig": "mine.Config", "AutoModel": "mine.Model"}, "architectures": ["MineModel"]}
    (tmp_path / "tiny/config.json").write_text(json.dumps(config | changes))

    with pytest.raises(InvalidPackage, match="has no class MineModel, and code of a folder is never run"):
        imported(tmp_path / "tiny")
    assert not trap.exists()


def test_pickled_weights_need_the_opt_in(tmp_path: Path) -> None:
    module = saved("BertModel", tmp_path / "tiny")
    (tmp_path / "tiny/model.safetensors").unlink()
    torch.save(module.state_dict(), tmp_path / "tiny/pytorch_model.bin")

    with pytest.raises(UnsafeFormat, match="allowPickle"):
        imported(tmp_path / "tiny")
    (tmp_path / "again").mkdir()
    (tmp_path / "tiny").rename(tmp_path / "again/tiny")
    assert imported(tmp_path / "again/tiny", allow_pickle=True).package.weights == "pytorch_model.bin"


@pytest.mark.parametrize(
    ("missing", "told"),
    [("config.json", "names no architecture"), ("model.safetensors", "push the whole Hugging Face folder")],
)
def test_what_a_folder_lacks_is_named(tmp_path: Path, missing: str, told: str) -> None:
    saved("BertModel", tmp_path / "tiny")
    (tmp_path / "tiny" / missing).unlink()

    with pytest.raises(InvalidPackage, match=told):
        imported(tmp_path / "tiny")


def test_a_folder_goes_the_whole_way_of_the_job(
    tmp_path: Path, publish: Callable[[Path, str], str], run_job: Callable[..., Any]
) -> None:
    saved("GPT2LMHeadModel", tmp_path / "tiny")
    data = tmp_path / "data"
    data.mkdir()
    rows = np.random.default_rng(0).integers(0, 100, (8, 9))
    np.savez(data / "data.npz", input_ids=rows, attention_mask=np.ones_like(rows), label=rows)
    plan = {
        "source": {"uri": publish(tmp_path / "tiny", "models/tiny"), "format": "huggingface"},
        "passes": [{"convert": {}}, {"quantize": {"mode": "dynamic"}}],
        "evaluationData": publish(data, "data/tiny"),
    }

    answer = run_job(plan)

    assert answer.failure is None
    metrics = {item.name: item for item in answer.result.metrics}
    assert metrics["perplexity"].value == pytest.approx(metrics["perplexity"].source, rel=0.02)
    assert metrics["sizeBytes"].value < metrics["sizeBytes"].source
