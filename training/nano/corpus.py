"""The Python source that the model learns from: which files, under which licences, and which modules are held out.

Everything is found from two directories, the standard library and a site-packages, by default those of the running
interpreter. A package is used only if its metadata names a permissive licence. Held-out modules, and any file that
shares many lines with one of them, are never given out for training. Knows nothing of tokens or models.
"""

import argparse
import hashlib
import re
import sysconfig
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path

HELD_OUT = (
    "_strptime.py", "ast.py", "base64.py", "bdb.py", "bisect.py", "calendar.py", "cmd.py", "codeop.py", "colorsys.py",
    "configparser.py", "contextlib.py", "copy.py", "csv.py", "dataclasses.py", "difflib.py", "dis.py", "filecmp.py",
    "fileinput.py", "fnmatch.py", "fractions.py", "ftplib.py", "getopt.py", "gettext.py", "glob.py", "gzip.py",
    "heapq.py", "hmac.py", "html/parser.py", "http/cookies.py", "imaplib.py", "ipaddress.py", "json/decoder.py",
    "linecache.py", "mailbox.py", "netrc.py", "numbers.py", "pprint.py", "queue.py", "quopri.py", "random.py",
    "sched.py", "shelve.py", "shlex.py", "shutil.py", "smtplib.py", "statistics.py", "string.py", "tempfile.py",
    "textwrap.py", "timeit.py", "tokenize.py", "trace.py", "uuid.py", "wave.py", "xmlrpc/client.py", "zipfile.py",
)  # fmt: skip
SKIPPED = {"test", "tests", "testing", "idlelib", "lib2to3", "__pycache__", "site-packages", "_vendor", "pydoc_data"}
PERMISSIVE = re.compile(r"\b(MIT|BSD|Apache|ISC|PSF|Python Software Foundation|Unlicense|0BSD)\b", re.IGNORECASE)
OTHER = re.compile(r"\b(L?GPL|AGPL|MPL|Mozilla|proprietary|EPL|CDDL|commercial)\b", re.IGNORECASE)
PACKAGE_BYTES = 1_500_000
FILE_BYTES = 150_000


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file: where it comes from ("stdlib" or a package name), its path inside that, and its text."""

    origin: str
    path: str
    text: str


@dataclass(frozen=True, slots=True)
class Package:
    """An installed package whose source may be used, with the licence its metadata names."""

    name: str
    version: str
    licence: str
    files: tuple[Path, ...]


def default_stdlib() -> Path:
    """The standard library of the running interpreter."""
    return Path(sysconfig.get_path("stdlib"))


def default_site_packages() -> Path:
    """The site-packages of the running interpreter."""
    return Path(sysconfig.get_path("purelib"))


def licence_of(distribution: Distribution) -> str:
    """The licence in a package's metadata, as one line, or an empty string."""
    metadata = distribution.metadata
    if expression := metadata.get_all("License-Expression"):
        return str(expression[0])
    classifiers = [c.rsplit(" :: ", 1)[-1] for c in metadata.get_all("Classifier") or [] if c.startswith("License")]
    classifiers = [c for c in classifiers if c != "OSI Approved"]
    if classifiers:
        return ", ".join(classifiers)
    return str((metadata.get_all("License") or [""])[0]).strip().split("\n")[0][:60]


def packages(site_packages: Path) -> list[Package]:
    """The packages of a site-packages directory that are permissively licensed, by name."""
    found: dict[str, Package] = {}
    for distribution in distributions(path=[str(site_packages)]):
        licence = licence_of(distribution)
        if not PERMISSIVE.search(licence) or OTHER.search(licence):
            continue
        name = str(distribution.metadata["Name"])
        if name == "deltaloop":
            continue
        files = tuple(
            Path(str(distribution.locate_file(file)))
            for file in distribution.files or ()
            if file.suffix == ".py" and not SKIPPED & set(file.parts)
        )
        if files:
            found[name.lower()] = Package(name, distribution.version, licence, files)
    return [found[name] for name in sorted(found)]


def held_out(stdlib: Path) -> list[SourceFile]:
    """The held-out modules of the standard library, whole."""
    return [SourceFile("stdlib", name, (stdlib / name).read_text("utf-8")) for name in HELD_OUT]


def training_files(stdlib: Path, site_packages: Path) -> Iterator[SourceFile]:
    """Every file to learn from: the standard library first, then each package up to a size limit."""
    telling = {line for file in held_out(stdlib) for line in telling_lines(file.text)}
    seen: set[str] = set()

    def usable(text: str) -> bool:
        digest = hashlib.sha256(text.encode()).hexdigest()
        if digest in seen or not 200 <= len(text) <= FILE_BYTES:
            return False
        seen.add(digest)
        lines = telling_lines(text)
        shared = sum(line in telling for line in lines)
        return shared < 8 or shared < 0.05 * len(lines)

    for path in sorted(stdlib.rglob("*.py")):
        relative = path.relative_to(stdlib)
        if SKIPPED & set(relative.parts) or relative.as_posix() in HELD_OUT:
            continue
        text = read(path)
        if usable(text):
            yield SourceFile("stdlib", relative.as_posix(), text)
    for package in packages(site_packages):
        size = 0
        # The order of the digests of the paths: a package over the limit is sampled evenly, not from its first folder.
        for path in sorted(package.files, key=lambda p: hashlib.sha256(p.name.encode()).digest()):
            text = read(path)
            if size + len(text) <= PACKAGE_BYTES and usable(text):
                size += len(text)
                yield SourceFile(package.name, path.relative_to(site_packages).as_posix(), text)


def read(path: Path) -> str:
    """A file's text, or an empty string where it is gone or is not UTF-8."""
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def telling_lines(text: str) -> set[str]:
    """Lines long enough that sharing many of them means sharing an origin."""
    return {line for line in map(str.strip, text.splitlines()) if len(line) >= 24 and not line.startswith("#")}


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="List the source that training would use.")
    parser.add_argument("--stdlib", type=Path, default=default_stdlib())
    parser.add_argument("--site-packages", type=Path, default=default_site_packages())
    arguments = parser.parse_args()
    sizes = Counter[str]()
    for file in training_files(arguments.stdlib, arguments.site_packages):
        sizes[file.origin] += len(file.text.encode())
    print(f"standard library: {sizes['stdlib']:,} bytes")
    for package in packages(arguments.site_packages):
        print(f"{package.name} {package.version} ({package.licence}): {sizes[package.name]:,} bytes")
    print(f"held out: {', '.join(HELD_OUT)}")


if __name__ == "__main__":
    main()
