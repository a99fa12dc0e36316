#!/usr/bin/env python3
"""Set up this checkout and run the demo or all tests. Needs Python 3.11 or newer and nothing else.

    python3 tools/run.py demo [OPTIONS OF haste-edge demo]
    python3 tools/run.py test [--fast] [--only STEP ...] [-k EXPRESSION]

The first call makes `.venv` and installs what constraints.txt pins; after an interruption the same command goes on.
Later calls use it again, without network, until constraints.txt or a pyproject.toml changes. `test` has two more
environments, `.venv-oldest` and `.venv-newest`, that hold numpy and safetensors alone, as a device does, and under
build/emulation/ two roots of ARM systems, made from Debian packages, where qemu-user is there to run them.
"""

# The syntax stays so old (3.6) that an old Python reaches the check below and says what is missing.
import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

if sys.version_info < (3, 11):
    version = ".".join(map(str, sys.version_info[:3]))
    sys.exit(
        f"This needs Python 3.11 or newer; {sys.executable} is {version}.\n"
        "Hint: run it with a newer one, for example `python3.12 tools/run.py demo`."
    )

ROOT = Path(__file__).resolve().parent.parent
MAIN = ROOT / ".venv"
REPORTS = MAIN / "reports"  # what pytest counted, one file per step
NO_TESTS_COLLECTED = 5  # pytest's exit code

# The oldest numpy that both haste-runtime accepts and this Python has a wheel of.
OLDEST_NUMPY = {(3, 11): "numpy==1.24.4", (3, 12): "numpy==1.26.4"}.get(sys.version_info[:2], "numpy==2.1.3")
PINNED = ["-c", "constraints.txt"]
# The build backend goes first, so that the packages are built with the tested one and later without network.
MAIN_INSTALLS = [
    [*PINNED, "hatchling", "editables"],
    [*PINNED, "--no-build-isolation", "-e", "runtime[images,jit,mqtt,serial]", "-e", ".[cross,test]"],
]
DEVICE_INSTALLS = {
    ROOT / ".venv-oldest": [[OLDEST_NUMPY, "safetensors"]],
    ROOT / ".venv-newest": [[*PINNED, "numpy", "safetensors"]],
}


def say(text: str) -> None:
    print(text, flush=True)


def executable(environment: Path, name: str) -> str:
    return str(environment / ("Scripts" if os.name == "nt" else "bin") / name)


def clean_variables() -> dict[str, str]:
    """The variables without those that would let Python find packages outside the environment."""
    return {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}


# --- environments ---------------------------------------------------------------------------------------------------


def fingerprint(installs: list[list[str]]) -> str:
    """Changes whenever an environment that was made with `installs` has to be brought up to date."""
    digest = hashlib.sha256(repr((str(ROOT), installs)).encode())
    for name in ("constraints.txt", "pyproject.toml", "runtime/pyproject.toml"):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def works(environment: Path) -> bool:
    """Whether the environment's pip starts; False also where making it was interrupted or its Python has gone."""
    try:
        command = [executable(environment, "python"), "-m", "pip", "--version"]
        return subprocess.run(command, capture_output=True, env=clean_variables()).returncode == 0
    except OSError:
        return False


def make(environment: Path) -> None:
    say(f"  making {environment.name} with Python {sys.version.split()[0]}")
    command = [sys.executable, "-m", "venv", "--clear", str(environment)]
    made = subprocess.run(command, capture_output=True, text=True, env=clean_variables())
    if made.returncode != 0:
        sys.exit(
            f"{made.stdout}{made.stderr}\nPython could not make {environment.name}.\n"
            "Hint: on Debian, Ubuntu and Raspberry Pi OS, `sudo apt install python3-venv`, then the same command again."
        )


