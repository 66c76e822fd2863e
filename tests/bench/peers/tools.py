"""One run of one tool, in the environment that has it: python tools.py TOOL SOURCE TARGET

SOURCE is an ONNX file or a Hugging Face folder. TARGET is the ONNX file to write, in an empty folder; AutoRound, which
writes none, takes that folder. Prints the most memory that the process, or one that it started, held, in KiB.

Nothing but the standard library is imported before the tool: what it imports is part of its time.
"""

import resource
import runpy
import sys
from pathlib import Path
from typing import Any

_BLOCK = 32
_INT8 = {
    "type": "OnnxDynamicQuantization",
    "per_channel": True,
    "op_types_to_quantize": ["MatMul", "Gemm"],
    "save_as_external_data": True,
}
_INT4 = {
    "type": "OnnxBlockWiseRtnQuantization",
    "bits": 4,
    "block_size": _BLOCK,
    "is_symmetric": False,
    "accuracy_level": 4,
    "save_as_external_data": True,
}


def _ours_checkpoint(source: Path, target: Path) -> None:
    """As the Job does it above 1 GiB: a graph without values, which refers to the checkpoint, is quantized."""
    from trimtab_api.spec import ModelFormat, ModelSource
    from trimtab_optimizer.capturing.referring import export_referring
    from trimtab_optimizer.importers.huggingface import import_huggingface
    from trimtab_optimizer.streaming.rewrite import rewrite
    from trimtab_optimizer.streaming.schemes import Blockwise

    described = ModelSource(uri="oci://bench/llama:v1", format=ModelFormat.HUGGINGFACE)
    model = import_huggingface(described, source, target.parent / "source")
    graph = target.parent / "graph"
    graph.mkdir()
    export_referring(model, graph, seed=0)
    rewrite(graph / "model.onnx", target, Blockwise(4, _BLOCK, False), key="as the Job does, with a journal")


def _olive_int8(source: Path, target: Path) -> None:
    """As Olive does it by default, but with a scale for each output, which is what ours has."""
    _olive(source, target, _INT8)


def _olive_int8_bare(source: Path, target: Path) -> None:
    """The same without the optimization of the graph beforehand, which Olive does by default and ours never."""
    _olive(source, target, _INT8 | {"quant_preprocess": False})


def _olive_int4(source: Path, target: Path) -> None:
    _olive(source, target, _INT4)


def _olive(source: Path, target: Path, step: dict[str, Any]) -> None:
    from olive import run

    run(
        {
            "input_model": {"type": "ONNXModel", "model_path": str(source)},
            "passes": {"quantize": step},
            "cache_dir": str(target.parent / "cache"),  # empty: with results of an earlier run it would do nothing
            "output_dir": str(target.parent),
            "evaluate_input_model": False,
        }
    )


def _genai(source: Path, target: Path) -> None:
    """The command of the model builder, with the blocks that ours has."""
    folder = target.parent
    where = ["-m", str(source), "-o", str(folder), "-p", "int4", "-e", "cpu", "-c", str(folder / "cache")]
    options = [f"block_size={_BLOCK}", "is_symmetric=false", "accuracy_level=4"]
    sys.argv = ["builder", *where, "--extra_options", *options]
    runpy.run_module("onnxruntime_genai.models.builder", run_name="__main__", alter_sys=True)


def _autoround(source: Path, target: Path) -> None:
    """Rounding alone, which it does shard by shard; with the last matrix too, as the others do."""
    from auto_round import AutoRound

    options = {"bits": 4, "group_size": _BLOCK, "sym": False, "iters": 0, "disable_opt_rtn": True}
    made = AutoRound(str(source), device_map="cpu", quant_lm_head=True, **options)
    made.quantize_and_save(str(target.parent), format="auto_round")


TOOLS = {
    "checkpoint ours": _ours_checkpoint,
    "olive int8": _olive_int8,
    "olive int8 bare": _olive_int8_bare,
    "olive int4": _olive_int4,
    "genai": _genai,
    "autoround": _autoround,
}


def _peak() -> int:
    """Return KiB. Not getrusage of this process, which would count that of the parent before it became this one."""
    own = int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
    return max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)


if __name__ == "__main__":
    TOOLS[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
    print(_peak())
