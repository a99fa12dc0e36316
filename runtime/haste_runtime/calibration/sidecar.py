"""The file a calibration is kept in: ``net.haste.calibration.json`` beside the bundle, which itself never changes.

Where that folder cannot be written to, it is a file in the cache folder instead, named by the bundle's checksum. Plain
JSON; whatever is not exactly as expected there is told as a reason, and never believed.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from haste_runtime import __version__
from haste_runtime.bundle_container import open_container
from haste_runtime.cache import cache_folders, write_whole
from haste_runtime.calibration.record import Calibration, CalibrationError, Cost, Key

VERSION = 1
SUFFIX = ".calibration.json"
MOST_BYTES = 1 << 20
NONE_YET = "it has not been calibrated here: run haste-run calibrate"


def key_for(path: str | os.PathLike[str], backend: Any) -> Key:
    """What a calibration of this bundle with this running backend holds for. Raises a subclass of BundleFileError."""
    return Key(_checksum(path), __version__, backend.name, backend.code, this_cpu())


def places(path: str | os.PathLike[str], bundle: str) -> list[Path]:
    """Where a calibration of this bundle may be, first the best place."""
    beside = Path(f"{os.fspath(path)}{SUFFIX}")
    return [beside, *(folder / "calibrations" / f"{bundle[:32]}{SUFFIX}" for folder in cache_folders())]


def store(path: str | os.PathLike[str], calibration: Calibration) -> Path:
    """Keep it, and return where. Raises CalibrationError where nothing can be written."""
    table = {"haste_calibration": VERSION, **asdict(calibration)}
    text = json.dumps(table, indent=1, allow_nan=False) + "\n"
    failures = []
    for place in places(path, calibration.key.bundle):
        try:
            write_whole(place, text)
        except OSError as error:
            failures.append(f"{place.parent}: {error.strerror or error}")
        else:
            return place
    raise CalibrationError(
        f"The calibration cannot be kept anywhere ({'; '.join(failures)}).",
        "Set HASTE_CACHE to a folder that this user may write to.",
    )


def find(path: str | os.PathLike[str], key: Key, levels: int) -> tuple[Calibration | None, str]:
    """The calibration that holds for ``key`` and a bundle with so many levels, and where it is; or None, and why."""
    reasons = []
    for place in places(path, key.bundle):
        calibration, reason = read(place)
        if calibration is None:
            reasons += [reason] if reason else []
            continue
        changed = calibration.key.difference(key)
        if changed:
            reasons.append(f"{place} does not hold any more: {changed}")
        elif len(calibration.at_threads(1)) != levels:
            reasons.append(f"{place} has not every level of this bundle")
        else:
            return calibration, f"measured on {calibration.at} ({place})"
    return None, f"{reasons[0]}; run haste-run calibrate again" if reasons else NONE_YET


def best_threads(path: str | os.PathLike[str]) -> int:
    """The best number of threads for a bundle on this computer, whatever the backend; 1 where nobody has measured."""
    bundle = _checksum(path)
    for place in places(path, bundle):
        calibration, _ = read(place)
        if calibration is not None and (calibration.key.bundle, calibration.key.cpu) == (bundle, this_cpu()):
            return calibration.best_threads
    return 1


def this_cpu() -> str:
    """This processor in a line."""
    from haste_runtime.cli.system import cpu

    about = cpu()
    told = [about["board"], about["model"], f"{about['cores']} cores", " ".join(about["features"])]
    return ", ".join(filter(None, told))


def _checksum(path: str | os.PathLike[str]) -> str:
    """Of the bundle's manifest, which has those of all tensors."""
    with open_container(path) as container:
        return container.manifest.partition(" ")[0]


def read(place: Path) -> tuple[Calibration | None, str]:
    """What is in a file; None and why where it cannot be used, None and nothing where there is none."""
    try:
        with place.open(encoding="utf-8") as file:
            text = file.read(MOST_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return None, ""
    except (OSError, ValueError) as error:
        return None, f"{place} cannot be read ({error})"
    try:
        return _decode(json.loads(text)), ""
    except (KeyError, TypeError, ValueError, RecursionError, AttributeError) as error:
        return None, f"{place} is not a calibration ({type(error).__name__}: {error})"


def _decode(table: dict[str, Any]) -> Calibration:
    if table.pop("haste_calibration") != VERSION:
        raise ValueError("another version")
    key = Key(**{f.name: _text(table["key"][f.name]) for f in fields(Key)})
    costs = tuple(_cost(entry) for entry in table["costs"])
    if not costs:
        raise ValueError("no costs")
    counts = {cost.threads for cost in costs}
    levels = range(len(costs) // len(counts))
    pairs = sorted((cost.threads, cost.level) for cost in costs)
    if pairs != [(count, level) for count in sorted(counts) for level in levels] or 1 not in counts:
        raise ValueError("levels are missing or double")
    warnings = tuple(_text(warning) for warning in table["warnings"])
    return Calibration(key, costs, _text(table["at"]), bool(table["quick"]), warnings, _number(table["idle_w"]))


def _cost(entry: dict[str, Any]) -> Cost:
    ms, p90 = _number(entry["ms"]), _number(entry["p90_ms"])
    level, threads, frames = (int(entry[name]) for name in ("level", "threads", "frames"))
    if not ms or not p90 or level < 0 or threads < 1:
        raise ValueError(f"no cost: {entry}")
    return Cost(level, threads, ms, p90, _number(entry["mj"]), frames)


def _number(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        raise ValueError(f"{value!r} is no such number")
    return float(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no text")
    return value