def install(environment: Path, arguments: list[str]) -> None:
    """Run pip; of what it says only the lines that show progress are printed, and all of it if it fails."""
    command = [executable(environment, "python"), "-m", "pip", "install", "--progress-bar", "off", *arguments]
    said = []
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=clean_variables()
    ) as pip:
        assert pip.stdout is not None
        for line in pip.stdout:
            said.append(line)
            if line.lstrip().startswith(("Downloading", "Processing", "Installing", "Successfully installed")):
                say(f"  {line.strip()[:116]}")
    if pip.returncode != 0:
        sys.exit(
            f"{''.join(said)}\npip could not install into {environment.name}; what it said is above.\n"
            "Hint: the first set-up needs a network; then the same command goes on from here."
        )


def prepare(environment: Path, installs: list[list[str]]) -> None:
    """Make the environment or bring it up to date; at once where it is."""
    stamp = environment / "ready"
    wanted = fingerprint(installs)
    if stamp.exists() and stamp.read_text() == wanted and works(environment):
        return
    say(f"Setting up {environment.name}" + (" (once; torch alone is about 200 MB)" if environment == MAIN else ""))
    stamp.unlink(missing_ok=True)
    if not works(environment):
        make(environment)
    for arguments in installs:
        install(environment, arguments)
    stamp.write_text(wanted)


# --- test steps -----------------------------------------------------------------------------------------------------


class Step(NamedTuple):
    """A line of the summary: arguments for the main environment's Python, and variables it is to see."""

    name: str
    what: str
    arguments: str
    markers: str = ""  # pytest's -m; empty for other tools
    variables: tuple[tuple[str, str], ...] = ()
    in_fast: bool = True
    spread: bool = False  # its test files over all cores


STEPS = (
    Step("ruff", "lint", "ruff check"),
    Step("format", "formatting", "ruff format --check"),
    Step("mypy", "types", "mypy"),
    Step("mypy-device", "types of haste-runtime, Python 3.10", "mypy --python-version 3.10 runtime/haste_runtime"),
    Step("size", "sizes of modules and kernels (never fails)", "tools.size_report"),
    Step("tests", "tests with compiled kernels", "pytest", "not packaging", spread=True),
    Step(
        "interpreted",
        "runtime tests with interpreted kernels",
        "pytest tests/haste_runtime",
        "not packaging",
        (("NUMBA_DISABLE_JIT", "1"),),
        in_fast=False,
        spread=True,
    ),
    Step("wheels", "wheels, from another folder", "pytest tests/packaging/test_wheels.py", "packaging", in_fast=False),
    Step(
        "device",
        "runtime with numpy and safetensors alone",
        "pytest tests/packaging/test_device_environment.py",
        "packaging",
        in_fast=False,
    ),
    Step("arm", "runtime on emulated ARM processors", "pytest tests/packaging/test_arm.py", "packaging", in_fast=False),
)


