"""Files that are wrong in one way each, and what shall be said about them.

`BAD` is the list; `python tests/badinput/make.py FOLDER` writes all of them, to look at.
No such file lies in git: they are small programs here, and binaries there.
"""

from __future__ import annotations

import json
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

Content = bytes | Callable[[], bytes]


@dataclass(frozen=True, kw_only=True)
class Bad:
    """One wrong file: `code` and the text `place` are expected in the error."""

    name: str
    content: Content
    code: str
    place: str = ""
    spec: Mapping[str, Any] = field(default_factory=dict)
    limits: Mapping[str, int] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        extension = self.name.rpartition(".")[2]
        return {"ndjson": "json", "tsv": "csv"}.get(extension, extension)

    def write(self, folder: Path) -> Path:
        path = folder / self.name
        path.write_bytes(self.content if isinstance(self.content, bytes) else self.content())
        return path


# --- workbooks, by hand: every byte of the XML is ours ------------------------------------------

_MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_DOCS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_XML = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'


def text_cell(reference: str, text: str) -> str:
    return f'<c r="{reference}" t="inlineStr"><is><t>{text}</t></is></c>'


def number_cell(reference: str, number: object) -> str:
    return f'<c r="{reference}"><v>{number}</v></c>'


def row(number: int, *cells: str, attributes: str = "") -> str:
    return f'<row r="{number}"{attributes}>{"".join(cells)}</row>'


HEADER = row(1, text_cell("A1", "name"), text_cell("B1", "days"))
GOOD = row(2, text_cell("A2", "alpha"), number_cell("B2", 365))


def sheet_xml(*rows: str, before: str = "", after: str = "", prolog: str = _XML) -> str:
    data = "".join(rows)
    inner = f"{before}<sheetData>{data}</sheetData>{after}"
    return f'{prolog}<worksheet xmlns="{_MAIN}">{inner}</worksheet>'


def parts(sheets: Mapping[str, str], *, date1904: bool = False) -> dict[str, bytes]:
    """The entries of a workbook with these sheets (name -> XML)."""
    listed = "".join(
        f'<sheet name="{name}" sheetId="{i}" r:id="rId{i}"/>' for i, name in enumerate(sheets, 1)
    )
    related = "".join(
        f'<Relationship Id="rId{i}" Type="{_DOCS}/worksheet" Target="worksheets/sheet{i}.xml"/>'
        for i in range(1, len(sheets) + 1)
    )
    package = "http://schemas.openxmlformats.org/package/2006"
    kind = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet.main+xml"
    properties = '<workbookPr date1904="1"/>' if date1904 else ""
    entries = {
        "[Content_Types].xml": f'{_XML}<Types xmlns="{package}/content-types">'
        f'<Default Extension="xml" ContentType="application/xml"/>'
        f'<Override PartName="/xl/workbook.xml" ContentType="{kind}"/></Types>',
        "_rels/.rels": f'{_XML}<Relationships xmlns="{package}/relationships"><Relationship '
        f'Id="rId1" Type="{_DOCS}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": f'{_XML}<workbook xmlns="{_MAIN}" xmlns:r="{_DOCS}">{properties}'
        f"<sheets>{listed}</sheets></workbook>",
        "xl/_rels/workbook.xml.rels": f'{_XML}<Relationships xmlns="{package}/relationships">'
        f"{related}</Relationships>",
        "xl/styles.xml": f'{_XML}<styleSheet xmlns="{_MAIN}"><cellXfs count="2"><xf numFmtId="0"/>'
        '<xf numFmtId="14" applyNumberFormat="1"/></cellXfs></styleSheet>',
    }
    for i, xml in enumerate(sheets.values(), 1):
        entries[f"xl/worksheets/sheet{i}.xml"] = xml
    return {name: text.encode() for name, text in entries.items()}


def zipped(entries: Mapping[str, bytes], *more: tuple[zipfile.ZipInfo, bytes]) -> bytes:
    out = BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in entries.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
        for info, content in more:
            archive.writestr(info, content)
    return out.getvalue()


def workbook(*rows: str, name: str = "Repo", **others: str) -> bytes:
    """A workbook whose first sheet has these rows; `others` are further sheets (name -> XML)."""
    return zipped(parts({name: sheet_xml(*rows), **others}))


