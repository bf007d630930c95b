"""The files of a deck from a folder or an archive, and back; nothing outside is ever read.

Archives are read in memory and never unpacked onto the disk. What is refused: paths that leave the
deck, links that do, anything but plain files, and more or larger files than a deck may have.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping


def write_archive(files: Mapping[str, bytes]) -> bytes:
    """Files as a zip; equal files give equal bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for path in sorted(files):
            # The oldest date that zip knows: when the deck was packed is no part of it.
            entry = zipfile.ZipInfo(path, date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, files[path])
    return buffer.getvalue()
