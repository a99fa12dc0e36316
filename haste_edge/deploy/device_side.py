"""What happens on the device. Sent there as text and run by its own python3, which may be as old as 3.6.

    python3 - BASE64_OF_JSON < device_side.py

One request, one answer: a line that begins with MARK and goes on as JSON. Whatever is changed is changed at once or not
at all: files and links are made beside their place, flushed to the disk, and renamed.

Each thing that is deployed has a folder: versions/ID/ with the files, the links current and previous into it, and
incoming/ID/ for what has not arrived completely yet.
"""

import base64
import hashlib
import json
import os
import platform
import shutil
import struct
import subprocess
import sys

MARK = "haste-deploy: "
BLOCK = 1 << 20


class Refused(Exception):
    """A sentence for the user."""


def sync_folder(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: str, size: "int | None" = None) -> str:
    """Of the file's first ``size`` bytes, or all."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while size is None or size > 0:
            block = file.read(BLOCK if size is None else min(BLOCK, size))
            if not block:
                break
            digest.update(block)
            size = None if size is None else size - len(block)
    return digest.hexdigest()


def pointed(folder: str, link: str) -> "str | None":
    """The version that a link names; None without the link, or where what it names has gone."""
    path = os.path.join(folder, link)
    if not os.path.islink(path) or not os.path.isdir(path):
        return None
    return os.path.basename(os.readlink(path))


def point(folder: str, link: str, version: str) -> None:
    """Make the link name a version, at once."""
    beside = os.path.join(folder, f".{link}.new")
    if os.path.lexists(beside):
        os.unlink(beside)
    os.symlink(os.path.join("versions", version), beside)
    os.replace(beside, os.path.join(folder, link))
    sync_folder(folder)


def state(request: dict) -> dict:
    """The device, and what is there of a thing. Changes nothing."""
    folder = os.path.expanduser(request["folder"])
    there = folder
    while not os.path.isdir(there):
        there = os.path.dirname(there) or "."
    room = os.statvfs(there)
    versions = os.path.join(folder, "versions")
    part = os.path.join(folder, "incoming", request["version"], request["file"])
    whole = os.path.join(versions, request["version"], request["file"])
    return {
        "folder": os.path.abspath(folder),
        "writable": os.access(there, os.W_OK | os.X_OK),
        "free": room.f_bavail * room.f_frsize,
        "machine": platform.machine(),
        "bits": 8 * struct.calcsize("P"),
        "python": platform.python_version(),
        "rsync": shutil.which("rsync") is not None,
        "versions": sorted(os.listdir(versions)) if os.path.isdir(versions) else [],
        "current": pointed(folder, "current"),
        "previous": pointed(folder, "previous"),
        "part": os.path.getsize(part) if os.path.isfile(part) else 0,
        "whole": os.path.isfile(whole) and sha256(whole) == request["sha256"],
    }


def prepare(request: dict) -> dict:
    """Make the folders; of a part that arrived before keep what is right. Returns its size."""
    incoming = os.path.join(request["folder"], "incoming", request["version"])
    os.makedirs(incoming, exist_ok=True)
    part = os.path.join(incoming, request["file"])
    return {"part": os.path.getsize(part) if os.path.isfile(part) else 0}


def prefix(request: dict) -> dict:
    """The checksum of the part, so that the sender can tell whether it is the beginning of the file."""
    part = os.path.join(request["folder"], "incoming", request["version"], request["file"])
    return {"sha256": sha256(part, request["size"])}


def discard(request: dict) -> dict:
    """Forget what arrived of a version."""
    shutil.rmtree(os.path.join(request["folder"], "incoming", request["version"]), ignore_errors=True)
    return {}


def finish(request: dict) -> dict:
    """The part is complete: check it, flush it, and give it its place."""
    folder, version = request["folder"], request["version"]
    part = os.path.join(folder, "incoming", version, request["file"])
    size = os.path.getsize(part)
    found = sha256(part)
    if found != request["sha256"]:
        discard(request)
        raise Refused(f"its checksum on the device is {found} after {size} bytes")
    with open(part, "rb+") as file:
        os.fsync(file.fileno())
    os.chmod(part, 0o644)
    target = os.path.join(folder, "versions", version)
    os.makedirs(target, exist_ok=True)
    os.replace(part, os.path.join(target, request["file"]))
    sync_folder(target)
    sync_folder(os.path.dirname(target))
    discard(request)
    return {"sha256": found}


def switch(request: dict) -> dict:
    """Make a version the current one, and the one that was so far the previous one."""
    folder, version = request["folder"], request["version"]
    if not os.path.isdir(os.path.join(folder, "versions", version)):
        raise Refused(f"there is no version {version}")
    before = pointed(folder, "current")
    if before is not None and before != version:
        point(folder, "previous", before)
    point(folder, "current", version)
    return {"current": version, "previous": pointed(folder, "previous")}


def prune(request: dict) -> dict:
    """Remove versions that no link names, and parts of other ones."""
    folder = request["folder"]
    kept = (pointed(folder, "current"), pointed(folder, "previous"))
    removed = []
    for kind in ("versions", "incoming"):
        path = os.path.join(folder, kind)
        for name in sorted(os.listdir(path)) if os.path.isdir(path) else ():
            if name not in kept:
                shutil.rmtree(os.path.join(path, name), ignore_errors=True)
                removed.append(name)
    return {"removed": removed}


def write(request: dict) -> dict:
    """A small file of text in a thing's folder, at once."""
    beside = os.path.join(request["folder"], ".{}.new".format(request["file"]))
    with open(beside, "wb") as file:
        file.write(request["text"].encode())
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, os.path.join(request["folder"], request["file"]))
    sync_folder(request["folder"])
    return {}


