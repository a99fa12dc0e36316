"""A Numba target of our own: kernels become one relocatable object file for a named CPU.

Numba's own CPU target optimises and assembles every function again inside each of its callers; with kernels nested
seven deep that takes a minute. Here functions are only lowered and linked, and LLVM optimises the whole once. Nothing
of the object refers to Python or to Numba's runtime, so it can be kept on disk, loaded without importing Numba, or made
on one machine for another.

The target has a typing context, a target context, a dispatcher and a code generator apart from Numba's "cpu", so that
functions compiled for the host never leak in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import llvmlite.binding as llvm
import llvmlite.ir as ir
from numba.core import cgutils, codegen, cpu, dispatcher, registry, typing
from numba.core.compiler import Flags, compile_extra
from numba.core.compiler_lock import global_compiler_lock
from numba.core.descriptors import TargetDescriptor
from numba.core.target_extension import CPU, dispatcher_registry, jit_registry, target_override, target_registry

from haste_runtime.kernels.lowering import replace_arithmetic, replace_divisions

TARGET = "haste"
Progress = Callable[[str], None]


def _quiet(sentence: str) -> None:
    pass


@dataclass(frozen=True)
class Machine:
    """triple, cpu and features in LLVM's words; relocation "pic" for shared objects, "static" for loading here.

    features has to name those that `converts_halves` asks for, even where the cpu implies them.
    """

    triple: str
    cpu: str
    features: str = ""
    relocation: str = "static"
    code_model: str = "jitdefault"

    @property
    def converts_halves(self) -> bool:
        """Whether an instruction turns float16 into float32; without one LLVM would call a function that is nowhere.

        All 64-bit ARM CPUs have it, x86 ones with F16C (like all with AVX2), 32-bit ARM ones with VFPv4.
        """
        needed = {"x86_64": "+f16c", "armv7": "+fp16"}
        return self.triple.startswith("aarch64") or any(
            self.triple.startswith(kind) and word in self.features.split(",") for kind, word in needed.items()
        )

    def target_machine(self) -> Any:
        llvm.initialize_all_targets()
        llvm.initialize_all_asmprinters()
        return llvm.Target.from_triple(self.triple).create_target_machine(
            cpu=self.cpu, features=self.features, opt=3, reloc=self.relocation, codemodel=self.code_model
        )


def this_machine() -> Machine:
    return Machine(
        llvm.get_process_triple(), llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()
    )  # fmt: skip


class _Module(ir.Module):
    """Knows which machine it is for, which intrinsics may ask."""

    def __init__(self, name: str, machine: Machine) -> None:
        super().__init__(name)
        self.machine = machine
        self.triple = machine.triple


class _Haste(CPU):
    """The target's token in Numba's registries; a CPU as far as implementations are concerned."""


class _Library(codegen.AOTCodeLibrary):
    """Functions of one dispatcher. Only linked: the passes run once, over everything."""

    def _optimize_functions(self, module: Any) -> None:
        pass

    def _optimize_final_module(self) -> None:
        pass

    def get_pointer_to_function(self, name: str) -> int:
        return 0


class _Codegen(codegen.AOTCPUCodegen):
    _library_class = _Library

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        super().__init__(TARGET, cpu_name=machine.cpu)

    def _init(self, module: Any) -> None:
        self._tm_features = self._machine.features
        self._tm = self._machine.target_machine()
        self._target_data = self._tm.target_data
        self._data_layout = str(self._target_data)
        self._engine = None
        self._loopvect, self._opt_level = False, 0

    def _create_empty_module(self, name: str) -> Any:
        module = _Module(cgutils.normalize_ir_text(name), self._machine)
        if self._data_layout:
            module.data_layout = self._data_layout
        return module

    def set_env(self, name: str, env: Any) -> None:
        pass

    def magic_tuple(self) -> tuple[str, str, str]:
        return (self._machine.triple, self._machine.cpu, self._machine.features)


class _Context(cpu.CPUContext):
    machine: Machine

    @global_compiler_lock
    def init(self) -> None:
        self.is32bit = False  # offsets are 64-bit everywhere; Numba's 32-bit helpers would be undefined symbols
        self._internal_codegen = _Codegen(self.machine)

    def get_executable(self, library: Any, fndesc: Any, env: Any) -> Any:
        return [].append  # the dispatcher wants a builtin of its own; nobody calls it

    def create_cpython_wrapper(self, *args: Any, **kwargs: Any) -> None:
        pass

    def create_cfunc_wrapper(self, *args: Any, **kwargs: Any) -> None:
        pass


class _Announcing(dispatcher.Dispatcher):
    """Tells which kernel is translated."""

    progress: Progress

    def compile(self, signature: Any) -> Any:
        if signature not in self.overloads:
            type(self).progress(f"translating {self.py_func.__name__}")
        return super().compile(signature)


class _Target(TargetDescriptor):
    options = cpu.CPUTargetOptions

    def __init__(self, machine: Machine, progress: Progress) -> None:
        registry.cpu_target.target_context.refresh()  # Numba's own target initialises what both share
        self._typing = typing.Context()
        context = type("_MachineContext", (_Context,), {"machine": machine})
        self._target = context(self._typing, TARGET)
        self._adopted: dict[Any, Any] = {}
        self._swapped: dict[Any, Any] = {}
        self.dispatcher = type("_Dispatcher", (_Announcing,), {"targetdescr": self, "progress": progress})
        super().__init__(TARGET)

    @property
    def typing_context(self) -> Any:
        return self._typing

    @property
    def target_context(self) -> Any:
        return self._target

    def decorate(self, function: Callable[..., Any], **options: Any) -> Any:
        """What ``njit`` is on this target."""
        kept = {k: v for k, v in options.items() if k in ("inline", "forceinline")}
        return self.dispatcher(
            function, targetoptions={"nopython": True, "error_model": "numpy", "boundscheck": False, **kept}
        )

    def adopt(self, function: Any) -> Any:
        """A copy of a Python function in which every kernel it calls is a dispatcher of this target."""
        python = getattr(function, "py_func", function)
        if python not in self._adopted:
            copy = FunctionType(python.__code__, {}, python.__name__, python.__defaults__, python.__closure__)
            copy.__module__, copy.__qualname__ = python.__module__, python.__qualname__
            self._adopted[python] = copy
            copy.__globals__.update(
                {name: self._swap(value) if name in python.__code__.co_names else value
                 for name, value in python.__globals__.items()}
            )  # fmt: skip
        return self._adopted[python]

    def _swap(self, value: Any) -> Any:
        if isinstance(value, dispatcher.Dispatcher) and not isinstance(value, self.dispatcher):
            if value not in self._swapped:  # one dispatcher each, or a kernel is compiled once per caller
                self._swapped[value] = self.decorate(self.adopt(value.py_func))
            return self._swapped[value]
        return value


class _CurrentDispatcher:
    """Numba keeps one dispatcher class per target; ours depends on the machine being compiled for."""

    target: _Target

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.target.dispatcher(*args, **kwargs)

    @property
    def targetdescr(self) -> _Target:
        return self.target


_current = _CurrentDispatcher()


def _current_jit(function: Any = None, **options: Any) -> Any:
    """The decorator with which Numba compiles ``@overload`` implementations for this target."""
    if function is None:
        return lambda f: _current_jit(f, **options)
    return _current.target.decorate(function, **options)


target_registry[TARGET] = _Haste
dispatcher_registry[_Haste] = _current
jit_registry[_Haste] = _current_jit


def _flags() -> Flags:
    flags = Flags()
    flags.no_compile = True
    flags.no_cpython_wrapper = True
    flags.no_cfunc_wrapper = True
    flags.error_model = "numpy"
    flags.boundscheck = False
    return flags


def _export(context: Any, module: Any, symbol: str, compiled: Any) -> None:
    """Add a function ``symbol`` with the C calling convention around a compiled one that returns nothing."""
    description = compiled.fndesc
    kind = context.call_conv.get_function_type(description.restype, description.argtypes)
    callee = ir.Function(module, kind, description.llvm_func_name)
    arguments = [context.get_value_type(a) for a in description.argtypes]
    wrapper = ir.Function(module, ir.FunctionType(ir.VoidType(), arguments), symbol)
    builder = ir.IRBuilder(wrapper.append_basic_block("entry"))
    context.call_conv.call_function(builder, callee, description.restype, description.argtypes, wrapper.args)
    builder.ret_void()


def _optimise(module: Any, machine: Any) -> None:
    tuning = llvm.create_pipeline_tuning_options(speed_level=3)
    tuning.loop_vectorization = tuning.slp_vectorization = True
    tuning.loop_unrolling = tuning.loop_interleaving = True
    builder = llvm.create_pass_builder(machine, tuning)
    builder.getModulePassManager().run(module, builder)


@dataclass(frozen=True)
class Object:
    """An ELF object file, its assembly text, and the symbols it expects from elsewhere."""

    code: bytes
    assembly: str
    undefined: tuple[str, ...]


@global_compiler_lock
def compile_object(
    functions: dict[str, tuple[Any, Any]], machine: Machine, assembly: bool = False, progress: Progress = _quiet
) -> Object:
    """Compile kernels {symbol: (kernel, signature returning void)} and all that they call.

    Signatures hold integers and ``CPointer`` only. The same input gives the same bytes. ``progress`` hears a sentence
    whenever another kernel has been translated, and before LLVM's work.
    """
    target = _Target(machine, progress)
    _current.target = target
    types, context = target.typing_context, target.target_context
    types.refresh()
    context.refresh()
    generator = context.codegen()
    library = generator.create_library("haste")
    wrappers = generator._create_empty_module("exports")
    with target_override(TARGET):
        for symbol, (function, signature) in functions.items():
            compiled = compile_extra(
                types, context, target.adopt(function), signature.args, signature.return_type, _flags(), locals={},
                library=library,
            )  # fmt: skip
            _export(context, wrappers, symbol, compiled)
    library.add_ir_module(wrappers)
    module = library._final_module
    for linked in dict.fromkeys(library._linking_libraries):
        if isinstance(linked, _Library):
            module.link_in(linked._get_module_for_linking(), preserve=True)
    for function in module.functions:
        if not function.is_declaration:
            function.add_function_attribute("nounwind")  # no tables for exceptions, and nothing that reads them
            if function.name not in functions:
                function.linkage = "internal"
    for variable in module.global_variables:
        if variable.name.startswith("_ZN08NumbaEnv"):
            variable.linkage = "internal"
    progress("translated; LLVM optimises the whole")
    if machine.triple.startswith("armv7"):
        module = llvm.parse_assembly(replace_arithmetic(str(module)))
    _optimise(module, generator._tm)
    if machine.triple.startswith("armv7"):
        module = llvm.parse_assembly(replace_divisions(str(module)))
    module.verify()
    undefined = tuple(
        f.name for f in module.functions if f.is_declaration and not f.name.startswith("llvm.")
    )  # fmt: skip
    text = generator._tm.emit_assembly(module) if assembly else ""
    return Object(generator._tm.emit_object(module), text, undefined)
