"""The values inside tar headers: octal and base-256 numbers, pax records, maps of sparse files."""

from __future__ import annotations

from typing import Final
from zlib import adler32

from towline.core._errors import RemoteProtocolError
from towline.core._limits import Limits

SPARSE_PAIRS: Final = 4
SPARSE_PAIRS_MORE: Final = 21
# The most stretches of data that one sparse file may have: 64 KiB of map.
SPARSE_MOST: Final = 4096


def bad(text: str) -> RemoteProtocolError:
    return RemoteProtocolError("bad-archive", text)


def number(field: bytes, what: str) -> int:
    """Read a number field: octal digits between spaces, up to a NUL, or base-256. Negative numbers are refused."""
    if field[0] & 0x80:
        if field[0] & 0x40:
            raise bad(f"expected a {what} of 0 or more, got a negative base-256 number")
        return int.from_bytes(field, "big") ^ (0x80 << (8 * (len(field) - 1)))
    text = field.split(b"\0", 1)[0].strip(b" ")
    if not text:
        return 0
    if not text.isdigit():
        raise bad(f"expected octal digits as {what}, got {field!r}")
    try:
        return int(text, 8)
    except ValueError:
        raise bad(f"expected octal digits as {what}, got {field!r}") from None


def decimal(text: str, what: str) -> int:
    """Read a decimal number of 1 to 19 ASCII digits."""
    if not (text.isascii() and text.isdigit() and len(text) <= 19):
        raise bad(f"expected 1 to 19 digits as {what}, got {text[:40]!r}")
    return int(text)


def checksum_holds(block: bytes) -> bool:
    """Whether a header's checksum is that of its bytes, taken as unsigned or (old writers) as signed."""
    text = block[148:156].split(b"\0", 1)[0].strip(b" ")
    if not text.isdigit():
        return False
    try:
        expected = int(text, 8)
    except ValueError:
        return False
    # Half a block sums to less than Adler-32's modulus, so its low half is the plain sum of the bytes, and one.
    total = (adler32(block[:256]) & 0xFFFF) + (adler32(block[256:]) & 0xFFFF) - 2 - sum(block[148:156]) + 8 * 0x20
    if total == expected:
        return True
    high = sum(1 for byte in block[:148] + block[156:] if byte & 0x80)
    return total - 256 * high == expected


def pax_records(body: bytes, limits: Limits) -> dict[str, str]:
    """Read the records `LENGTH key=value\\n` of a pax header; a later record of a key replaces an earlier one.

    GNU's sparse format 0.0 repeats two keys for each stretch; they are joined into its successor's one map.
    """
    records: dict[str, str] = {}
    stretches: list[str] = []
    at = count = 0
    while at < len(body):
        count += 1
        if count > limits.tar_pax_records:
            raise bad(f"expected at most {limits.tar_pax_records} records in a pax header, got more")
        space = body.find(b" ", at, at + 20)
        if space < 0 or not body[at:space].isdigit():
            raise bad(f"expected the length of a pax record, got {body[at : at + 20]!r}")
        end = at + int(body[at:space])
        equals = body.find(b"=", space, end)
        if end > len(body) or end <= space or equals < 0 or body[end - 1] != 0x0A:
            raise bad(f"expected a pax record `length key=value`, got {body[at : at + 40]!r}")
        key = body[space + 1 : equals].decode("utf-8", "surrogateescape")
        value = body[equals + 1 : end - 1].decode("utf-8", "surrogateescape")
        if key in ("GNU.sparse.offset", "GNU.sparse.numbytes"):
            stretches.append(value)
        else:
            if key in ("path", "linkpath", "GNU.sparse.name") and "\0" in value:
                raise bad(f"expected a name without NUL in a pax record, got {value[:40]!r}")
            records[key] = value
        at = end
    if stretches:
        records["GNU.sparse.map"] = ",".join(stretches)
    return records


def sparse_map(numbers: list[int], real_size: int) -> list[tuple[int, int]]:
    """Return the stretches (offset, length) of a sparse file, in order, inside the file and not overlapping."""
    if len(numbers) % 2 or len(numbers) // 2 > SPARSE_MOST:
        raise bad(f"expected pairs of offset and length, at most {SPARSE_MOST}, got {len(numbers)} numbers")
    stretches = [(numbers[at], numbers[at + 1]) for at in range(0, len(numbers), 2)]
    done = 0
    for offset, length in stretches:
        if offset < done or offset + length > real_size:
            raise bad(f"expected stretches in order inside {real_size} bytes, got {length} at {offset}")
        done = offset + length
    return stretches


def sparse_pairs(block: bytes, start: int, pairs: int) -> list[int]:
    """Read the map entries of an old GNU sparse header or extension; they end at the first empty one."""
    numbers: list[int] = []
    for at in range(start, start + 24 * pairs, 24):
        if not block[at : at + 24].strip(b"\0 "):
            break
        numbers += (number(block[at : at + 12], "sparse offset"), number(block[at + 12 : at + 24], "sparse length"))
    return numbers
