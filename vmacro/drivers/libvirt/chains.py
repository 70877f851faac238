"""What lies below a guest's own disks, left out of the definitions that go along with it. Pure.

A base is sent whole: what it builds on at its first host (a cloud's image, say) is not there, and libvirt refuses a
domain whose definition names it. Nor may the end of the shorter chain come back with the guest, which would be believed
there: QEMU would read the base without what is below it. Of a disk of which nothing is said, libvirt looks into the
files that its host has (virStorageSourceGetMetadata).
"""

from __future__ import annotations

from collections.abc import Collection
from xml.parsers import expat

from vmacro.drivers.libvirt.xml import parse

_DISK = ["domain", "devices", "disk"]


def without(text: str, targets: Collection[str]) -> str:
    """A domain's XML (formatdomain) without the <backingStore> of these disks; all else as it is, to the letter.
    Raises ValueError."""
    parse(text)
    reader = _Reader(text.encode(), targets)
    kept, at = b"", 0
    for begin, end in reader.spans:
        kept, at = kept + reader.data[at:begin], end
    return (kept + reader.data[at:]).decode()


class _Reader:
    """`spans`: from where to where what is to go stands in the data."""

    def __init__(self, data: bytes, targets: Collection[str]) -> None:
        self.data, self._targets = data, targets
        self.spans: list[tuple[int, int]] = []
        self._path: list[str] = []
        self._target, self._begin, self._end = "", 0, 0
        self._expat = expat.ParserCreate("utf-8")
        self._expat.StartElementHandler, self._expat.EndElementHandler = self._opens, self._closes
        self._expat.Parse(data, True)

    def _opens(self, tag: str, attributes: dict[str, str]) -> None:
        self._path.append(tag)
        if self._path == _DISK:
            self._target, self._begin, self._end = "", 0, 0
        elif self._path == [*_DISK, "target"]:
            self._target = attributes.get("dev", "")
        elif self._path == [*_DISK, "backingStore"]:
            self._begin = self._expat.CurrentByteIndex

    def _closes(self, _tag: str) -> None:
        if self._path == [*_DISK, "backingStore"]:
            at = self._expat.CurrentByteIndex  # of its end tag; of an empty element: behind it
            self._end = self.data.index(b">", at) + 1 if self.data.startswith(b"</", at) else at
        elif self._path == _DISK and self._end and self._target in self._targets:
            self.spans.append((self._begin, self._end))
        self._path.pop()
