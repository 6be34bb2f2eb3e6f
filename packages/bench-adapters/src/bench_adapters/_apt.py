"""What apt's source lists say, in both of its formats, and what to add to them."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

# Options of the one-line format that a new entry for the same archive must repeat.
_OPTION_FIELDS = {
    "arch": "Architectures",
    "check-valid-until": "Check-Valid-Until",
    "signed-by": "Signed-By",
    "trusted": "Trusted",
}


class AptSource(NamedTuple):
    """One enabled entry for binary packages."""

    uri: str
    suites: tuple[str, ...]
    components: tuple[str, ...]
    options: Mapping[str, str]
    """Deb822 fields to repeat for the same archive, such as ``Signed-By``."""


def parse_sources(files: Mapping[str, str]) -> list[AptSource]:
    """Parse apt's source files.

    Args:
        files: Content by file name; ``*.sources`` is deb822, the others one entry per line.
    """
    return [
        source
        for name, text in sorted(files.items())
        for source in (
            _parse_deb822(text) if name.endswith(".sources") else _parse_one_line_format(text)
        )
    ]


def _parse_one_line_format(text: str) -> Iterable[AptSource]:
    for line in text.splitlines():
        entry = line.partition("#")[0].strip()
        kind, _, rest = entry.partition(" ")
        if kind != "deb":
            continue
        rest = rest.strip()
        options = {}
        if rest.startswith("["):
            inside, _, rest = rest[1:].partition("]")
            for option in inside.split():
                key, _, value = option.partition("=")
                if key.lower() in _OPTION_FIELDS:
                    options[_OPTION_FIELDS[key.lower()]] = value.replace(",", " ")
        words = rest.split()
        if len(words) >= 2:
            yield AptSource(words[0], (words[1],), tuple(words[2:]), options)


def _parse_deb822(text: str) -> Iterable[AptSource]:
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    for stanza in "\n".join(lines).split("\n\n"):
        fields: dict[str, str] = {}
        key = ""
        for line in stanza.splitlines():
            if line[:1].isspace():
                fields[key] = f"{fields.get(key, '')}\n{line}"
            elif ":" in line:
                key, _, value = line.partition(":")
                key = key.strip().title()
                fields[key] = value.strip()
        enabled = fields.get("Enabled", "yes").lower() not in ("no", "false", "0")
        if not enabled or "deb" not in fields.get("Types", "").split():
            continue
        options = {k: fields[k] for k in _OPTION_FIELDS.values() if fields.get(k)}
        for uri in fields.get("Uris", "").split():
            yield AptSource(
                uri,
                tuple(fields.get("Suites", "").split()),
                tuple(fields.get("Components", "").split()),
                options,
            )


def find_archive(
    sources: Iterable[AptSource], *, distribution: str, codename: str
) -> AptSource | None:
    """Return the entry of the distribution's own archive.

    Other vendors use the release's name as their suite too. What tells the archive is that it also
    offers ``<codename>-updates``, is signed with the distribution's keys, or ends in its name.

    Args:
        sources: All entries.
        distribution: ``debian`` or ``ubuntu``.
        codename: For example ``bookworm``.
    """
    sources = list(sources)
    with_updates = {s.uri.rstrip("/") for s in sources if f"{codename}-updates" in s.suites}
    best: AptSource | None = None
    best_score = 0
    for source in sources:
        if codename not in source.suites or "main" not in source.components:
            continue
        score = (
            4 * (source.uri.rstrip("/") in with_updates)
            + 2 * (f"{distribution}-archive-keyring" in source.options.get("Signed-By", ""))
            + (urlsplit(source.uri).path.rstrip("/").split("/")[-1] == distribution)
        )
        if score > best_score:
            best, best_score = source, score
    return best


def backports_entry(archive: AptSource, *, codename: str) -> str:
    """Return a deb822 file that adds ``<codename>-backports`` of the same archive."""
    fields = {
        "Types": "deb",
        "URIs": archive.uri,
        "Suites": f"{codename}-backports",
        "Components": "main",
        **archive.options,
    }
    # A key given in the file itself begins on the line after its field.
    return "".join(
        f"{key}:{'' if value.startswith(chr(10)) else ' '}{value}\n"
        for key, value in fields.items()
    )
