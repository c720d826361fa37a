"""krew/template.yaml and built archives -> the manifest that krew installs by.

The template is that of rajatjindal/krew-release-bot, which fills it with the sums of released archives. Here the same
two constructs of it are understood, with archives of a folder: {{ .TagName }}, and {{addURIAndSha "URL" .TagName }}
(the bot's pkg/source/template.go). With --bot the template itself is written, for a repository: the bot knows no other
variable.
"""

from __future__ import annotations

import argparse
import hashlib
import re
from pathlib import Path

TEMPLATE = Path(__file__).with_name("template.yaml")
TAG = "{{ .TagName }}"
ARCHIVE = re.compile(r'\{\{addURIAndSha "([^"]+)" \.TagName \}\}')
PLATFORM = re.compile(r"(?m)^  - selector:\n(?:    .*\n?)+")
REPOSITORY = re.compile(r"[A-Za-z0-9-]+/(?!\.{1,2}\Z)[A-Za-z0-9_.-]+")


class Missing(Exception):
    """An archive that the template names is not there."""


def body(repository: str) -> str:
    """The template for a repository, without the comments."""
    lines = (line for line in TEMPLATE.read_text().splitlines(True) if not line.startswith("#"))
    return "".join(lines).replace("@REPOSITORY@", repository)


def _archive(uri: str, folder: Path) -> str:
    file = folder / uri.rsplit("/", 1)[-1]
    if not file.is_file():
        raise Missing(f"{file} is not there: krew/build makes it, on such a machine")
    return f"uri: {uri}\n    sha256: {hashlib.sha256(file.read_bytes()).hexdigest()}"


def fill(template: str, tag: str, folder: Path, only_built: bool) -> str:
    """The manifest of the release ``tag`` of archives in ``folder``. ``only_built``: platforms without an archive are
    left out, which is for trying it; else they are an error."""

    def platform(found: re.Match[str]) -> str:
        try:
            return ARCHIVE.sub(lambda uri: _archive(uri[1], folder), found[0])
        except Missing:
            if only_built:
                return ""
            raise

    text = PLATFORM.sub(platform, template.replace(TAG, tag))
    if not PLATFORM.search(text):
        raise Missing(f"there is no archive of {tag} in {folder}: krew/build makes one")
    return text


def main() -> None:
    flags = argparse.ArgumentParser(prog="krew/manifest", description="Write the manifest of a release for krew.")
    flags.add_argument("--repository", required=True, metavar="OWNER/NAME", help="the GitHub repository of the release")
    flags.add_argument("--tag", help="the release, as in v0.1.0; without: the version of the product")
    flags.add_argument(
        "--archives", type=Path, metavar="DIR", help="where the archives are; without: dist of the checkout"
    )
    flags.add_argument("--only-built", action="store_true", help="leave out machines for which there is no archive")
    flags.add_argument("--bot", action="store_true", help="write the template for krew-release-bot instead")
    flags.add_argument("output", type=Path, nargs="?", help="without: krew/netpol-ebpf.yaml of the checkout")
    flags.add_argument("--from", dest="start", type=Path, default=Path(), help=argparse.SUPPRESS)
    given = flags.parse_args()
    if not REPOSITORY.fullmatch(given.repository):
        flags.error(f"{given.repository} is not OWNER/NAME")
    tag = given.tag or f"v{version()}"
    if tag != f"v{version()}":
        flags.error(f"{tag} is not the tag of version {version()}")
    template = body(given.repository)
    archives = given.start / given.archives if given.archives else Path("dist")
    output = given.start / given.output if given.output else Path("krew/netpol-ebpf.yaml")
    try:
        output.write_text(template if given.bot else fill(template, tag, archives, given.only_built))
    except Missing as error:
        raise SystemExit(f"error: {error}") from None
    except OSError as error:
        raise SystemExit(f"error: {output} could not be written: {error.strerror}") from None


def version() -> str:
    """Of the product. Read, not imported: the build's tools have not what it needs."""
    text = (Path(__file__).resolve().parents[1] / "kubectl_netpol" / "__init__.py").read_text()
    found = re.search(r'__version__ = "(.+)"', text)
    assert found
    return found[1]


if __name__ == "__main__":
    main()
