"""What may stand in the graph of a program: names, operators that compute, and arithmetic of lengths. Nothing else.

torch turns texts of a graph into Python: names become source code, lengths are evaluated, guards are compiled, the
forms of inputs and outputs import modules by name. So each text is held against what its place needs. What only tells
of where a program came from (stack traces, metadata) and what is checked anyway (guards on inputs) is taken out.
"""

import ast
import json
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from trimtab_api.errors import InvalidPackage, UnsafeFormat

_NAME: Final = re.compile(r"(?!__)[A-Za-z0-9_]*(\.(?!__)[A-Za-z0-9_]*)*", re.ASCII)
_NUMBER: Final = re.compile(r"-?(Infinity|inf|nan|NaN)", re.ASCII)
_OPERATOR: Final = re.compile(
    r"torch\.ops\.(aten|prims)\.\w+(\.\w+)?"
    r"|torch\.ops\.higher_order\.(cond|while_loop|wrap_with_set_grad_enabled|wrap_with_autocast)"
    r"|(_operator|math)\.[a-z]\w*|torch\.sym_\w+",
    re.ASCII,
)
_READS_FILES: Final = re.compile(r"torch\.ops\.aten\.(from_file|save|load)\b", re.ASCII)

# Lengths are written as sympy does it: Add(Mul(Integer(2), Symbol('s0', integer=True)), Integer(1)).
_SYMBOL: Final = re.compile(r"[A-Za-z]\w*", re.ASCII)
_FLOAT: Final = re.compile(r"-?[0-9.]+(e[+-]?[0-9]+)?", re.ASCII)
_QUOTED: Final[Mapping[str, re.Pattern[str]]] = MappingProxyType({"Symbol": _SYMBOL, "Float": _FLOAT})
_ASSUMED: Final = frozenset({"positive", "negative", "nonnegative", "integer", "real", "precision"})
_FUNCTIONS: Final = re.compile(
    "Abs|Add|And|CeilToInt|CeilDiv|CleanDiv|Eq|Equality|Float|FloatPow|FloatTrueDiv|FloorDiv|FloorToInt|Ge|GreaterThan"
    "|Gt|Identity|IntTrueDiv|Integer|LShift|Le|LessThan|Lt|Max|Min|Mod|ModularIndexing|Mul|Ne|Not|Or|Pow|PowByNatural"
    "|PythonMod|RShift|Rational|RoundToInt|StrictGreaterThan|StrictLessThan|Symbol|ToFloat|TruncToFloat|TruncToInt"
    "|Unequality|Where|ceiling|floor"
)
_ARITHMETIC: Final = (
    *(ast.Expression, ast.Load, ast.BinOp, ast.UnaryOp, ast.Compare),
    *(ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow, ast.USub, ast.UAdd),
    *(ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE),
)
_LONGEST: Final = 2000  # of an expression
_HIGHEST: Final = 16  # of an exponent

# Containers of outputs, and what each is made again as.
_CONTAINERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "builtins.tuple": "builtins.tuple",
        "builtins.list": "builtins.list",
        "builtins.dict": "builtins.dict",
        "collections.namedtuple": "builtins.tuple",
        "collections.OrderedDict": "builtins.dict",
        "torch.fx.immutable_collections.immutable_list": "builtins.list",
        "torch.fx.immutable_collections.immutable_dict": "builtins.dict",
    }
)
_LEAF: Final[dict[str, Any]] = {"type": None, "context": None, "children_spec": []}


def checked_program(program: dict[str, Any]) -> dict[str, Any]:
    """Return a program with what is needed of it. Raises UnsafeFormat for text that does not belong into its place."""
    module = program["graph_module"]
    entry = module["module_call_graph"][0]
    module["module_call_graph"] = [{**entry, "fqn": ""}]
    program |= {"torch_version": "", "guards_code": []}
    module |= {"metadata": {}, "treespec_namedtuple_fields": {}}
    found: dict[str, Any] = _checked("", program)
    return found


def names_of_inputs(program: dict[str, Any]) -> tuple[int, list[str]]:
    """Return how many inputs go by position, and the names of those that follow by keyword.

    Raises InvalidPackage for inputs in containers.
    """
    _, spec = json.loads(_signature(program)["in_spec"])
    positional, keywords = spec["children_spec"]
    if any(item["children_spec"] for item in (*positional["children_spec"], *keywords["children_spec"])):
        raise InvalidPackage("the program takes tensors in lists or dicts; export a module that takes tensors alone")
    return len(positional["children_spec"]), list(json.loads(keywords["context"]))


def by_position(program: dict[str, Any], count: int) -> None:
    """Let a program take all inputs by position, in the order it has them."""
    empty = {"type": "builtins.dict", "context": "[]", "children_spec": []}
    inputs = {"type": "builtins.tuple", "context": "null", "children_spec": [_LEAF] * count}
    spec = {"type": "builtins.tuple", "context": "null", "children_spec": [inputs, empty]}
    names = [f"input_{number}" for number in range(count)]
    _signature(program).update({"in_spec": json.dumps([1, spec]), "forward_arg_names": names})


