"""Inputs as streams of plain bytes: opened by the caller, decrypted and decompressed here."""

from __future__ import annotations

import hashlib
import itertools
import re
import zlib
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

import zstandard

from vistaflow_services.core.errors import InvalidError, Violations

READ_BYTES = 1 << 20
"""Bytes of one read of an input."""

MAX_EXPANSION = 1_000
"""Most plain bytes per compressed byte; JSON compresses 5- to 30-fold, bombs 1,000-fold."""

EXPANSION_FREE_BYTES = 64 << 20
"""Plain bytes of an input that are read before `MAX_EXPANSION` applies."""

_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_ZSTD_STEP = 1 << 10
_BLOCK = 16
_Chunk = bytes | memoryview
_HEX = re.compile(r"[0-9a-fA-F]+")


@dataclass(frozen=True, kw_only=True)
class Aes:
    """Key and initialisation vector of AES-256-CBC with PKCS#7 padding.

    Raises:
        InvalidError: Either is not hexadecimal or has another length. The message has no digit
            of them.
    """

    key: str = field(repr=False)
    """64 hexadecimal digits."""

    iv: str = field(repr=False)
    """32 hexadecimal digits."""

    def __post_init__(self) -> None:
        violations = Violations()
        for name, text, size in (("aes256cbckey", self.key, 32), ("iv", self.iv, 16)):
            if len(text) != 2 * size or not _HEX.fullmatch(text):
                violations.add(name, f"must be {2 * size} hexadecimal digits ({size} bytes)")
        violations.check()


@dataclass(frozen=True, kw_only=True)
class Source:
    """One input. It is opened again when a conversion goes on after a stop."""

    name: str
    """What errors and the manifest call it; not a path of the server."""

    open: Callable[[], BinaryIO]
    size: int = 0
    """Bytes as stored; 0 if not known."""

    aes: Aes | None = None
    version: str = ""
    """What changes when the content does, such as a time or an ETag; empty if nothing is known."""

    def fingerprint(self) -> str:
        """SHA-256, in hex, of what identifies the input: name, size, version, first 64 KiB."""
        text = f"{self.name}\0{self.size}\0{self.version}\0"
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass"))
        with self.open() as stream:
            digest.update(stream.read(1 << 16))
        return digest.hexdigest()


def wrong_key(source: Source) -> InvalidError:
    """The one error for all that a wrong key or vector may cause."""
    return InvalidError(
        f"{source.name}: decryption does not give JSON; check aes256cbckey and iv, and that the "
        "file was encrypted by AES-256-CBC",
        reason="NOT_DECRYPTED",
    )


