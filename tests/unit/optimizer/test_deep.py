"""Deep modules are captured with three blocks of their stack where the others do the same, and as a whole elsewhere."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import transformers
from safetensors.torch import save_model
from torch import nn

from trimtab_api.package import Datatype, Tensor
from trimtab_api.spec import Convert, ModelFormat, ModelSource, OptimizationPass
from trimtab_optimizer.capturing.stacks import Stack, find_stack
from trimtab_optimizer.importers import empty, import_source
from trimtab_optimizer.importers.empty import empty_module
from trimtab_optimizer.package import Model, load_package
from trimtab_optimizer.passes.contract import Workplace
from trimtab_optimizer.passes.convert import convert
from trimtab_optimizer.predict import predictor_of

DEPTH = 6

CODE = """
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, number):
        super().__init__()
        self.number, self.layer = number, nn.Linear(16, 16)
        self.register_buffer("factor", torch.full((16,), 1.0 + number / 10){factor}, persistent=False)

    def forward(self, x, scale):
        {block}


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.into, self.out = nn.Linear(16, 16), nn.Linear(16, 16)
        self.blocks = {blocks}

    def forward(self, x):
        x = self.into(x)
        scale = x.mean(1, keepdim=True)
        {body}
        return self.out(x)


def build():
    return Network()
"""
BLOCK = "return x + torch.relu(self.layer(x)) * self.factor * scale"
BLOCKS = "nn.ModuleList(Block(number) for number in range(6))"
BODY = "for block in self.blocks: x = block(x, scale)"

OTHERWISE = {
    "by a window that most rows are shorter than": {
        "block": "return x + self.layer(x[:, : 16 if self.number < 3 else 32]).sum(1, keepdim=True)"
    },
    "by a number that is a length by chance": {
        "block": "return x + self.layer(x) / (x.shape[1] if self.number < 3 else 8)"
    },
    "by a number that is the number of rows by chance": {
        "block": "return x + self.layer(x) / (x.shape[0] if self.number < 3 else 2)"
    },
    "by the type of a buffer": {
        "factor": ".to(torch.float64 if number > 3 else torch.float32)",
        "block": "return x + torch.relu(self.layer(x)) * self.factor.float()",
    },
    "by its number": {"block": "return x + self.layer(x) * self.number"},
    "the last is told apart": {"block": "return x + (self.layer(x) if self.number < 5 else torch.relu(self.layer(x)))"},
    "each third is left out": {"body": "for n, block in enumerate(self.blocks): x = x if n == 3 else block(x, scale)"},
    "how many there are": {"body": "for block in self.blocks: x = block(x, scale)\n        x = x / len(self.blocks)"},
    "something in between": {"body": "for block in self.blocks: x = torch.tanh(block(x, scale))"},
    "all are read in the end": {
        "body": "seen = []\n        for block in self.blocks: x = block(x, scale); seen.append(x)\n"
        "        x = torch.stack(seen).sum(0)"
    },
    "the first ones are read by the last": {
        "body": "seen = []\n        for block in self.blocks[:3]: x = block(x, scale); seen.append(x)\n"
        "        for block in self.blocks[3:]: x = block(x, seen.pop())"
    },
    "one after another, and again": {"body": "for block in [*self.blocks, *self.blocks]: x = block(x, scale)"},
    "one that is several": {"blocks": "nn.ModuleList([Block(0)] * 6)"},
    "counted beforehand": {"body": "for n in range(6): x = self.blocks[n](x, scale)"},
}


@pytest.fixture(autouse=True)
def everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a module of any size be one that is too large."""
    monkeypatch.setattr(empty, "LARGEST_HELD", 0)


@pytest.fixture
def network(linear_package: Callable[..., Path]) -> Callable[..., Model]:
    """Write a package of six blocks; arguments change its code."""

    def write(block: str = BLOCK, blocks: str = BLOCKS, body: str = BODY, factor: str = "") -> Model:
        code = CODE.format(block=block, blocks=blocks, body=body, factor=factor)
        signature = {"datatype": "FP32", "shape": [-1, -1, 16]}
        folder = linear_package(code=code, inputs=[{"name": "x", **signature}], outputs=[{"name": "y", **signature}])
        namespace: dict[str, Callable[[], nn.Module]] = {}
        exec(code, namespace)
        torch.manual_seed(0)
        save_model(namespace["build"](), str(folder / "model.safetensors"))
        return load_package(folder)

    return write


def stack_of(model: Model) -> Stack | None:
    return find_stack(empty_module(model), model.package)


def assert_answers_as_the_module(model: Model, work: Callable[..., Workplace]) -> Model:
    made = convert(OptimizationPass(convert=Convert()), model, work("onnx")).model
    for rows, length in ((1, 40), (5, 7)):
        inputs = {item.name: made_up(item, rows, length) for item in model.package.inputs}
        expected, found = (predictor_of(item, False).predict(inputs) for item in (model, made))
        for one, other in zip(expected, found, strict=True):
            np.testing.assert_allclose(other, one, atol=1e-4, rtol=1e-4)
    return made