def with_entries(**entries: bytes) -> bytes:
    named = {name.replace("__", "/").replace("_DOT_", "."): text for name, text in entries.items()}
    return zipped(parts({"Repo": sheet_xml(HEADER, GOOD)}) | named)


def with_info(name: str, mode: int = 0) -> bytes:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return zipped(parts({"Repo": sheet_xml(HEADER, GOOD)}), (info, b"x"))


def doubled() -> bytes:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return zipped(
            parts({"Repo": sheet_xml(HEADER, GOOD)}), (zipfile.ZipInfo("xl/WORKBOOK.xml"), b"x")
        )


def bomb(part: str, mebibytes: int = 30) -> bytes:
    """A part of blanks that unpacks to a thousand times its size."""
    entries = parts({"Repo": sheet_xml(HEADER, GOOD)})
    entries[part] = b" " * (mebibytes << 20)
    return zipped(entries)


def liar() -> bytes:
    """A sheet of 12 MiB whose entry says that it has 1000 bytes."""
    filler = "<!-- " + "".join(f"{i:08x}" for i in range(1_500_000)) + " -->"
    data = bytearray(zipped(parts({"Repo": sheet_xml(HEADER, GOOD, after=filler)})))
    name = b"xl/worksheets/sheet1.xml"
    for signature, size_at, name_at in ((b"PK\x03\x04", 22, 30), (b"PK\x01\x02", 24, 46)):
        at = 0
        while (at := data.find(signature, at)) >= 0:
            if data[at + name_at : at + name_at + len(name)] == name:
                data[at + size_at : at + size_at + 4] = struct.pack("<I", 1000)
            at += 4
    return bytes(data)


def encrypted_zip() -> bytes:
    data = bytearray(workbook(HEADER, GOOD))
    at = 0
    while (at := data.find(b"PK\x01\x02", at)) >= 0:
        data[at + 8] |= 1
        at += 4
    return bytes(data)


def wide(columns: int) -> bytes:
    def letters(column: int) -> str:
        text = ""
        while column:
            column, rest = divmod(column - 1, 26)
            text = chr(65 + rest) + text
        return text

    cells = (text_cell(f"{letters(i)}1", f"h{i}") for i in range(1, columns + 1))
    return workbook(row(1, *cells), GOOD)


OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 504
_DTD = _XML + '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>\n'
_ENTITY = _XML + '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>\n'
_HTML = b"<html><body><table><tr><td>name</td></tr></table></body></html>"