def _signature(program: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = program["graph_module"]["module_call_graph"][0]["signature"]
    return found


def _checked(key: str, value: Any) -> Any:
    """Return a value, and all below it, as it may be used; `key` is where it stands."""
    if key == "metadata":
        return {}
    if isinstance(value, dict):
        return {_name(name): _checked(name, below) for name, below in value.items()}
    if isinstance(value, list):
        return [_checked(key, below) for below in value]
    return _TEXTS.get(key, _name)(value) if isinstance(value, str) else value


def _name(text: str) -> str:
    if not (_NAME.fullmatch(text) or _NUMBER.fullmatch(text)):
        raise _refused(text, "is no name")
    return text


def _operator(text: str) -> str:
    if not _OPERATOR.fullmatch(text) or _READS_FILES.match(text):
        raise _refused(text, "is no operator of torch that computes with tensors")
    return text


def _expression(text: str) -> str:
    """Check what torch will evaluate: sums, products and a few functions of lengths."""
    try:
        parsed = ast.parse(text[: _LONGEST + 1], mode="eval") if len(text) <= _LONGEST else None
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        parsed = None
    if parsed is None or not _is_arithmetic(parsed):
        raise _refused(text, "is no arithmetic of lengths")
    return text


def _is_arithmetic(node: ast.AST) -> bool:
    """Say whether evaluating a tree can do no more than compute."""
    if isinstance(node, ast.Call):
        return _is_plain_call(node)
    if isinstance(node, ast.Name):
        return bool(_SYMBOL.fullmatch(node.id))
    if isinstance(node, ast.Constant):
        return type(node.value) in (int, float, bool)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow) and not _is_small(node.right):
        return False
    return isinstance(node, _ARITHMETIC) and all(_is_arithmetic(below) for below in ast.iter_child_nodes(node))


def _is_plain_call(node: ast.Call) -> bool:
    name = node.func.id if isinstance(node.func, ast.Name) else ""
    if not _FUNCTIONS.fullmatch(name) or not all(_is_assumption(keyword) for keyword in node.keywords):
        return False
    if name in _QUOTED:
        return len(node.args) == 1 and _is_quoted(node.args[0], _QUOTED[name])
    if "Pow" in name and not (len(node.args) == 2 and _is_small(node.args[1])):
        return False
    return all(_is_arithmetic(argument) for argument in node.args)


def _is_assumption(keyword: ast.keyword) -> bool:
    return keyword.arg in _ASSUMED and isinstance(keyword.value, ast.Constant) and isinstance(keyword.value.value, int)


def _is_quoted(node: ast.AST, form: re.Pattern[str]) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and bool(form.fullmatch(node.value))


def _is_small(power: ast.AST) -> bool:
    """Say whether a number can be such a power: towers of them would compute for ever."""
    if isinstance(power, ast.Call) and isinstance(power.func, ast.Name) and power.func.id == "Integer" and power.args:
        power = power.args[0]
    if isinstance(power, ast.UnaryOp) and isinstance(power.op, ast.USub):
        power = power.operand
    return isinstance(power, ast.Constant) and type(power.value) is int and power.value <= _HIGHEST


def _form(text: str) -> str:
    """Return the form of inputs or outputs, made of plain containers."""
    version, spec = json.loads(text)
    if version != 1:
        raise InvalidPackage(f"the program describes its outputs in a way of its own ({version!r}); export it again")
    return json.dumps([1, _container(spec)])


def _container(spec: dict[str, Any]) -> dict[str, Any]:
    if spec["type"] is None:
        return _LEAF
    if spec["type"] not in _CONTAINERS:
        said = "export a module that gives tensors, or a tuple or dict of them"
        raise InvalidPackage(f"the program gives or takes a {spec['type']!r}; {said}")
    kind = _CONTAINERS[spec["type"]]
    keys = json.loads(spec["context"]) if kind == "builtins.dict" else None
    if keys is not None and not all(isinstance(name, str) for name in keys):
        raise InvalidPackage("the program gives a dict whose keys are no names; export one with names")
    below = [_container(item) for item in spec["children_spec"]]
    return {"type": kind, "context": json.dumps(keys), "children_spec": below}


def _refused(text: str, why: str) -> UnsafeFormat:
    said = f"the program has {text[:80]!r}, which {why}"
    return UnsafeFormat(f"{said}; it is not read, since torch would run it: export the model again with torch.export")


def _kept(text: str) -> str:
    """Keep an argument of an operator, such as the equation of einsum: torch writes it as a quoted text."""
    return text


_TEXTS: Final[Mapping[str, Callable[[str], str]]] = MappingProxyType(
    {
        "target": _operator,
        "as_operator": _operator,
        "expr_str": _expression,
        "in_spec": _form,
        "out_spec": _form,
        "as_string": _kept,
        "as_strings": _kept,
    }
)