def made_up(tensor: Tensor, rows: int, length: int) -> Any:
    """Return random values, and for whole numbers ones."""
    shape = (rows, *(length if axis < 0 else axis for axis in tensor.shape[1:]))
    if tensor.datatype == Datatype.INT64:
        return np.ones(shape, np.int64)
    return np.random.default_rng(7).standard_normal(shape, np.float32)


def test_a_stack_of_blocks_that_do_the_same_is_found_and_answers_as_the_module(
    network: Callable[..., Model], work: Callable[..., Workplace]
) -> None:
    model = network()

    made = assert_answers_as_the_module(model, work)

    assert stack_of(model) == Stack("blocks", DEPTH)
    graph = onnx.load(made.weights, load_external_data=False)
    weights = {tensor.name for tensor in graph.graph.initializer}
    assert {f"module.blocks.{number}.layer.weight" for number in range(DEPTH)} <= weights


def test_a_sequence_is_a_stack_too(network: Callable[..., Model], work: Callable[..., Workplace]) -> None:
    model = network(blocks=f"nn.Sequential(*{BLOCKS})")

    assert_answers_as_the_module(model, work)
    assert stack_of(model) == Stack("blocks", DEPTH)


def test_buffers_of_other_types_that_are_in_no_file_keep_their_values(
    network: Callable[..., Model], work: Callable[..., Workplace]
) -> None:
    model = network(factor=".bfloat16()")

    assert_answers_as_the_module(model, work)
    assert stack_of(model) == Stack("blocks", DEPTH)


def test_what_blocks_read_and_add_to_together_goes_from_one_to_the_next(
    network: Callable[..., Model], work: Callable[..., Workplace]
) -> None:
    body = "for block in self.blocks: x = block(x, scale); scale.add_(1)"
    inner = "scale.add_(x.mean()); return x + self.layer(x) * scale"

    assert stack_of(network(body=body)) is None  # the sum is made between two blocks
    model = network(block=inner)
    assert_answers_as_the_module(model, work)


@pytest.mark.parametrize("change", OTHERWISE.values(), ids=OTHERWISE)
def test_blocks_that_differ_are_captured_one_by_one(
    change: dict[str, str], network: Callable[..., Model], work: Callable[..., Workplace]
) -> None:
    model = network(**change)

    assert stack_of(model) is None
    assert_answers_as_the_module(model, work)


def test_what_code_does_only_while_it_is_exported_is_seen(network: Callable[..., Model]) -> None:
    many = "many = self.number > 2 and torch.compiler.is_exporting()"

    assert stack_of(network(block=f"{many}\n        return x + self.layer(x) * (2 if many else 1)")) is None


SMALL = {"hidden_size": 32, "num_hidden_layers": DEPTH, "num_attention_heads": 4, "intermediate_size": 64}
WORDS: dict[str, Any] = SMALL | {"vocab_size": 100, "num_key_value_heads": 2}


@pytest.mark.parametrize(
    ("kind", "config", "is_deep"),
    [
        ("LlamaForCausalLM", transformers.LlamaConfig(**WORDS), True),
        ("BertModel", transformers.BertConfig(**SMALL, vocab_size=100), True),
        ("ViTForImageClassification", transformers.ViTConfig(**SMALL, image_size=32, patch_size=8), True),
        # Every second layer of it sees a window alone.
        ("Gemma2ForCausalLM", transformers.Gemma2Config(**WORDS, head_dim=8, sliding_window=4), False),
    ],
)
def test_models_of_transformers_answer_as_they_did(
    kind: str, config: Any, is_deep: bool, work: Callable[..., Workplace], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    getattr(transformers, kind)(config).save_pretrained(tmp_path / "tiny")
    described = ModelSource(uri="oci://registry.local:5000/models/tiny:v1", format=ModelFormat.HUGGINGFACE)
    model = import_source(described, tmp_path / "tiny", tmp_path / "imported")

    assert bool(stack_of(model)) == is_deep
    assert_answers_as_the_module(model, work)


SLIDING = """
from transformers import Qwen2Config, Qwen2Model
from torch import nn


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        sliding = {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 4}
        self.inner = Qwen2Model(Qwen2Config(**SMALL, **sliding))

    def forward(self, ids):
        return self.inner(input_ids=ids, use_cache=False)[0]


def build():
    return Network()
"""


def test_a_window_that_transformers_leaves_out_of_short_rows_is_seen(
    linear_package: Callable[..., Path], work: Callable[..., Workplace]
) -> None:
    code = f"SMALL = {WORDS!r}\n{SLIDING}"
    namespace: dict[str, Callable[[], nn.Module]] = {}
    exec(code, namespace)
    inputs = [{"name": "ids", "datatype": "INT64", "shape": [-1, -1]}]
    outputs = [{"name": "y", "datatype": "FP32", "shape": [-1, -1, 32]}]
    folder = linear_package(code=code, inputs=inputs, outputs=outputs)
    save_model(namespace["build"](), str(folder / "model.safetensors"))
    model = load_package(folder)

    assert stack_of(model) is None
    assert_answers_as_the_module(model, work)
