"""One class for each thing that can be wrong with a bundle file, each with its piece of advice."""

from __future__ import annotations

from typing import ClassVar

from haste_runtime.errors import BundleError

_COPY = (
    "Copy the file again and compare `sha256sum` on both machines, or compile it anew: haste-edge compile MODEL -o OUT"
)
_COMPILE = "Compile it anew: haste-edge compile MODEL -o OUT.haste"
_UPGRADE = (
    "Upgrade this machine's runtime (pip install --upgrade haste-runtime), or compile the model with an older one"
)
_KIND = "Give a file that was made by: haste-edge compile MODEL -o OUT.haste"


class BundleFileError(BundleError):
    """Base of the causes below; their sentence begins with the file's name. advice: the hint where none is given."""

    advice: ClassVar[str] = _COPY

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint or f"{self.advice}.")


# --- the file --------------------------------------------------------------------------------------------------------


class BundleMissingError(BundleFileError):
    """There is no file of that name."""

    advice = "Check the name and the current folder; a bundle is made by: haste-edge compile MODEL -o OUT.haste"


class BundleNotAFileError(BundleFileError):
    """The name is that of a directory, a pipe or a device."""

    advice = "Give the .haste file itself"


class BundleUnreadableError(BundleFileError):
    """The operating system would not let the file be read."""

    advice = "Check its permissions (ls -l) and the disk or SD card (dmesg)"


class BundleTooLargeError(BundleFileError):
    """The file is larger than any bundle may be."""

    advice = _KIND


class EmptyBundleError(BundleFileError):
    """The file has no bytes at all, as an interrupted copy or a full disk leaves it."""


class TruncatedBundleError(BundleFileError):
    """The file ends before its own header says."""


class TrailingBytesError(BundleFileError):
    """The file goes on after the last tensor."""


class BundleWriteError(BundleFileError):
    """The operating system would not let the file be written; nothing was left behind."""

    advice = "Check that the folder exists, may be written to and has room (df -h)"


# --- the header: that of safetensors ---------------------------------------------------------------------------------


class NotABundleError(BundleFileError):
    """The file is of another kind: not safetensors, or safetensors that haste-edge did not make."""

    advice = _KIND


class HeaderSizeError(BundleFileError):
    """The header claims a length that no bundle's header has; most files of another kind end here."""

    advice = _KIND


class HeaderEncodingError(BundleFileError):
    """The header is not UTF-8."""


class HeaderSyntaxError(BundleFileError):
    """The header is not JSON, or not what safetensors puts there."""


class HeaderDepthError(BundleFileError):
    """The header or manifest nests deeper than any bundle's."""


class DuplicateKeyError(BundleFileError):
    """The header or manifest names something twice."""


class TensorLayoutError(BundleFileError):
    """Tensors overlap, leave holes, or take another number of bytes than their shape needs."""


# --- the manifest ----------------------------------------------------------------------------------------------------


class ManifestChecksumError(BundleFileError):
    """The manifest's SHA-256 is not the recorded one."""


class NewerVersionError(BundleFileError):
    """The bundle's format is newer than this runtime."""

    advice = _UPGRADE


class OlderVersionError(BundleFileError):
    """The bundle's format is older than any this runtime reads."""

    advice = _COMPILE


class ManifestError(BundleFileError):
    """The manifest lacks a key, has an unknown one, or one of the wrong type or out of range."""

    advice = _COMPILE


class UnsupportedError(BundleFileError):
    """The bundle uses an operator, a merge policy or an algorithm that this runtime does not have."""

    advice = _UPGRADE


class BundleGraphError(BundleFileError):
    """The graph breaks a rule of `haste_runtime.operators`."""

    advice = _COMPILE


class PlanError(BundleFileError):
    """The plan or the ladder does not fit the graph or itself."""

    advice = _COMPILE


# --- the tensors -----------------------------------------------------------------------------------------------------


class MissingTensorError(BundleFileError):
    """A tensor that the manifest needs is not in the file."""


class ExtraTensorError(BundleFileError):
    """The file holds a tensor that nothing in the manifest uses."""


class TensorShapeError(BundleFileError):
    """A tensor has another shape than the manifest says."""


class TensorTypeError(BundleFileError):
    """A tensor has another type of number than the manifest says, or than its use allows."""


class TensorChecksumError(BundleFileError):
    """A tensor's SHA-256 is not the recorded one."""


class NonFiniteError(BundleFileError):
    """A weight is NaN or infinite."""

    advice = (
        "Look for it in the source weights and compile anew; weights too large for half precision need --dtype fp32"
    )


class WeightRangeError(BundleFileError):
    """An 8-bit weight is -128, or the scale of such weights is not positive or too large."""

    advice = _COMPILE


class ProjectionError(BundleFileError):
    """A projection is not a packed ternary matrix, or does not fit the patch it is for."""

    advice = _COMPILE
