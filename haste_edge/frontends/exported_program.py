"""A model given as a ``.pt2`` file: its program is rebuilt, operator by operator, as a module of our own and exported
again, which makes in-place operators ordinary ones and proves the shapes.

Only operators of `aten_rules`, a few on constant weights, and integer arithmetic on sizes are ever called; every name
in the rebuilt module is made here. See `pt2_archive` for why PyTorch's own loader is not used.
"""

from __future__ import annotations

import keyword
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from haste_edge.errors import ModelError, Refusal, UnsupportedModelError
from haste_edge.frontends.aten_rules import RULES
from haste_edge.frontends.export import LoadedModel, load_module
from haste_edge.frontends.pt2_archive import DTYPES, Archive, read_archive
from haste_edge.frontends.refusals import location, no_rule, refusals_error
from haste_runtime.graph import Shape

# On weights, before the network proper: layouts and the arithmetic of weight normalisation.
_ON_CONSTANTS = {
    "expand.default",
    "numpy_T.default",
    "permute.default",
    "reciprocal.default",
    "rsqrt.default",
    "sqrt.default",
    "t.default",
    "transpose.int",
}

# On sizes. Assertions about them are left out: sizes are known when the module is exported again.
_ON_SIZES: Mapping[str, Callable[..., Any]] = {
    f"_operator.{name}": getattr(operator, name)
    for name in ("add", "sub", "mul", "floordiv", "mod", "neg", "eq", "ne", "ge", "gt", "le", "lt", "and_", "or_")
}
# Where and in which order the numbers lie: ours, whatever the file says.
_MEMORY = {"as_memory_format": torch.contiguous_format, "as_layout": torch.strided, "as_device": torch.device("cpu")}

_ASSERTIONS = {
    "_assert_scalar.default",
    "_assert_tensor_metadata.default",
    "sym_constrain_range.default",
    "sym_constrain_range_for_size.default",
}


def load_exported_program(path: Path, shapes: Sequence[Shape] | None) -> LoadedModel:
    """Load ``path``; ``shapes``, per frame, must agree with the program's where it fixes them. Raises as `load_model`.

    A program exported for one batch size works too: its frames do not mix, or it is refused.
    """
    archive = read_archive(path)
    try:
        rebuilt = _Rebuilt(archive)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        if isinstance(error, ModelError | UnsupportedModelError):
            raise
        raise ModelError(
            f"The program in {path} is damaged or of another version ({type(error).__name__}: {error}).",
            "Export it again with this version of PyTorch.",
        ) from error
    return load_module(rebuilt.module, rebuilt.frame_shapes(shapes), path.name, rebuilt.batch)


