"""Language models become folders out of which text is generated, also in int4, and predict what their source did."""

import filecmp
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import pytest
import transformers

from trimtab_api.errors import InvalidPackage, PassFailed
from trimtab_api.spec import ModelFormat, ModelSource, OptimizationPass
from trimtab_optimizer.importers import import_source
from trimtab_optimizer.package import Model
from trimtab_optimizer.passes import PASSES
from trimtab_optimizer.passes.contract import Workplace
from trimtab_optimizer.predict import predictor_of

NO_CHECKPOINTS = cast(Any, None)
URI = "oci://registry.local:5000/models/counting:v1"
CONVERT = OptimizationPass.parse({"convert": {"to": "genai"}})


def imported(folder: Path, target: Path, form: ModelFormat) -> Model:
    return import_source(ModelSource(uri=URI, format=form), folder, target)


def converted(source: Model, at: Path) -> Model:
    (at / "scratch").mkdir(parents=True)
    work = Workplace(at / "out", at / "scratch", seed=0, allow_pickle=False, source=source, checkpoints=NO_CHECKPOINTS)
    return PASSES["convert"].run(CONVERT, source, work).model


@pytest.fixture(scope="module")
def source(counting_build: Path, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return imported(counting_build / "model", tmp_path_factory.mktemp("source") / "model", ModelFormat.HUGGINGFACE)


@pytest.fixture(scope="module")
def folder(source: Model, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return converted(source, tmp_path_factory.mktemp("genai"))


def plan(counting: dict[str, str], *passes: dict[str, Any]) -> dict[str, Any]:
    source = {"uri": counting["model"], "format": "huggingface"}
    return {"source": source, "passes": list(passes), "evaluationData": counting["test"]}


def test_a_plan_makes_a_folder_with_the_source_s_perplexity(
    counting: dict[str, str], run_job: Callable[..., Any], report_of: Callable[..., Any]
) -> None:
    answer = run_job(plan(counting, {"convert": {"to": "genai"}}))

    perplexity = next(item for item in answer.result.metrics if item.name == "perplexity")
    assert perplexity.value == pytest.approx(perplexity.source, rel=1e-3)
    assert report_of(answer)["passes"][0]["notes"]["maxDifference"] < 1e-4


def test_int4_is_smaller_and_keeps_what_is_beside_the_graph(
    counting: dict[str, str], run_job: Callable[..., Any], directory_store: Any, tmp_path: Path
) -> None:
    answer = run_job(plan(counting, {"convert": {"to": "genai"}}, {"quantize": {"dtype": "int4"}}))

    assert answer.result, answer.failure
    metrics = {item.name: item for item in answer.result.metrics}
    directory_store.pull(f"oci://{answer.result.artifact}", tmp_path / "artifact")
    names = {path.name for path in (tmp_path / "artifact").iterdir()}
    assert metrics["sizeBytes"].value < 0.6 * metrics["sizeBytes"].source
    assert metrics["perplexity"].value < 1.1 * metrics["perplexity"].source
    assert {"genai_config.json", "tokenizer.json", "chat_template.jinja", "SHA256SUMS"} <= names
    assert "MatMulNBits" in {node.op_type for node in onnx.load(tmp_path / "artifact/model.onnx").graph.node}


def test_the_same_source_gives_the_same_bytes(source: Model, folder: Model, tmp_path: Path) -> None:
    again = converted(source, tmp_path)

    names = sorted(path.name for path in folder.folder.iterdir())
    assert filecmp.cmpfiles(folder.folder, again.folder, names, shallow=False)[0] == names


def test_rows_that_are_padded_at_their_end_are_predicted_like_alone(folder: Model) -> None:
    tokens = np.random.default_rng(0).integers(3, 300, (2, 9))
    mask = np.ones_like(tokens)
    mask[1, 5:] = 0
    together = predictor_of(folder, False).predict({"input_ids": tokens, "attention_mask": mask})[0]
    alone = predictor_of(folder, False).predict({"input_ids": tokens[1:, :5], "attention_mask": mask[1:, :5]})[0]

    assert together[1, :5] == pytest.approx(alone[0], abs=1e-4)


def test_a_folder_of_the_user_s_own_is_served_as_it_is(
    folder: Model, counting: dict[str, str], publish: Callable[..., str], run_job: Callable[..., Any], tmp_path: Path
) -> None:
    shutil.copytree(folder.folder, tmp_path / "own")
    (tmp_path / "own/model.yaml").unlink()
    (tmp_path / "own/evil.py").write_text("raise SystemExit")
    uri = publish(tmp_path / "own", "models/own")

    answer = run_job({"source": {"uri": uri, "format": "genai"}, "passes": [], "evaluationData": counting["test"]})

    assert answer.result, answer.failure
    perplexity = next(item for item in answer.result.metrics if item.name == "perplexity")
    assert perplexity.value == perplexity.source


def test_no_code_of_a_folder_is_kept(folder: Model, tmp_path: Path) -> None:
    shutil.copytree(folder.folder, tmp_path / "own")
    for name in ("evil.py", "evil", "evil.so.1", "evil.data"):
        (tmp_path / "own" / name).write_text("raise SystemExit")

    made = imported(tmp_path / "own", tmp_path / "made", ModelFormat.GENAI)

    assert not list(made.folder.glob("evil*"))
    assert (made.folder / "tokenizer.json").exists()


def without_words(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def without_weights(folder: Path) -> None:
    (folder / "model.onnx.data").unlink()


def with_a_graph_elsewhere(folder: Path) -> None:
    config = json.loads((folder / "genai_config.json").read_text())
    config["model"]["decoder"]["filename"] = "../model.onnx"
    (folder / "genai_config.json").write_text(json.dumps(config))


def with_half_a_config(folder: Path) -> None:
    (folder / "genai_config.json").write_text('{"model": {}}')


def without_a_config(folder: Path) -> None:
    (folder / "genai_config.json").unlink()


def with_a_library(folder: Path) -> None:
    config = json.loads((folder / "genai_config.json").read_text())
    config["model"]["decoder"]["session_options"]["custom_ops_library"] = "merges.data"
    (folder / "genai_config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (without_words, "tokenizer.json"),
        (without_weights, "model.onnx.data"),
        (with_a_graph_elsewhere, "leads outside"),
        (with_half_a_config, "describes no decoder"),
        (with_a_library, "code of a folder never runs"),
        (without_a_config, "genai_config.json"),
    ],
)
def test_a_folder_that_lacks_something_is_refused_by_its_name(
    damage: Callable[[Path], None], said: str, folder: Model, tmp_path: Path
) -> None:
    shutil.copytree(folder.folder, tmp_path / "own")
    damage(tmp_path / "own")

    with pytest.raises(InvalidPackage, match=said):
        imported(tmp_path / "own", tmp_path / "made", ModelFormat.GENAI)


def test_a_package_that_is_no_language_model_cannot_become_one(digits_build: Path, tmp_path: Path) -> None:
    source = imported(digits_build / "model", tmp_path / "digits", ModelFormat.PYTORCH)

    with pytest.raises(PassFailed, match="takes a Hugging Face folder with a causal language model"):
        converted(source, tmp_path / "work")


def test_a_folder_without_a_tokenizer_cannot_become_one(counting_build: Path, tmp_path: Path) -> None:
    shutil.copytree(counting_build / "model", tmp_path / "mute")
    (tmp_path / "mute/tokenizer.json").unlink()
    source = imported(tmp_path / "mute", tmp_path / "source", ModelFormat.HUGGINGFACE)

    with pytest.raises(PassFailed, match="tokenizer"):
        converted(source, tmp_path / "work")


@pytest.mark.parametrize(
    ("quantize", "taken"),
    [({"dtype": "int8"}, False), ({"dtype": "fp16"}, True), ({"dtype": "int8", "mode": "weights"}, True)],
)
def test_only_weights_of_a_decoder_are_quantized(
    counting: dict[str, str], run_job: Callable[..., Any], quantize: dict[str, Any], taken: bool
) -> None:
    answer = run_job(plan(counting, {"convert": {"to": "genai"}}, {"quantize": quantize}))

    assert bool(answer.result) == taken
    assert taken or "weights of a decoder" in answer.failure.message


def test_an_engine_of_the_user_gets_the_folder_as_transformers_has_it(
    counting: dict[str, str], run_job: Callable[..., Any], directory_store: Any, tmp_path: Path
) -> None:
    answer = run_job(plan(counting) | {"forEngine": True})

    assert answer.result, answer.failure
    directory_store.pull(f"oci://{answer.result.artifact}", tmp_path / "artifact")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "artifact")
    module = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "artifact")
    tokens = module.generate(**tokenizer("after three", return_tensors="pt"), max_new_tokens=2, do_sample=False)
    assert tokenizer.decode(tokens[0]) == "after three comes four"


def test_without_an_engine_a_module_is_not_served(counting: dict[str, str], run_job: Callable[..., Any]) -> None:
    answer = run_job(plan(counting))

    assert "cannot be served" in answer.failure.message