XLSX = (
    Bad(name="zero.xlsx", content=b"", code="DS-XLS-EMPTY"),
    Bad(name="truncated.xlsx", content=lambda: workbook(HEADER, GOOD)[:600], code="DS-XLS-ZIP"),
    Bad(name="html.xlsx", content=_HTML, code="DS-XLS-HTML"),
    Bad(name="xml.xlsx", content=b'<?xml version="1.0"?><Workbook/>', code="DS-XLS-HTML"),
    Bad(name="old.xlsx", content=OLE, code="DS-XLS-OLE"),
    Bad(
        name="encrypted.xlsx",
        content=OLE + "EncryptedPackage".encode("utf-16-le"),
        code="DS-XLS-OLE",
        place="password",
    ),
    Bad(name="zip-password.xlsx", content=encrypted_zip, code="DS-XLS-OLE", place="password"),
    Bad(name="csv.xlsx", content=b"name,days\nalpha,365\n", code="DS-XLS-TYPE"),
    Bad(name="parquet.xlsx", content=b"PAR1xxxxPAR1", code="DS-XLS-TYPE"),
    Bad(
        name="docx.xlsx",
        content=lambda: zipped({"word/document.xml": b"<x/>"}),
        code="DS-XLS-TYPE",
    ),
    Bad(
        name="no-rels.xlsx",
        content=lambda: zipped({"xl/workbook.xml": b"<workbook/>"}),
        code="DS-XLS-ZIP",
    ),
    Bad(name="bomb.xlsx", content=lambda: bomb("xl/worksheets/sheet1.xml"), code="DS-XLS-BOMB"),
    Bad(name="bomb-texts.xlsx", content=lambda: bomb("xl/sharedStrings.xml"), code="DS-XLS-BOMB"),
    Bad(name="liar.xlsx", content=liar, code="DS-XLS-BOMB"),
    Bad(
        name="large-part.xlsx",
        content=lambda: workbook(HEADER, GOOD),
        code="DS-XLS-BOMB",
        limits={"xlsx_part_bytes": 100},
    ),
    Bad(
        name="large-file.xlsx",
        content=lambda: workbook(HEADER, GOOD),
        code="DS-XLS-LIMIT",
        limits={"xlsx_bytes": 100},
    ),
    Bad(
        name="entries.xlsx",
        content=lambda: zipped(
            parts({"Repo": sheet_xml(HEADER)}) | {f"x/{i}": b"" for i in range(10_001)}
        ),
        code="DS-XLS-ZIP",
    ),
    Bad(name="climbs.xlsx", content=lambda: with_info("../../x"), code="DS-XLS-ZIP"),
    Bad(name="absolute.xlsx", content=lambda: with_info("/etc/x"), code="DS-XLS-ZIP"),
    Bad(name="link.xlsx", content=lambda: with_info("xl/l", 0o120777), code="DS-XLS-ZIP"),
    Bad(name="doubled.xlsx", content=doubled, code="DS-XLS-ZIP"),
    Bad(
        name="dtd.xlsx",
        content=lambda: zipped(parts({"Repo": sheet_xml(HEADER, GOOD, prolog=_DTD)})),
        code="DS-XLS-XML",
        place="DTD",
    ),
    Bad(
        name="entity.xlsx",
        content=lambda: zipped(parts({"Repo": sheet_xml(HEADER, GOOD, prolog=_ENTITY)})),
        code="DS-XLS-XML",
        place="DTD",
    ),
    Bad(
        name="dtd-workbook.xlsx",
        content=lambda: with_entries(xl__workbook_DOT_xml=(_DTD + "<workbook/>").encode()),
        code="DS-XLS-XML",
    ),
    Bad(
        name="utf16.xlsx",
        content=lambda: with_entries(xl__workbook_DOT_xml=(_DTD + "<w/>").encode("utf-16")),
        code="DS-XLS-XML",
    ),
    Bad(
        name="broken-xml.xlsx",
        content=lambda: zipped(parts({"Repo": sheet_xml(HEADER, '<row r="2"><c r="A2"')})),
        code="DS-XLS-XML",
    ),
    Bad(
        name="sparse.xlsx",
        content=lambda: workbook(
            HEADER, GOOD, row(1048576, text_cell("A1048576", "x"), text_cell("XFD1048576", "y"))
        ),
        code="DS-XLS-SPARSE",
        place="3 used rows",
    ),
    Bad(
        name="sparse-one.xlsx",
        content=lambda: workbook(HEADER, GOOD, row(1048576, text_cell("A1048576", "x"))),
        code="DS-XLS-SPARSE",
        place="B1048576",
    ),
    Bad(
        name="no-such-row.xlsx",
        content=lambda: workbook(HEADER, row(9999999, text_cell("A9999999", "x"))),
        code="DS-XLS-LIMIT",
    ),
    Bad(name="columns.xlsx", content=lambda: wide(17_000), code="DS-XLS-LIMIT"),
    Bad(
        name="long-cell.xlsx",
        content=lambda: workbook(HEADER, row(2, text_cell("A2", "x" * 32_768))),
        code="DS-XLS-CELL",
        place="Repo!A2",
    ),
    Bad(
        name="sheet.xlsx",
        content=lambda: workbook(HEADER, GOOD),
        code="DS-XLS-SHEET",
        place="'Repos'",
        spec={"sheet": "Repos"},
    ),
    Bad(
        name="case-twins.xlsx",
        content=lambda: workbook(HEADER, GOOD, name="REPO", rEPO=sheet_xml(HEADER)),
        code="DS-XLS-SHEET",
        spec={"sheet": "Repo"},
    ),
    Bad(
        name="which-sheet.xlsx",
        content=lambda: workbook(HEADER, GOOD, Other=sheet_xml(HEADER)),
        code="DS-XLS-SHEET",
        spec={"sheet": None},
    ),
    Bad(
        name="double-header.xlsx",
        content=lambda: workbook(row(1, text_cell("A1", "name"), text_cell("B1", " NAME "))),
        code="DS-COL-DUP",
        place="Repo!B1",
    ),
    Bad(
        name="blank-header.xlsx",
        content=lambda: workbook(HEADER, GOOD, row(3, text_cell("D3", "lost"))),
        code="DS-COL-BLANK",
        place="Repo!D3",
    ),
    Bad(
        name="late-header.xlsx",
        content=lambda: workbook(row(3, text_cell("A3", "name"))),
        code="DS-COL-HEADER",
        place="row 1",
    ),
    Bad(
        name="error-header.xlsx",
        content=lambda: workbook(
            row(1, text_cell("A1", "name"), '<c r="B1" t="e"><v>#REF!</v></c>'), GOOD
        ),
        code="DS-COL-HEADER",
        place="Repo!B1",
    ),
    Bad(name="no-cells.xlsx", content=lambda: workbook(), code="DS-SRC-EMPTY", place="Repo"),
    Bad(
        name="row-header.xlsx",
        content=lambda: workbook(row(1, text_cell("A1", "_Row"))),
        code="DS-COL-RESERVED",
        place="Repo!A1",
    ),
    Bad(
        name="forged-header.xlsx",
        content=lambda: workbook(row(1, text_cell("A1", "a\ue000"))),
        code="DS-TXT-UNICODE",
        place="Repo!A1",
    ),
)