class _Rebuilt:
    """The module of a program. ``batch``: the size it is fixed to, or None."""

    def __init__(self, archive: Archive) -> None:
        program = archive.program["graph_module"]
        self._values: dict[str, Any] = {}  # the file's name -> node, or a number known now
        self._sizes: list[list[int | None]] = []  # of each input, batch first, None where dynamic
        self._graph = fx.Graph()
        self._root = nn.Module()
        self._refuse_unknown(program["graph"]["nodes"])
        self._add_inputs(program, archive)
        for node in program["graph"]["nodes"]:
            self._add(node)
        outputs = []
        for spec, item in zip(program["signature"]["output_specs"], program["graph"]["outputs"], strict=True):
            if "user_output" in spec:
                outputs.append(self._argument(item))
            elif "user_input_mutation" not in spec:
                raise ModelError("The program changes its own buffers.", "Export the model in eval mode.")
        self._graph.output(outputs[0] if len(outputs) == 1 else tuple(outputs))
        self.module = fx.GraphModule(self._root, self._graph)
        batches = {sizes[0] for sizes in self._sizes}
        if len(batches) != 1:
            raise ModelError("The program's inputs differ in their batch.", "Export it with one batch size for all.")
        self.batch = batches.pop()

    def frame_shapes(self, wanted: Sequence[Shape] | None) -> list[Shape]:
        own = [tuple(sizes[1:]) for sizes in self._sizes]
        if wanted is not None and len(wanted) != len(own):
            raise ModelError(f"The model has {len(own)} inputs, not {len(wanted)}.", "Give a shape for each, or none.")
        shapes: list[Shape] = []
        for index, sizes in enumerate(own):
            shape = sizes if wanted is None else wanted[index]
            said = "x".join("?" if size is None else str(size) for size in (1, *sizes))
            if any(size is None for size in shape):
                raise ModelError(f"The model takes maps of any size ({said}).", "Give one as in --input 1x3x32x32.")
            fits = len(shape) == len(sizes) and all(b in (None, a) for a, b in zip(shape, sizes, strict=True))
            if not fits:
                given = "x".join(map(str, (1, *shape)))
                raise ModelError(f"The model was exported for an input of {said}, not {given}.", "Leave out --input.")
            shapes.append(tuple(int(size) for size in shape if size is not None))
        return shapes

    # --- inputs and weights -----------------------------------------------------------------------------------------

    def _add_inputs(self, program: Mapping[str, Any], archive: Archive) -> None:
        metas = program["graph"]["tensor_values"]
        for spec in program["signature"]["input_specs"]:
            ((kind, content),) = spec.items()
            if kind in ("parameter", "buffer", "tensor_constant"):
                self._values[content["arg"]["name"]] = self._weight(content[f"{kind}_name"], archive)
            elif kind == "user_input" and "as_tensor" in content["arg"]:
                name = content["arg"]["as_tensor"]["name"]
                number = len(self._sizes) + 1
                safe = name if _usable(name) and name not in self._values else f"input_{number}_of_the_file"
                self._values[name] = self._graph.placeholder(safe)
                sizes = metas[name]["sizes"]
                self._sizes.append([int(size["as_int"]) if "as_int" in size else None for size in sizes])
                if metas[name]["dtype"] != 7 or len(sizes) not in (2, 4):
                    raise ModelError(
                        f"Input {safe!r} is not a float32 tensor (N, C, H, W) or (N, F).",
                        "Only such inputs can be compiled.",
                    )
            elif kind != "constant_input":
                raise ModelError(f"The program has an input of kind {kind!r}.", "Only tensors can be compiled.")
        if not self._sizes:
            raise ModelError("The program has no input.", "Export a model that takes an image.")

    def _weight(self, key: str, archive: Archive) -> fx.Node:
        """Registers a tensor under its name in the state dict, on modules made as needed."""
        if not re.fullmatch(r"[A-Za-z0-9_]+([.][A-Za-z0-9_]+)*", key):
            raise ModelError(f"{key!r} is not the name of a weight.", "Export the model again.")
        *path, last = key.split(".")
        owner = self._root
        for part in path:
            if part not in owner._modules:
                owner.add_module(part, nn.Module())
            owner = owner.get_submodule(part)
        if last not in owner._buffers:
            owner.register_buffer(last, archive.tensors[key])
        return self._graph.get_attr(key)

    # --- operators --------------------------------------------------------------------------------------------------

    def _refuse_unknown(self, nodes: Sequence[Mapping[str, Any]]) -> None:
        refusals: list[Refusal] = []
        for node in nodes:
            if _operation(node["target"]) is None:
                target = _printable(node["target"]).removeprefix("torch.ops.")
                why = no_rule(target.removeprefix("aten."))
                path = "".join(_module_stack(node["metadata"])) or _printable(_name_of(node["outputs"][0]))
                where = location(_stack_trace(node["metadata"]))
                refusals.append(Refusal(path, target, where, why.reason, why.hint))
        if refusals:
            raise refusals_error(refusals)

    def _add(self, node: Mapping[str, Any]) -> None:
        target = _operation(node["target"])
        if target is None or node["target"].removeprefix("torch.ops.aten.") in _ASSERTIONS:
            return
        positional, named = [], {}
        for argument in node["inputs"]:
            value = self._argument(argument["arg"])
            if argument["kind"] == 2:
                named[_identifier(argument["name"])] = value
            else:
                positional.append(value)
        made = self._graph.call_function(target, tuple(positional), named)
        made.meta["nn_module_stack"] = _module_stack(node["metadata"])
        made.meta["stack_trace"] = _stack_trace(node["metadata"])
        outputs = [_name_of(output) for output in node["outputs"]]
        if len(outputs) == 1:
            self._values[outputs[0]] = made
        else:
            for index, name in enumerate(outputs):
                self._values[name] = self._graph.call_function(operator.getitem, (made, index))
                self._values[name].meta.update(made.meta)

    def _argument(self, argument: Mapping[str, Any]) -> Any:
        ((kind, value),) = argument.items()
        if kind == "as_none":
            return None
        if kind in ("as_tensor", "as_sym_int", "as_sym_float", "as_sym_bool"):
            return self._number_or_value(value)
        if kind in ("as_tensors", "as_sym_ints", "as_optional_tensors"):
            return [self._number_or_value(item) for item in value]
        if kind == "as_scalar_type":
            return DTYPES[value]
        if kind == "as_float":
            return float(value)  # "Infinity" is written as text
        if kind in ("as_int", "as_bool", "as_string", "as_ints", "as_floats", "as_bools"):
            return value
        if kind in _MEMORY:
            return _MEMORY[kind]
        raise ModelError(f"The program has an argument of kind {kind!r}.", "Only tensors and numbers can be compiled.")

    def _number_or_value(self, item: Mapping[str, Any]) -> Any:
        if "as_none" in item:
            return None
        for kind in ("as_int", "as_float", "as_bool"):
            if kind in item:
                return item[kind]
        return self._values[_name_of(item)]