def install(request: dict) -> dict:
    """A virtual environment for the wheel that has arrived, in the wheel's own version."""
    home = os.path.join(request["folder"], "versions", request["version"])
    environment, wheel = os.path.join(home, "venv"), os.path.join(home, request["file"])
    python = os.path.join(environment, "bin", "python")
    options = ["--system-site-packages", "--clear"]
    commands = [
        [sys.executable, "-m", "venv", *options, environment],
        [python, "-m", "pip", "install", "--disable-pip-version-check", "--quiet", wheel],
        [python, "-m", "haste_runtime.cli", "--version"],
    ]
    said = ""
    for command in commands:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        said = done.stdout.decode("utf-8", "replace").strip()
        if done.returncode != 0:
            shutil.rmtree(environment, ignore_errors=True)
            told = said[-1500:] or "it said nothing"
            raise Refused(f"`{' '.join(command)}` failed there: {told}")
    return {"runtime": said.splitlines()[-1]}


def installed(request: dict) -> dict:
    """Whether a version's environment works."""
    python = os.path.join(request["folder"], "versions", request["version"], "venv", "bin", "python")
    if not os.path.exists(python):
        return {"runtime": None}
    done = subprocess.run([python, "-m", "haste_runtime.cli", "--version"], stdout=subprocess.PIPE)
    return {"runtime": done.stdout.decode().strip() if done.returncode == 0 else None}


OPERATIONS = {
    "state": state,
    "prepare": prepare,
    "prefix": prefix,
    "discard": discard,
    "finish": finish,
    "switch": switch,
    "prune": prune,
    "write": write,
    "install": install,
    "installed": installed,
}


def main(argument: str) -> None:
    request = json.loads(base64.b64decode(argument).decode())
    try:
        answer = dict(OPERATIONS[request["do"]](request), ok=True)
    except Refused as refusal:
        answer = {"ok": False, "reason": str(refusal)}
    except OSError as error:
        reason = f"{error.filename or 'the device'}: {error.strerror or error}"
        answer = {"ok": False, "reason": reason, "errno": error.errno}
    print(MARK + json.dumps(answer))


if __name__ == "__main__":
    main(sys.argv[1])