CSV = (
    Bad(name="zero.csv", content=b"", code="DS-SRC-EMPTY"),
    Bad(name="mark-only.csv", content=b"\xef\xbb\xbf", code="DS-SRC-EMPTY"),
    Bad(name="blank-lines.csv", content=b"\n\r\n , \n", code="DS-SRC-EMPTY"),
    Bad(name="xlsx.csv", content=lambda: workbook(HEADER, GOOD), code="DS-CSV-ZIP"),
    Bad(name="ole.csv", content=OLE, code="DS-CSV-TYPE"),
    Bad(name="html.csv", content=_HTML, code="DS-CSV-TYPE"),
    Bad(name="gzip.csv", content=b"\x1f\x8b\x08\0\0", code="DS-CSV-TYPE"),
    Bad(
        name="utf16-without-mark.csv",
        content="name,days\nalpha,365\n".encode("utf-16-le"),
        code="DS-CSV-ENC",
        place="row 1",
    ),
    Bad(
        name="utf16-asked.csv",
        content="name,days\nalpha,365\n".encode("utf-16-be"),
        code="DS-CSV-ENC",
        spec={"encoding": "utf-16"},
    ),
    Bad(
        name="cp1252.csv",
        content=b"name,days\nalpha,1\ncaf\xe9,2\n",
        code="DS-CSV-ENC",
        place="0xE9 at offset 21",
    ),
    Bad(
        name="cp1252-quoted.csv",
        content=b'name,days\n"al\npha",1\n"caf\xe9",2\n',
        code="DS-CSV-ENC",
        place="row 3",
    ),
    Bad(name="cp1252-header.csv", content=b"caf\xe9\n1\n", code="DS-CSV-ENC", place="row 1"),
    Bad(
        name="surrogate.csv",
        content=b"name\nx\xed\xa0\x80y\n",
        code="DS-CSV-ENC",
        place="row 2",
    ),
    Bad(
        name="not-cp1252.csv",
        content=b"name\nx\n\x81\n",
        code="DS-CSV-ENC",
        place=":3",
        spec={"encoding": "cp1252"},
    ),
    Bad(
        name="half-character.csv",
        content="name\nx\n".encode("utf-16")[:-1],
        code="DS-CSV-ENC",
    ),
    Bad(name="encoding.csv", content=b"a\n", code="DS-CSV-ENC", spec={"encoding": "idna"}),
    Bad(
        name="nul.csv",
        content=b'name,days\n"al\npha",1\nbe\0ta,2\n',
        code="DS-CSV-NUL",
        place="row 3",
    ),
    Bad(name="nul-header.csv", content=b"na\0me,days\nbeta,2\n", code="DS-TXT-UNICODE"),
    Bad(
        name="nul-utf16.csv",
        content="name\nx\na\0b\n".encode("utf-16"),
        code="DS-CSV-NUL",
        place=":3",
    ),
    Bad(
        name="field.csv",
        content=lambda: b"name,days\nalpha,1\n" + b"x" * (17 << 20) + b",2\n",
        code="DS-CSV-FIELD",
        place="row 3",
    ),
    Bad(
        name="field-quoted.csv",
        content=lambda: b'name,days\nalpha,1\n"' + b"x" * (17 << 20) + b'",2\n',
        code="DS-CSV-FIELD",
        place="row 3",
    ),
    Bad(
        name="unclosed.csv",
        content=b'name,days\n"al\npha",1\nbeta,"2\ngamma,3\n',
        code="DS-CSV-QUOTE",
        place=":4",
    ),
    Bad(
        name="unclosed-later-quotes.csv",
        content=b'name,days\nalpha,1\n"beta,2\ngamma,"3"\n',
        code="DS-CSV-QUOTE",
        place=":3",
    ),
    Bad(
        name="text-after-quote.csv",
        content=b'name,days\n"alpha"beta,1\n',
        code="DS-CSV-QUOTE",
        place=":2",
    ),
    Bad(
        name="two-quoted.csv",
        content=b'name,days\nalpha,1\n"be" "ta",2\n',
        code="DS-CSV-QUOTE",
        place=":3",
    ),
    Bad(
        name="two-quoted-utf16.csv",
        content='name,days\n"be"  "ta",2\n'.encode("utf-16"),
        code="DS-CSV-QUOTE",
        place=":2",
    ),
    Bad(name="unclosed-header.csv", content=b'name,"days\n1,2\n', code="DS-CSV-QUOTE", place=":1"),
    Bad(name="narrow.csv", content=b"a,b,c\n1,2,3\n1,2\n", code="DS-CSV-WIDTH", place="row 3"),
    Bad(name="wide.csv", content=b"a,b\n\n1,2\n1,2,3\n", code="DS-CSV-WIDTH", place="row 3"),
    Bad(name="blank-in-line.csv", content=b"a,b\n1,2\n  \n", code="DS-CSV-WIDTH", place="row 3"),
    Bad(
        name="columns.csv",
        content=lambda: ",".join(f"h{i}" for i in range(17_000)).encode() + b"\n",
        code="DS-CSV-WIDTH",
        place="row 1",
    ),
    Bad(
        name="delimiter.csv",
        content=b"a;b;c\n1;2;3\n",
        code="DS-CSV-DELIM",
        place="semicolon",
        spec={"delimiter": ","},
    ),
    Bad(name="no-ascii.csv", content=b"a\n", code="DS-CSV-DELIM", spec={"delimiter": "§"}),
    Bad(name="one-mark.csv", content=b"a\n", code="DS-CSV-DELIM", spec={"delimiter": '"'}),
    Bad(name="double-header.csv", content=b"a,b, A \n1,2,3\n", code="DS-COL-DUP", place="column A"),
    Bad(
        name="blank-header.csv",
        content=b"a,,b\n1,,3\n1,x,3\n",
        code="DS-COL-BLANK",
        place="row 3, column 2",
    ),
    Bad(
        name="blank-last-header.csv",
        content=b"a,b,\n1,2,\n1,2,x\n",
        code="DS-COL-BLANK",
        place="row 3, column 3",
    ),
    Bad(name="row-header.csv", content=b"_row,b\n1,2\n", code="DS-COL-RESERVED"),
    Bad(name="forged-header.csv", content="a\ue001,b\n1,2\n".encode(), code="DS-TXT-UNICODE"),
)

