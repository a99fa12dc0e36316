"""``haste-edge doctor``: what this computer can compile and run. It never fails."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module, metadata
from typing import Any

from haste_edge.cli.common import Debug, Json
from haste_runtime.cli.common import print_json

NEEDED = {"torch": "torch", "pydantic": "pydantic", "rich": "rich", "matplotlib": "matplotlib", "PIL": "pillow"}


def doctor(json: Json = False, debug: Debug = False) -> None:
    """Tell what this computer can compile and run, and what stands in the way."""
    from haste_runtime.cli.doctor import print_findings

    findings = report()
    print_json(findings) if json else print_findings(findings)


def report() -> dict[str, Any]:
    """The runtime's findings, and before them those about the compiler."""
    from haste_runtime.cli import doctor as device

    probes: dict[str, Callable[[], Any]] = {
        "haste_edge": _haste_edge,
        "compiler": _compiler,
        "targets": _targets,
        "demo": _demo,
    }
    findings = {topic: device.probe(examine) for topic, examine in probes.items()}
    runtime = device.report()
    advice = [f"{topic} is not in order: {found['error']}" for topic, found in findings.items() if "error" in found]
    return findings | runtime | {"advice": advice + runtime["advice"]}


def _haste_edge() -> dict[str, Any]:
    from haste_edge import __version__

    return {"version": __version__}


def _compiler() -> dict[str, Any]:
    """Versions of what compiling imports; a package that can't be imported is an error."""
    versions = {}
    for module, distribution in NEEDED.items():
        import_module(module)
        versions[distribution] = metadata.version(distribution)
    return versions


def _targets() -> dict[str, Any]:
    from haste_edge.targets import list_targets, load_target

    return {"found": [load_target(name).name for name in list_targets()]}


def _demo() -> dict[str, Any]:
    from haste_edge import demo

    return {"weights": str(demo.weights_path()), "pictures": str(demo.images_path())}
