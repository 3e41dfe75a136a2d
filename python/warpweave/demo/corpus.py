# SPDX-License-Identifier: Apache-2.0
"""The text of the demo model: nine books in the public domain, out of three Debian packages.

r-cran-janeaustenr and r-cran-tokenizers ship their books as a lazy-load database of R: objects
in R's XDR serialisation, each behind a 4-byte length and deflated. golang-github-pierrec-lz4-dev
ships plain Project Gutenberg files as test data.
"""

import io
import re
import struct
import subprocess
import tempfile
import zlib
from pathlib import Path
from typing import NamedTuple

STRING_VECTOR, STRING, NO_STRING = 16, 9, -1


class Book(NamedTuple):
    """Where one book lies: `key` is an object's position in an R database, or None for a file."""

    title: str
    package: str
    path: str
    key: int | None


_AUSTEN = ("r-cran-janeaustenr", "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb")
_MELVILLE = ("r-cran-tokenizers", "usr/lib/R/site-library/tokenizers/data/Rdata.rdb")
_TESTDATA = "usr/share/gocode/src/github.com/pierrec/lz4/testdata/"
BOOKS = (
    Book("Emma", *_AUSTEN, 0),
    Book("Mansfield Park", *_AUSTEN, 1),
    Book("Northanger Abbey", *_AUSTEN, 2),
    Book("Persuasion", *_AUSTEN, 3),
    Book("Pride and Prejudice", *_AUSTEN, 4),
    Book("Sense and Sensibility", *_AUSTEN, 5),
    Book("The Adventures of Sherlock Holmes", "golang-github-pierrec-lz4-dev",
         _TESTDATA + "pg1661.txt", None),
    Book("The Adventures of Tom Sawyer", "golang-github-pierrec-lz4-dev",
         _TESTDATA + "Mark.Twain-Tom.Sawyer.txt", None),
    Book("Moby Dick", *_MELVILLE, 0),
)  # fmt: skip


def read_r_strings(blob: bytes) -> list[str]:
    """A character vector in R's XDR serialisation, version 2 or 3 (R Internals, section 1.8)."""
    stream = io.BytesIO(blob)

    def integer() -> int:
        return int(struct.unpack(">i", stream.read(4))[0])

    if stream.read(2) != b"X\n":
        raise ValueError("not an XDR serialisation of R")
    version = integer()
    stream.read(8)  # versions of the writing R and of the oldest R that can read it
    if version == 3:
        stream.read(integer())  # name of the native encoding
    if integer() & 0xFF != STRING_VECTOR:
        raise ValueError("the R object is not a character vector")
    strings = []
    for _ in range(integer()):
        if integer() & 0xFF != STRING:
            raise ValueError("the R character vector holds something that is not a string")
        size = integer()
        strings.append("" if size == NO_STRING else stream.read(size).decode())
    return strings


def read_r_database(blob: bytes) -> list[list[str]]:
    """The character vectors of a lazy-load database, in the order of the file."""
    vectors, at = [], 0
    while at < len(blob):
        reader = zlib.decompressobj()
        data = reader.decompress(blob[at + 4 :])
        at = len(blob) - len(reader.unused_data)
        vectors.append(read_r_strings(data))
    return vectors


def clean(text: str) -> str:
    """One line per paragraph with a blank line between, without italics and licence."""
    text = re.sub(r"^.*\*\*\* ?START OF TH[^\n]*\n", "", text, flags=re.S)
    text = re.sub(r"(\*\*\* ?END OF TH|End of (the )?Project Gutenberg).*$", "", text, flags=re.S)
    text = text.replace("\r\n", "\n").replace("_", "")
    paragraphs = (" ".join(p.split()) for p in re.split(r"\n[ \t]*\n", text))
    return "\n\n".join(p for p in paragraphs if p)


def fetch(directory: Path) -> list[str]:
    """The cleaned text of every book; its packages are downloaded and unpacked if missing."""
    texts = []
    for book in BOOKS:
        root = directory / book.package
        if not root.exists():
            with tempfile.TemporaryDirectory(dir=directory) as download:
                subprocess.run(["apt-get", "download", book.package], cwd=download, check=True)
                (package,) = Path(download).glob("*.deb")
                subprocess.run(["dpkg", "-x", package, Path(download) / "root"], check=True)
                (Path(download) / "root").rename(root)
        blob = (root / book.path).read_bytes()
        if book.key is None:
            texts.append(clean(blob.decode("utf-8-sig")))
        else:
            texts.append(clean("\n".join(read_r_database(blob)[book.key])))
    return texts


def split(texts: list[str], held_out: float = 0.025) -> tuple[list[str], list[str]]:
    """Cut each book at a paragraph: the beginning to train on, the last few percent held out."""
    train, test = [], []
    for text in texts:
        at = text.index("\n\n", int(len(text) * (1 - held_out)))
        train.append(text[:at])
        test.append(text[at + 2 :])
    return train, test
