"""Shared libraries in a folder that a kernel with 16 KiB pages cannot map: `python page_size.py FOLDER`; exit 1 if any.

The kernel of a Raspberry Pi 5 has such pages; a library linked for 4 KiB is refused there (elf(5): `p_align`).
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path

PAGE_BYTES, LOAD, ELF64 = 16 * 2**10, 1, b"\x7fELF\x02"


def alignment(library: Path) -> int | None:
    """Return the smallest alignment of a loaded segment, bytes; None for what is no 64-bit ELF file."""
    content = library.read_bytes()
    if not content.startswith(ELF64):
        return None
    (start,), (size, count) = struct.unpack_from("<Q", content, 32), struct.unpack_from("<HH", content, 54)
    headers = [struct.unpack_from("<IIQQQQQQ", content, start + number * size) for number in range(count)]
    return min(header[-1] for header in headers if header[0] == LOAD)


if __name__ == "__main__":
    found = {path: alignment(path) for path in sorted(Path(sys.argv[1]).rglob("*.so*")) if path.is_file()}
    refused = [f"{path}: {aligned} bytes" for path, aligned in found.items() if aligned and aligned < PAGE_BYTES]
    libraries = sum(aligned is not None for aligned in found.values())
    print(*refused, f"{libraries} libraries, {len(refused)} of them for pages below 16 KiB", sep="\n")  # noqa: T201
    sys.exit(bool(refused))
