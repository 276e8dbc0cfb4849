"""ICC profiles: taken out of a file, put into a PNG or JPEG."""

from __future__ import annotations

import contextlib
import io
from typing import Final

MARKER: Final = b"ICC_PROFILE\0"
ROOM: Final = 65_519
"""Bytes of a profile that one JPEG segment holds (ICC.1:2022, annex B.4)."""
SPACES: Final = {1: b"GRAY", 3: b"RGB "}


def icc_profile(data: bytes, channels: int) -> bytes:
    """Return the ICC profile in a image file, empty where there is none for so many channels (1 or 3).

    A profile of another color space (CMYK, Lab) does not describe the decoded samples and is left out.
    """
    from PIL import Image

    found = b""
    with contextlib.suppress(Exception), Image.open(io.BytesIO(data)) as image:
        found = bytes(image.info.get("icc_profile") or b"")
    return found if len(found) >= 128 and found[16:20] == SPACES.get(channels) else b""


def with_profile(jpeg: bytes, profile: bytes) -> bytes:
    """Return a JPEG file with a profile behind its first segment."""
    if not profile:
        return jpeg
    parts = [profile[at : at + ROOM] for at in range(0, len(profile), ROOM)]
    segments = b"".join(
        b"\xff\xe2"
        + (2 + len(MARKER) + 2 + len(part)).to_bytes(2, "big")
        + MARKER
        + bytes([number, len(parts)])
        + part
        for number, part in enumerate(parts, 1)
    )
    place = 4 + int.from_bytes(jpeg[4:6], "big") if jpeg[2:4] == b"\xff\xe0" else 2
    return jpeg[:place] + segments + jpeg[place:]
