"""Write docs/supported.md: what can be compiled, from the operator table, the front ends' rules and the backends.

python tools/write_supported.py

Which operators a rule makes is read from its source: the names that it, or a function it calls, gives to ``emit``,
``make`` or ``Node``.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FunctionType
from typing import Any

from haste_edge.frontends.aten_rules import RULES as ATEN
from haste_edge.frontends.onnx_rules import RULES as ONNX
from haste_edge.frontends.tflite_rules import RULES as TFLITE
from haste_runtime.attributes import ACTIVATIONS, BINARY, UNARY
from haste_runtime.operators import OPERATORS
from haste_runtime.reference_ops import FUNCTIONS
from haste_runtime.table_rows import ROWS

PAGE = Path(__file__).resolve().parents[1] / "docs" / "supported.md"
FRONTENDS: Mapping[str, Mapping[str, Callable[..., Any]]] = {"PyTorch (ATen)": ATEN, "ONNX": ONNX, "TFLite": TFLITE}
WITH_WEIGHTS = ("conv", "linear")  # of which `haste_runtime.table.Builder` makes rows itself
MERGES = {"conv": "with a square kernel, stride and dilation, one group, and two or more input channels"}
MAKERS = ("emit", "make", "Node")

HEAD = """# What can be compiled

Written by `python tools/write_supported.py` from the operator table (`haste_runtime.operators`), the rules of the front
ends and the kernels. An operator that is missing is refused, as is a use that no kernel computes; the refusal names the
node, its place in the source, the reason and what would help. `haste-edge inspect` shows what a model became.

Each row is an operator of the graph, and what becomes one. A function of a front end may need several: a transposed
convolution is a `conv`, a `rearrange` and a `slice`. Between reading and running, batch norm, padding, activations and
additions are folded into layers where that is exact, and what only moves numbers is joined, or vanishes: `reshape` and
`rearrange` are left where a value has to lie in another order than it was made in.
"""


def emitted(rule: Callable[..., Any], seen: set[object] | None = None) -> set[str]:
    """The graph's operators that a rule may make."""
    seen = set() if seen is None else seen
    if not isinstance(rule, FunctionType) or rule in seen or not rule.__module__.startswith("haste_edge.frontends"):
        return set()
    seen.add(rule)
    found: set[str] = set()
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(rule)))):
        if isinstance(node, ast.Call):
            found.update(_made(node))
        elif isinstance(node, ast.Name) and node.id in rule.__globals__:
            found |= emitted(rule.__globals__[node.id], seen)
    return found


def _made(call: ast.Call) -> Iterator[str]:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    operator = call.args[1] if name in MAKERS and len(call.args) > 1 else None
    if isinstance(operator, ast.Constant) and operator.value in OPERATORS:
        yield str(operator.value)


def listed(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(set(names))) or "-"


def by_operator(rules: Mapping[str, Callable[..., Any]]) -> dict[str, list[str]]:
    """Operator of the graph, or "" for none -> names in the front end, without ATen's overloads."""
    found: dict[str, list[str]] = {"": []}
    for name, rule in rules.items():
        for operator in emitted(rule) or {""}:
            found.setdefault(operator, []).append(name.partition(".")[0].strip("_"))
    return found


def page() -> str:
    columns = {title: by_operator(rules) for title, rules in FRONTENDS.items()}
    backends = {"numpy": set(FUNCTIONS), "numba, native": {*ROWS, *WITH_WEIGHTS}}
    titles = ["operator", *columns, *backends, "may merge"]
    lines = [HEAD, f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    for operator in OPERATORS:
        made = [listed(names.get(operator, [])) for names in columns.values()]
        runs = ["yes" if operator in known else "no" for known in backends.values()]
        lines.append(f"| `{operator}` | {' | '.join([*made, *runs, MERGES.get(operator, 'no')])} |")
    nothing = [listed(names[""]) for names in columns.values()]
    lines.append(f"| none: only seen in another way, or folded | {' | '.join(nothing)} | | | |")
    lines += [
        "",
        f"Functions of `unary`: {', '.join(UNARY)}. Of `binary`: {', '.join(BINARY)}. Activations that end another "
        f"operator: {', '.join(ACTIVATIONS[1:])}.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    PAGE.write_text(page())


if __name__ == "__main__":
    main()
