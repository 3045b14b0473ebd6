"""The archive behind a workbook: checked before it is unpacked, counted while it is.

A workbook comes from a stranger. What its directory says is checked first (paths, number, sizes,
ratios), what its entries unpack to is counted against that, and XML with a DTD is refused before
anything in it is expanded. Nothing in it is ever fetched or run.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import PurePosixPath
from typing import NoReturn
from xml.parsers import expat

from dsync.sources import ReadLimits
from dsync.sources._file import SourceFile, escaped

SAVE_AGAIN = "open it in Excel and save it again as .xlsx"
GIVE_CSV = "give the rows as CSV, which has no such limit"

_CHUNK = 1 << 20
_RATIO_FROM = 10 << 20


def local(tag: str) -> str:
    """The name of an element or attribute without its prefix."""
    return tag.rpartition(":")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A sheet of the workbook: its name and the entry that holds it."""

    sheet: str
    entry: str
    hidden: bool


class Package:
    """A zip archive that passed all checks that need no unpacking, and its sheets in order."""

    def __init__(self, source: SourceFile, limits: ReadLimits) -> None:
        self.source = source
        self.limits = limits
        if source.size > limits.xlsx_bytes:
            self.refuse(
                "LIMIT", f"{source.size} bytes; at most {limits.xlsx_bytes} are read", GIVE_CSV
            )
        self.data = source.read()
        self._refuse_kind()
        self.entries = self._directory()
        self._refuse_bombs()
        self._counted: set[str] = set()
        self.sheets = self._sheets()

    def refuse(self, code: str, message: str, hint: str) -> NoReturn:
        """Raise an error about the workbook as a whole."""
        raise self.source.fault(f"XLS-{code}", message, hint)

    def _refuse_kind(self) -> None:
        head = self.source.head
        if not self.data:
            self.refuse("EMPTY", "the file is empty", "save the workbook again")
        kind, words = self.source.kind or ("", "text, perhaps CSV")
        if kind == "ole":
            encrypted = "EncryptedPackage".encode("utf-16-le") in self.data
            what = "protected by a password" if encrypted else "an old workbook (.xls) or protected"
            self.refuse(
                "OLE", f"this is {what}", "open it in Excel and save it as .xlsx without a password"
            )
        if kind in ("html", "xml"):
            self.refuse("HTML", f"this is {words}", "open it in Excel and save it as .xlsx")
        if kind != "zip":
            cause = "binary" if b"\0" in head and not kind else words
            self.refuse("TYPE", f"this is no workbook but {cause}", "give a real .xlsx, or use csv")

    def _directory(self) -> dict[str, zipfile.ZipInfo]:
        try:
            infos = zipfile.ZipFile(BytesIO(self.data)).infolist()
        except (zipfile.BadZipFile, struct.error, ValueError, OSError, NotImplementedError):
            self.refuse("ZIP", "not a complete xlsx (zip directory missing or damaged)", SAVE_AGAIN)
        if len(infos) > self.limits.xlsx_entries:
            self.refuse("ZIP", f"{len(infos)} entries in the archive", SAVE_AGAIN)
        entries: dict[str, zipfile.ZipInfo] = {}
        for info in infos:
            path = info.filename.replace("\\", "/")
            link = (info.external_attr >> 16) & 0o170000 == 0o120000
            if path.startswith("/") or ".." in path.split("/") or ":" in path or link:
                self.refuse("ZIP", f"the archive holds the path {escaped(path)!r}", SAVE_AGAIN)
            if path.casefold() in entries:
                self.refuse("ZIP", f"the archive holds {escaped(path)!r} twice", SAVE_AGAIN)
            if info.flag_bits & 0x1:
                self.refuse("OLE", "the archive is protected by a password", SAVE_AGAIN)
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                self.refuse("ZIP", f"{escaped(path)!r} is packed in an unusual way", SAVE_AGAIN)
            entries[path.casefold()] = info
        if "xl/workbook.xml" not in entries:
            what = "a binary workbook (.xlsb)" if "xl/workbook.bin" in entries else "a zip archive"
            self.refuse("TYPE", f"this is {what}, not an .xlsx workbook", SAVE_AGAIN)
        return entries

    def _refuse_bombs(self) -> None:
        for info in self.entries.values():
            large = info.file_size > self.limits.xlsx_part_bytes
            dense = (
                info.file_size > _RATIO_FROM
                and info.file_size > self.limits.xlsx_ratio * info.compress_size
            )
            if (large and info.filename.lower().endswith((".xml", ".rels"))) or dense:
                self._bomb(info.filename, info.file_size)

    def _bomb(self, name: str, size: int) -> NoReturn:
        self.refuse(
            "BOMB",
            f"{escaped(name)!r} unpacks to {size >> 20} MiB or more "
            f"(limits: {self.limits.xlsx_part_bytes >> 20} MiB, {self.limits.xlsx_ratio} times)",
            GIVE_CSV,
        )

    def chunks(self, name: str) -> Iterator[bytes]:
        """The part, unpacked and counted: what its entry claims about its size is not believed."""
        info = self.entries[name.casefold()]
        start = info.header_offset
        header = self.data[start : start + 30]
        if len(header) < 30 or header[:4] != b"PK\x03\x04":
            self.refuse("ZIP", f"{escaped(name)!r} is not where the directory says", SAVE_AGAIN)
        start += 30 + sum(struct.unpack("<HH", header[26:30]))
        packed = memoryview(self.data)[start : start + info.compress_size]
        if info.compress_type == zipfile.ZIP_STORED:
            if len(packed) != info.file_size:
                self._bomb(name, len(packed))
            for at in range(0, len(packed), _CHUNK):
                yield self._xml(name, bytes(packed[at : at + _CHUNK]), first=at == 0)
            return
        inflate = zlib.decompressobj(-15)
        size = 0
        rest = b""
        at = 0
        try:
            while not inflate.eof:
                if not rest:
                    rest = bytes(packed[at : at + (64 << 10)])
                    at += len(rest)
                    if not rest:
                        self.refuse("ZIP", f"{escaped(name)!r} is truncated", SAVE_AGAIN)
                chunk = inflate.decompress(rest, _CHUNK)
                rest = inflate.unconsumed_tail
                if size + len(chunk) > info.file_size:
                    self._bomb(name, size + len(chunk))
                if chunk:
                    yield self._xml(name, chunk, first=size == 0)
                size += len(chunk)
        except zlib.error:
            self.refuse("ZIP", f"{escaped(name)!r} is damaged", SAVE_AGAIN)
        if size != info.file_size:
            self._bomb(name, size)

    def _xml(self, name: str, chunk: bytes, *, first: bool) -> bytes:
        if first and (b"\0" in chunk[:4] or chunk[:2] in (b"\xff\xfe", b"\xfe\xff")):
            self.refuse("XML", f"{escaped(name)!r} is not UTF-8", SAVE_AGAIN)
        if b"<!" in chunk and (b"<!DOCTYPE" in chunk or b"<!ENTITY" in chunk):
            self._dtd(name)
        return chunk

    def _dtd(self, name: str) -> NoReturn:
        self.refuse("XML", f"{escaped(name)!r} declares a DTD, which is not allowed", SAVE_AGAIN)

    def has(self, name: str) -> bool:
        """Whether the archive holds the entry."""
        return name.casefold() in self.entries

    def count(self, name: str) -> None:
        """Unpack the part once, to know that it is as large as it says and holds no DTD."""
        if self.has(name) and name not in self._counted:
            for _ in self.chunks(name):
                pass
            self._counted.add(name)

    def parse(self, name: str, start: Callable[[str, dict[str, str]], None]) -> None:
        """Walk through the part's elements; names come without their prefix."""
        parser = expat.ParserCreate()
        parser.StartElementHandler = lambda tag, attributes: start(local(tag), attributes)
        self.feed(name, parser)

    def feed(self, name: str, parser: expat.XMLParserType) -> None:
        """Let `parser` read the part; a DTD is refused before anything in it is expanded."""

        def refuse_dtd(*_: object) -> None:
            self._dtd(name)

        parser.StartDoctypeDeclHandler = refuse_dtd
        parser.EntityDeclHandler = refuse_dtd
        try:
            for chunk in self.chunks(name):
                parser.Parse(chunk, False)
            parser.Parse(b"", True)
        except expat.ExpatError as error:
            self.refuse(
                "XML", f"{escaped(name)!r} line {error.lineno} is not well-formed XML", SAVE_AGAIN
            )

    def _sheets(self) -> list[Part]:
        targets: dict[str, str] = {}
        found: list[tuple[str, str, bool]] = []

        def relation(tag: str, attributes: dict[str, str]) -> None:
            if tag == "Relationship" and attributes.get("TargetMode") != "External":
                targets[attributes.get("Id", "")] = attributes.get("Target", "")

        def sheet(tag: str, attributes: dict[str, str]) -> None:
            if tag == "sheet":
                plain = {local(key): value for key, value in attributes.items()}
                hidden = plain.get("state", "visible") != "visible"
                found.append((plain.get("name", ""), plain.get("id", ""), hidden))

        if not self.has("xl/_rels/workbook.xml.rels"):
            self.refuse(
                "ZIP", "not a complete xlsx (xl/_rels/workbook.xml.rels missing)", SAVE_AGAIN
            )
        self.parse("xl/_rels/workbook.xml.rels", relation)
        self.parse("xl/workbook.xml", sheet)
        parts = []
        for name, identity, hidden in found:
            target = targets.get(identity, "")
            entry = target[1:] if target.startswith("/") else str(PurePosixPath("xl") / target)
            if self.has(entry):
                parts.append(Part(sheet=name, entry=entry, hidden=hidden))
        if not parts:
            self.refuse("SHEET", "the workbook has no sheet", SAVE_AGAIN)
        return parts

    def active(self) -> list[str]:
        """What of the workbook could act: macros, links to other files, queries. None is used."""
        return sorted(
            info.filename
            for name, info in self.entries.items()
            if name.startswith(("xl/externallinks/external", "xl/activex/", "xl/connections.xml"))
            or name.endswith("vbaproject.bin")
        )
