"""Why an operation cannot be compiled: what rules raise, what is known to help, and the error that lists it all."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from haste_edge.errors import Refusal, UnsupportedModelError
from haste_runtime.errors import GraphError
from haste_runtime.graph import Constant, Node, Shape
from haste_runtime.operators import infer_shape


class Refused(Exception):
    """Raised by a rule: why the call cannot be compiled, and what would help."""

    def __init__(self, reason: str, hint: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint


def checked_shape(node: Node, shapes: Mapping[str, Shape], constants: Mapping[str, Constant]) -> Shape:
    """The per-frame shape of what a node gives. Raises Refused where no kernel computes it so."""
    by_role = {role: constants[key] for role, key in node.constants.items()}
    try:
        return infer_shape(node, [shapes[name] for name in node.inputs], by_role)
    except GraphError as error:
        raise Refused(error.message, error.hint) from error


def refusals_error(refusals: Sequence[Refusal]) -> UnsupportedModelError:
    count = len(refusals)
    what = "1 operation that cannot" if count == 1 else f"{count} operations that cannot"
    lines = "".join(f"\n  {refusal}" for refusal in refusals)
    return UnsupportedModelError(f"The model has {what} be compiled:{lines}", refusals=tuple(refusals))


def location(stack_trace: str) -> str:
    """Where the model's source calls an operation: "file:line: code", or empty. Skips frames inside torch."""
    frames = re.findall(r'File "([^"]+)", line (\d+), in [^\n]*(?:\n\s+(?!File ")([^\n]+))?', stack_trace)
    own = [frame for frame in frames if not re.search(r"(^|(site|dist)-packages[/\\])torch[/\\]", frame[0])]
    if not own:
        return ""
    file, line, code = own[-1]
    return f"{file}:{line}: {code}".rstrip(": ")


_ADVICE = {
    "log_softmax": "Return the logits: the largest is the same.",
    "group_norm": "Only batch norm, whose statistics are fixed, can be compiled.",
    "layer_norm": "Only batch norm, whose statistics are fixed, can be compiled.",
    "instance_norm": "Only batch norm, whose statistics are fixed, can be compiled.",
}


def no_rule(operation: str) -> Refused:
    """For an operator without a rule, called as ATen calls it but for "aten."."""
    name = operation.split(".")[0].strip("_")
    return Refused("There is no kernel for this operation.", _ADVICE.get(name, "Rewrite or remove it."))
