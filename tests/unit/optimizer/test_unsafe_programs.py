"""What the file of a program brings besides a model is not run: pickles, guards, and text that torch makes code of."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trimtab_api.errors import InvalidPackage, UnsafeFormat
from trimtab_optimizer.predict import predictor_of
from trimtab_testing.programs import Linear, Trap, edited, exported, imported, repacked, write


@pytest.fixture
def trap(tmp_path: Path) -> Iterator[Path]:
    """A folder that is there only if something ran."""
    path = tmp_path / "sprung"
    yield path
    assert not path.exists()


def test_pickles_of_a_program_that_are_not_needed_are_not_read(tmp_path: Path, trap: Path) -> None:
    folder = write(tmp_path / "package", exported(Linear()))
    torch.save(Trap(trap), tmp_path / "trap")
    pickle = (tmp_path / "trap").read_bytes()
    repacked(folder / "model.pt2", {"data/sample_inputs/model.pt": pickle, "data/aotinductor/model/a.so": pickle})

    assert imported(folder).package.weights == "model.safetensors"


@pytest.mark.parametrize("place", ["weights", "constants"])
def test_pickled_tensors_of_a_program_are_refused(tmp_path: Path, trap: Path, place: str) -> None:
    folder = write(tmp_path / "package", exported(Linear()))
    torch.save(Trap(trap), tmp_path / "trap")
    entry = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
    repacked(folder / "model.pt2", {f"data/{place}/opaque_obj_0": (tmp_path / "trap").read_bytes()})
    listing = f"data/{place}/model_{place}_config.json"
    edited(folder / "model.pt2", listing, lambda found: found["config"].update({"weight": entry}))

    with pytest.raises(UnsafeFormat, match="weight is pickled: reading it can run any code"):
        imported(folder)


def _walk(value: Any, key: str) -> Iterator[dict[str, Any]]:
    """Yield each object that has a key, at any depth."""
    if isinstance(value, dict):
        if key in value:
            yield value
        for below in value.values():
            yield from _walk(below, key)
    if isinstance(value, list):
        for below in value:
            yield from _walk(below, key)


def _put(key: str, text: str) -> Callable[[Any], None]:
    return lambda program: next(_walk(program["graph_module"], key)).update({key: text})


def _name_of_an_input(text: str) -> Callable[[Any], None]:
    def put(program: Any) -> None:
        written = json.dumps(program).replace('"input"', json.dumps(text))
        program.clear()
        program.update(json.loads(written))

    return put


CALL = "__import__('os').mkdir({trap!r})"
FACTORY = {"default_factory_module": "os", "default_factory_name": "getcwd", "dict_context": []}
DEFAULTDICT = {"type": "collections.defaultdict", "context": json.dumps(FACTORY), "children_spec": []}
ENUM = {"type": "builtins.dict", "context": '[{"__enum__": true, "fqn": "os:mkdir", "name": "x"}]', "children_spec": []}


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (lambda trap: _put("expr_str", CALL.format(trap=trap)), "which is no arithmetic of lengths"),
        (lambda trap: _put("expr_str", "Symbol('s0').__class__"), "which is no arithmetic of lengths"),
        (lambda trap: _put("expr_str", f"Symbol({CALL.format(trap=trap)!r})"), "which is no arithmetic of lengths"),
        (lambda trap: _put("expr_str", "Pow(Integer(9), Pow(Integer(9), Integer(9)))"), "no arithmetic of lengths"),
        (lambda trap: _put("expr_str", "(" * 900 + "1" + ")" * 900), "which is no arithmetic of lengths"),
        (lambda trap: _name_of_an_input(f"x={CALL.format(trap=trap)}"), "which is no name"),
        (lambda trap: _put("name", f"y\n{CALL.format(trap=trap)}"), "which is no name"),
        (lambda trap: _put("parameter_name", "__class__.forward"), "which is no name"),
        (lambda trap: _put("target", "torch.serialization.os.mkdir"), "is no operator of torch"),
        (lambda trap: _put("target", "torch.ops.aten.from_file.default"), "is no operator of torch"),
        (lambda trap: _put("target", "torch.ops.aten.save"), "is no operator of torch"),
        (lambda trap: _put("target", "#mine:run"), "is no operator of torch"),
        (lambda trap: _put("out_spec", json.dumps([1, DEFAULTDICT])), "takes a 'collections.defaultdict'"),
        (lambda trap: _put("out_spec", json.dumps([1, ENUM])), "keys are no names"),
    ],
)
def test_text_that_torch_would_run_is_refused(
    tmp_path: Path, trap: Path, edit: Callable[[str], Callable[[Any], None]], named: str
) -> None:
    folder = write(tmp_path / "package", exported(Linear()))
    edited(folder / "model.pt2", "models/model.json", edit(str(trap)))

    with pytest.raises((UnsafeFormat, InvalidPackage), match=named):
        imported(folder)


def test_guards_of_a_program_are_not_compiled(tmp_path: Path, trap: Path) -> None:
    folder = write(tmp_path / "package", exported(Linear()))
    guard = f"L['input'].size()[0] > {CALL.format(trap=str(trap))}"
    edited(folder / "model.pt2", "models/model.json", lambda program: program.update(guards_code=[guard]))

    assert predictor_of(imported(folder), False).predict({"x": np.ones((2, 4), np.float32)})[0].shape == (2, 3)
