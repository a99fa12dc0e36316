"""A model given as ``package.module:factory``, with weights from a safetensors state dict."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from haste_edge.errors import ModelError
from haste_edge.frontends.export import LoadedModel, load_module
from haste_runtime.graph import Shape

_SHOWN = 8  # keys named in an error message


def load_factory(spec: str, weights: Path | None, shapes: Sequence[Shape]) -> LoadedModel:
    """Import and call the factory, load the weights, export. ``shapes`` are per frame. Raises as `load_model`."""
    with _current_folder_importable():
        module = _make(spec)
        if weights is not None:
            load_weights(module, weights)
        source = spec if weights is None else f"{spec} with {weights.name}"
        return load_module(module, shapes, source)


@contextmanager
def _current_folder_importable() -> Iterator[None]:
    folder = os.getcwd()
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        if folder in sys.path:  # the model's code may have changed it
            sys.path.remove(folder)


def _make(spec: str) -> nn.Module:
    """Calls the factory that ``spec`` names. This runs the user's own code, as an import does."""
    name, _, path = spec.partition(":")
    try:
        found = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise ModelError(
                f"There is no Python module {name!r} in {os.getcwd()} or on PYTHONPATH.",
                "Run from the folder that holds it, or set PYTHONPATH.",
            ) from error
        raise ModelError(f"Importing {name!r} needs {error.name!r}.", "Install it in this environment.") from error
    except Exception as error:  # whatever the module does when imported
        raise ModelError(f"Importing {name!r} failed: {_say(error)}.", "Try it with python -c.") from error
    made: object = found
    for part in path.split("."):
        if not hasattr(made, part):
            own = [k for k, v in vars(found).items() if callable(v) and getattr(v, "__module__", None) == name]
            there = f"It has: {', '.join(sorted(own))}." if own else "It defines no functions or classes."
            raise ModelError(f"Module {name!r} has no {path!r}.", there)
        made = getattr(made, part)
    if not isinstance(made, nn.Module) and callable(made):
        try:
            made = made()
        except Exception as error:
            raise ModelError(
                f"{spec} cannot make the model: {_say(error)}.", "It must be callable without arguments."
            ) from error
    if not isinstance(made, nn.Module):
        raise ModelError(f"{spec} gives a {type(made).__name__}, not a torch.nn.Module.", "Let it return the model.")
    return made


def load_weights(module: nn.Module, path: Path) -> None:
    """Load a safetensors state dict of any float type, strictly.

    ``num_batches_tracked`` may be absent, and so may names of a tensor that is there under another name (tied weights).
    Raises ModelError listing what is missing, unexpected or of another shape.
    """
    try:
        given = safetensors.torch.load_file(path)
    except FileNotFoundError as error:
        raise ModelError(f"There is no file {path}.", "Give --weights a safetensors file.") from error
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{path} cannot be read as safetensors: {_say(error)}.",
            "Save the weights with safetensors.torch.save_file(model.state_dict(), 'weights.safetensors').",
        ) from error
    module.float()
    wanted = {key: value for key, value in module.state_dict().items() if not key.endswith("num_batches_tracked")}
    given = {key: value for key, value in given.items() if not key.endswith("num_batches_tracked")}
    there = {value.data_ptr() for key, value in wanted.items() if key in given and value.numel()}
    missing = [key for key, value in wanted.items() if key not in given and value.data_ptr() not in there]
    unexpected = [key for key in given if key not in wanted]
    shapes = [
        f"{key} is {tuple(given[key].shape)} where the model has {tuple(wanted[key].shape)}"
        for key in given
        if key in wanted and given[key].shape != wanted[key].shape
    ]
    problems = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    if any(problems.values()):
        said = "; ".join(f"{what}: {_some(keys)}" for what, keys in problems.items() if keys)
        raise ModelError(f"The weights in {path} do not fit the model ({said}).", _advice(wanted, given))
    module.load_state_dict({key: value.to(wanted[key].dtype) for key, value in given.items()}, strict=False)


def _some(keys: list[str]) -> str:
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return ", ".join(keys[:_SHOWN]) + more


def _advice(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    for prefix in sorted({key.split(".")[0] + "." for key in given}):
        if {key.removeprefix(prefix) for key in given} == set(wanted):
            return f"Its names begin with {prefix!r}: save the state dict without that, from the inner module."
    return "Give the weights of this very architecture, under the names of its state_dict()."


def _say(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__).rstrip(".")