JSON = (
    Bad(name="zero.json", content=b"", code="DS-SRC-EMPTY"),
    Bad(name="blank.json", content=b" \n\t\n", code="DS-SRC-EMPTY"),
    Bad(name="html.json", content=_HTML, code="DS-JSON-TYPE"),
    Bad(name="xlsx.json", content=lambda: workbook(HEADER, GOOD), code="DS-JSON-TYPE"),
    Bad(name="utf16.json", content='[{"a":1}]'.encode("utf-16"), code="DS-JSON-ENC"),
    Bad(name="latin.json", content=b'[{"a":1},\n{"a":"\xe9"}]', code="DS-JSON-ENC", place=":2:7"),
    Bad(name="latin.ndjson", content=b'{"a":1}\n{"a":"\xe9"}', code="DS-JSON-ENC", place=":2:7"),
    Bad(name="cut.json", content=b'[{"a":1},\n {"a":2}', code="DS-JSON-SYNTAX", place=":2:9"),
    Bad(name="cut.ndjson", content=b'{"a":1}\n\n{"a":', code="DS-JSON-SYNTAX", place=":3:6"),
    Bad(name="more.json", content=b'[{"a":1}] x', code="DS-JSON-SYNTAX", place=":1:11"),
    Bad(name="tab.json", content=b'[{"a":"x\ty"}]', code="DS-JSON-SYNTAX", place=":1:9"),
    Bad(name="object.json", content=b'{"items": [{"a":1}]}', code="DS-JSON-SHAPE", place="items"),
    Bad(name="pretty.json", content=b'{\n"items": []\n}', code="DS-JSON-SHAPE", place="items"),
    Bad(name="text.json", content=b'"x"', code="DS-JSON-SHAPE"),
    Bad(name="scalar.json", content=b'[{"a":1}, 5]', code="DS-JSON-SHAPE", place="row 2"),
    Bad(name="list.ndjson", content=b'{"a":1}\n[1]\n', code="DS-JSON-SHAPE", place="row 2"),
    Bad(
        name="no-list.json",
        content=b'{"items": [{"a":1}]}',
        code="DS-JSON-PATH",
        place="items",
        spec={"records": "rows"},
    ),
    Bad(
        name="list-of-scalars.json",
        content=b'{"items": [{"a":1}, 2]}',
        code="DS-JSON-SHAPE",
        place="row 2",
        spec={"records": "items"},
    ),
    Bad(name="twice.json", content=b'[{"a":1,\n"a":2}]', code="DS-JSON-DUPKEY", place=":2:1"),
    Bad(name="twice.ndjson", content=b'{"b":1}\n{"a":1,"a":2}', code="DS-JSON-DUPKEY", place=":2:"),
    Bad(
        name="twice-inside.json",
        content=b'[{"a":{"x":1}},{"a":{"x":1,"x":2}}]',
        code="DS-JSON-DUPKEY",
        place="row 2, column a",
    ),
    Bad(name="nan.json", content=b'[{"a":1},{"a":NaN}]', code="DS-JSON-NUMBER", place="row 2"),
    Bad(name="infinity.json", content=b'[{"a":-Infinity}]', code="DS-JSON-NUMBER", place="row 1"),
    Bad(name="nan-inside.json", content=b'[{"a":[NaN]}]', code="DS-JSON-NUMBER", place="column a"),
    Bad(
        name="nan-found.json",
        content=b'{"x":[{"a":\nNaN}]}',
        code="DS-JSON-NUMBER",
        place=":2:1",
        spec={"records": "x"},
    ),
    Bad(
        name="digits.json",
        content=b'{"x":[{"a":' + b"9" * 5000 + b"}]}",
        code="DS-JSON-NUMBER",
        spec={"records": "x"},
    ),
    Bad(
        name="deep.json",
        content=b'[{"a":' + b"[" * 150 + b"]" * 150 + b"}]",
        code="DS-JSON-DEPTH",
        place="row 1",
    ),
    Bad(
        name="deeper.json",
        content=b'[{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}]",
        code="DS-JSON-DEPTH",
    ),
    Bad(
        name="large.ndjson",
        content=b"\xef\xbb\xbf" + json.dumps({"a": "x" * 5000}).encode(),
        code="DS-JSON-LIMIT",
        place=":1",
        limits={"json_object_bytes": 1000},
    ),
    Bad(
        name="large.json",
        content=b'{"x": []}',
        code="DS-JSON-LIMIT",
        spec={"records": "x"},
        limits={"json_document_bytes": 5},
    ),
    Bad(name="half-pair.json", content=b'[{"a":"\\ud800"}]', code="DS-TXT-UNICODE", place="row 1"),
    Bad(name="case.json", content=b'[{"a":1},{"A":2}]', code="DS-COL-DUP"),
    Bad(name="no-key.json", content=b'[{"":1}]', code="DS-COL-BLANK"),
    Bad(name="row-key.json", content=b'[{"_row":1}]', code="DS-COL-RESERVED"),
)

PARQUET = (
    Bad(name="zero.parquet", content=b"", code="DS-SRC-EMPTY"),
    Bad(name="csv.parquet", content=b"a,b\n1,2\n", code="DS-PARQUET-TYPE"),
    Bad(name="xlsx.parquet", content=lambda: workbook(HEADER), code="DS-PARQUET-TYPE"),
    Bad(name="cut.parquet", content=b"PAR1" + b"\0" * 50, code="DS-PARQUET-READ"),
)

BAD: tuple[Bad, ...] = (*XLSX, *CSV, *JSON, *PARQUET)


def write_all(folder: Path) -> Iterator[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    for bad in BAD:
        yield bad.write(folder)


if __name__ == "__main__":
    for path in write_all(Path(sys.argv[1])):
        print(path)