class PlainStream:
    """The plain bytes of a source, in order, and how many stored bytes they took.

    At most a few reads are in memory: decryption reuses one buffer and decompression stops at a
    bound of output per step.

    Args:
        source: The input.
        known: What `read` answered of the source before.

    Raises:
        InvalidError: The source cannot be decrypted or decompressed, or begins in another way
            than before.
    """

    def __init__(self, source: Source, known: tuple[int, str] = (0, "")) -> None:
        self.source = source
        self.stored_bytes = 0
        self._digest = hashlib.sha256()
        self._known = known
        self._file = source.open()
        self._chunks = self._plain()
        self._rest = memoryview(b"")

    @property
    def read(self) -> tuple[int, str]:
        """How many stored bytes were read so far, and their SHA-256 in hex."""
        return self.stored_bytes, self._digest.hexdigest()

    def close(self) -> None:
        """Closes the input."""
        self._chunks.close()
        self._file.close()

    def skip(self, count: int) -> None:
        """Leaves out the next `count` plain bytes."""
        while count:
            self._advance()
            if not self._rest:
                raise InvalidError(f"{self.source.name}: is shorter than when it was read before")
            skipped = min(count, len(self._rest))
            self._rest = self._rest[skipped:]
            count -= skipped

    def readinto(self, target: memoryview) -> int:
        """Puts the next bytes into memory and answers how many; 0 at the end of the input."""
        self._advance()
        count = min(len(target), len(self._rest))
        target[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def _advance(self) -> None:
        while not self._rest and (chunk := next(self._chunks, None)) is not None:
            self._rest = memoryview(chunk)

    def _stored(self) -> Iterator[bytes]:
        known_bytes, _ = self._known
        while chunk := self._file.read(
            min(READ_BYTES, max(0, known_bytes - self.stored_bytes) or READ_BYTES)
        ):
            self.stored_bytes += len(chunk)
            self._digest.update(chunk)
            if self.stored_bytes == known_bytes and self.read != self._known:
                raise InvalidError(
                    f"{self.source.name}: changed since the conversion began; convert it to "
                    "another name",
                    reason="INPUT_CHANGED",
                )
            yield chunk

    def _plain(self) -> Generator[_Chunk, None, None]:
        """The plain bytes in chunks, each valid until the next one is asked for."""
        chunks: Iterator[_Chunk] = self._stored()
        if self.source.aes is not None:
            chunks = self._decrypted(chunks, self.source.aes)
        first = next(chunks, b"")
        magic = bytes(first[:4])
        if magic.startswith(_GZIP):
            yield from self._bounded(self._gunzipped(first, chunks))
        elif magic.startswith(_ZSTD):
            yield from self._bounded(self._unzstd(first, chunks))
        else:
            yield first
            yield from chunks

    def _decrypted(self, chunks: Iterator[_Chunk], aes: Aes) -> Iterator[_Chunk]:
        # Here, because most inputs do not need it.
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
        from cryptography.hazmat.primitives.padding import PKCS7

        cipher = Cipher(algorithms.AES(bytes.fromhex(aes.key)), modes.CBC(bytes.fromhex(aes.iv)))
        decryptor = cipher.decryptor()
        # One buffer for all reads: a new one for each read costs more than the decryption. The
        # last block holds the padding, so one block is always kept back, at its front.
        buffer = memoryview(bytearray(_BLOCK + READ_BYTES + _BLOCK - 1))
        count = 0
        for chunk in chunks:
            count += decryptor.update_into(chunk, buffer[count:])
            if count > _BLOCK:
                yield buffer[: count - _BLOCK]
                buffer[:_BLOCK] = buffer[count - _BLOCK : count]
                count = _BLOCK
        unpadder = PKCS7(128).unpadder()
        try:
            decryptor.finalize()
            yield unpadder.update(buffer[:count]) + unpadder.finalize()
        except ValueError:
            raise wrong_key(self.source) from None

    def _gunzipped(self, first: _Chunk, chunks: Iterator[_Chunk]) -> Iterator[_Chunk]:
        inflate = zlib.decompressobj(wbits=31)
        data = first
        try:
            while True:
                yield inflate.decompress(data, READ_BYTES)
                data = inflate.unconsumed_tail
                if inflate.eof:
                    data = inflate.unused_data.lstrip(b"\0") or next(chunks, b"")
                    if not data:
                        return
                    inflate = zlib.decompressobj(wbits=31)
                elif not data:
                    data = next(chunks, b"")
                    if not data:
                        raise self._truncated("gzip")
        except zlib.error:
            raise self._damaged("gzip") from None

    def _unzstd(self, first: _Chunk, chunks: Iterator[_Chunk]) -> Iterator[_Chunk]:
        # The library's reader takes an early end for the end, so frames are followed here. A step
        # gets little input, because 4 bytes may stand for a block of 128 KiB.
        decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 27)
        inflate, in_frame = decompressor.decompressobj(), False
        try:
            for chunk in itertools.chain((first,), chunks):
                for start in range(0, len(chunk), _ZSTD_STEP):
                    data = chunk[start : start + _ZSTD_STEP]
                    while data:
                        plain = inflate.decompress(data)
                        in_frame, data = not inflate.eof, b""
                        if inflate.eof:
                            data = inflate.unused_data
                            inflate = decompressor.decompressobj()
                        yield plain
        except zstandard.ZstdError:
            raise self._damaged("zstd") from None
        if in_frame:
            raise self._truncated("zstd")

    def _bounded(self, chunks: Iterator[_Chunk]) -> Iterator[_Chunk]:
        plain = 0
        for chunk in chunks:
            plain += len(chunk)
            if plain > EXPANSION_FREE_BYTES and plain > MAX_EXPANSION * self.stored_bytes:
                raise InvalidError(
                    f"{self.source.name}: expands more than {MAX_EXPANSION:,}-fold when it is "
                    "decompressed; decompress it first if it really holds so much",
                    reason="EXPANDS_TOO_MUCH",
                )
            if chunk:
                yield chunk

    def _damaged(self, kind: str) -> InvalidError:
        if self.source.aes is not None:
            return wrong_key(self.source)
        return InvalidError(
            f"{self.source.name}: the {kind} data is damaged at about byte {self.stored_bytes:,}",
            reason="DAMAGED_INPUT",
        )

    def _truncated(self, kind: str) -> InvalidError:
        return InvalidError(
            f"{self.source.name}: the {kind} data ends early, at byte {self.stored_bytes:,}; "
            "copy the file again",
            reason="TRUNCATED_INPUT",
        )