def _operation(target: str) -> Callable[..., Any] | None:
    """What to call for an operator's name in the file; None for everything not on the lists."""
    if target in _ON_SIZES:
        return _ON_SIZES[target]
    match = re.fullmatch(r"torch[.]ops[.]aten[.](\w+)[.](\w+)", target)
    if match is None:
        return None
    name, overload = match.groups()
    known = {*RULES, *_ON_CONSTANTS, *_ASSERTIONS, "sym_size.int"}
    in_place = f"{name.removesuffix('_')}.{overload}"
    if f"{name}.{overload}" not in known and in_place not in known:
        return None
    packet = getattr(torch.ops.aten, name, None)
    return None if packet is None else getattr(packet, overload, None)


def _name_of(item: Mapping[str, Any]) -> str:
    """The name in as_tensor, as_sym_int (as_name) or a bare {"name": ...}."""
    for key in ("name", "as_name"):
        if key in item:
            return str(item[key])
    for key in ("as_tensor", "as_sym_int", "as_sym_bool", "as_sym_float"):
        if key in item:
            return _name_of(item[key])
    if "as_none" in item:
        return ""
    raise ValueError(f"no name in {sorted(item)}")


def _identifier(name: str) -> str:
    if not re.fullmatch(r"[a-z_]+", name):
        raise ValueError(f"{name!r} is not an argument")
    return name


def _usable(name: str) -> bool:
    """Whether an input may keep its name, which becomes an argument of a Python function of ours."""
    plain = re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,63}", name) and not name.endswith("_of_the_file")
    return (
        bool(plain)
        and not keyword.iskeyword(name)
        and name not in ("self", "torch", "operator", "inf", "nan", "device")
    )


def _printable(text: str) -> str:
    return re.sub(r"[^\x20-\x7e]", "?", text)[:200]


def _module_stack(metadata: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """The innermost module of a node: path and class, if both are plain names."""
    innermost = metadata.get("nn_module_stack", "").split(";")[-1].split(",")
    if len(innermost) == 3 and re.fullmatch(r"[\w.]+", innermost[1]) and re.fullmatch(r"[\w.]+", innermost[2]):
        return {innermost[1]: (innermost[1], innermost[2])}
    return {}


def _stack_trace(metadata: Mapping[str, str]) -> str:
    """The last frame of the model's own source, in the form of a stack trace but of printable characters alone."""
    match = re.fullmatch(r"(.*?):([0-9]+)(?:: (.*))?", _printable(location(metadata.get("stack_trace", ""))))
    if match is None:
        return ""
    file, line, code = match.groups()
    return f'File "{file}", line {line}, in forward\n    {code or ""}'