class Counts(NamedTuple):
    """Tests of a step; the other tools count none."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0


def read_counts(report: Path) -> Counts:
    """What pytest wrote to its JUnit file; nothing where it did not get that far."""
    if not report.exists():
        return Counts()
    suites = list(ElementTree.parse(report).getroot().iter("testsuite"))
    tests, failures, errors, skipped = (
        sum(int(suite.get(key, "0")) for suite in suites) for key in ("tests", "failures", "errors", "skipped")
    )
    return Counts(tests - failures - errors - skipped, failures + errors, skipped)


def install_emulator() -> None:
    """QEMU's user mode, from Debian's packages, where a machine for CI has none. The step fails if it is missing still;
    elsewhere it says what to install."""
    if os.environ.get("CI") and not shutil.which("qemu-aarch64") and shutil.which("apt-get"):
        say("Installing qemu-user, which runs ARM code")
        for command in (["update"], ["install", "-y", "--no-install-recommends", "qemu-user"]):
            subprocess.run(["apt-get", "-qq", *command], env=clean_variables() | {"DEBIAN_FRONTEND": "noninteractive"})


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_step(step: Step, fast: bool, expression: str) -> tuple[bool, Counts]:
    """Whether the step succeeded, and its tests. Output goes straight to the terminal."""
    command = [executable(MAIN, "python"), "-m", *step.arguments.split()]
    report = REPORTS / f"{step.name}.xml"
    report.unlink(missing_ok=True)
    if step.markers:
        command += ["-m", step.markers + (" and not slow" if fast else ""), f"--junitxml={report}"]
        command += ["--durations=15", "--durations-min=3"]  # so that slowness is seen where it comes in
        command += ["-k", expression] if expression else []
        command += [f"--numprocesses={cores()}", "--dist=loadfile"] if step.spread else []
    variables = clean_variables() | {"HASTE_CACHE": str(MAIN / "kernels")} | dict(step.variables)
    code = subprocess.run(command, cwd=ROOT, env=variables).returncode
    nothing_matched = bool(step.markers and expression) and code == NO_TESTS_COLLECTED
    return code == 0 or nothing_matched, read_counts(report)


def used_seconds() -> float:
    """Processor time of all commands that have ended: what a step costs, however busy the machine is."""
    times = os.times()
    return times.children_user + times.children_system


def test(only: list[str], fast: bool, expression: str) -> int:
    """Run the steps, all of them even if one fails; print a summary. 0 if all succeeded and a test ran, else 1."""
    prepare(MAIN, MAIN_INSTALLS)
    for environment, installs in DEVICE_INSTALLS.items():
        prepare(environment, installs)
    REPORTS.mkdir(exist_ok=True)
    steps = [s for s in STEPS if (s.name in only if only else s.in_fast or not fast)]
    rows = []
    for number, step in enumerate(steps, 1):
        say(f"\n[{number}/{len(steps)}] {step.name}: {step.what}")
        started, used = time.monotonic(), used_seconds()
        if step.name == "arm":
            install_emulator()
        good, counts = run_step(step, fast, expression)
        rows.append((step, good, counts, time.monotonic() - started, used_seconds() - used))
    say("\nstep          result   seconds     CPU  passed  failed  skipped  what")
    for step, good, counts, seconds, cpu in rows:
        numbers = "{:7d} {:7d} {:8d}".format(*counts) if step.markers else " " * 24
        say(f"{step.name:12s}  {'ok' if good else 'FAILED':6s} {seconds:9.1f} {cpu:7.1f} {numbers}  {step.what}")
    total = Counts(*(sum(column) for column in zip(*(counts for _, _, counts, *_ in rows), strict=True)))
    bad = [step.name for step, good, *_ in rows if not good]
    if bad:
        say(f"\nFailed: {', '.join(bad)}. One alone: python3 tools/run.py test --only {bad[0]}")
    say(f"{total.passed} passed, {total.failed} failed, {total.skipped} skipped")
    nothing_ran = any(step.markers for step in steps) and not total.passed
    return 1 if bad or nothing_ran else 0


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="tools/run.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("demo", help="set up, then haste-edge demo with the options that follow", add_help=False)
    tests = commands.add_parser("test", help="set up, then all checks and tests")
    tests.add_argument("--fast", action="store_true", help="leave out slow tests, the interpreted pass and packaging")
    names = [step.name for step in STEPS]
    tests.add_argument("--only", action="append", default=[], choices=names, help="this step alone (may be repeated)")
    tests.add_argument("-k", dest="expression", default="", help="handed to pytest")
    options, rest = parser.parse_known_args(arguments)
    if options.command == "demo":
        prepare(MAIN, MAIN_INSTALLS)
        return subprocess.call([executable(MAIN, "haste-edge"), "demo", *rest], cwd=ROOT, env=clean_variables())
    if rest:
        parser.error(f"unknown: {' '.join(rest)}")
    return test(options.only, options.fast, options.expression)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit("\nInterrupted; the same command goes on from here.")
