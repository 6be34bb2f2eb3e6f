"""Recorded source lists of real machines, hosts replaced."""

import pytest

from bench_adapters._apt import AptSource, backports_entry, find_archive, parse_sources

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"

CONTAINER = """\
Types: deb
# http://snapshot.example.org/archive/debian/20250520T000000Z
URIs: http://deb.example.org/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
# http://snapshot.example.org/archive/debian-security/20250520T000000Z
URIs: http://deb.example.org/debian-security
Suites: bookworm-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
"""

OTHERS = {
    "a.list": "deb [arch=amd64] https://download.example.com/linux/debian bookworm stable\n",
    "b.list": "deb https://packages.example.net/debian/12/prod bookworm main\n",
    "c.list": "deb [signed-by=/etc/c.gpg] https://php.example.net/php/ bookworm main\n",
    "d.sources": "Types: deb\nURIs: https://node.example.com/node_20.x\nSuites: nodistro\n"
    "Components: main\n",
}

INSTALLED = """\
#deb cdrom:[Debian GNU/Linux 12.5.0 _Bookworm_ - Official amd64 NETINST]/ bookworm main

deb http://ftp.xy.example.org/debian/ bookworm main non-free-firmware
deb-src http://ftp.xy.example.org/debian/ bookworm main non-free-firmware
deb http://security.example.org/debian-security bookworm-security main  # updates
deb http://ftp.xy.example.org/debian/ bookworm-updates main non-free-firmware
"""

MIRROR = (
    "deb [ trusted=yes arch=amd64,i386 check-valid-until=no ] http://10.0.0.1/apt bookworm main"
)


def find(files):
    return find_archive(parse_sources(files), distribution="debian", codename="bookworm")


@pytest.mark.parametrize("others", [{}, OTHERS])
def test_container(others):
    archive = find({"debian.sources": CONTAINER} | others)
    assert archive == AptSource(
        "http://deb.example.org/debian",
        ("bookworm", "bookworm-updates"),
        ("main",),
        {"Signed-By": KEYRING},
    )
    assert backports_entry(archive, codename="bookworm") == (
        "Types: deb\nURIs: http://deb.example.org/debian\nSuites: bookworm-backports\n"
        f"Components: main\nSigned-By: {KEYRING}\n"
    )


@pytest.mark.parametrize("others", [{}, OTHERS])
def test_installed_machine(others):
    archive = find({"sources.list": INSTALLED} | others)
    assert archive.uri == "http://ftp.xy.example.org/debian/"
    assert archive.options == {}


def test_other_vendors_alone_are_not_the_archive():
    assert find({k: v for k, v in OTHERS.items() if k != "a.list"}) is None
    assert find({}) is None


def test_options_are_repeated():
    updates = MIRROR.replace("bookworm main", "bookworm-updates main")
    archive = find({"sources.list": f"{MIRROR}\n{updates}\n"})
    entry = backports_entry(archive, codename="bookworm")
    assert "Trusted: yes\n" in entry
    assert "Architectures: amd64 i386\n" in entry
    assert "Check-Valid-Until: no\n" in entry
    assert parse_sources({"x.sources": entry})[0].suites == ("bookworm-backports",)


def test_key_inside_the_file_survives():
    key = " -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mDMEY865UxYJ\n -----END PGP BLOCK-----"
    text = CONTAINER.replace(f"Signed-By: {KEYRING}", f"Signed-By:\n{key}")
    entry = backports_entry(find({"debian.sources": text}), codename="bookworm")
    assert f"Signed-By:\n{key}\n" in entry


def test_disabled_and_source_entries_do_not_count():
    assert not parse_sources({"a.sources": f"Enabled: no\n{CONTAINER.split(chr(10) * 2)[0]}"})
    assert not parse_sources({"a.sources": "Types: deb-src\nURIs: http://x\nSuites: s\n"})
    assert not parse_sources({"a.list": "deb-src http://x bookworm main\n# deb http://x y z\n"})


def test_several_uris_in_an_entry():
    text = (
        "Types: deb deb-src\nURIs: http://a/debian http://b/debian\nSuites: s\nComponents: main\n"
    )
    assert [source.uri for source in parse_sources({"x.sources": text})] == [
        "http://a/debian",
        "http://b/debian",
    ]
