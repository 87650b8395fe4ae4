import gzip
import hashlib
import io
import os
import runpy
import socket
import struct
import subprocess
import tarfile
import threading
import urllib.request
import zipfile
from dataclasses import replace
from http.client import HTTPResponse
from pathlib import Path
from types import SimpleNamespace
from urllib.error import URLError

import pytest

from hsfm.core import job
from hsfm.data import download
from hsfm.data.download import SOURCES, fetch, get_dominoes, get_waterbirds, unpack
from tests.loopback import DATA

SHA256 = hashlib.sha256(DATA).hexdigest()


class Waits(list):
    """Waits that only note how long they would have been."""

    def __call__(self, seconds):
        self.append(seconds)


@pytest.fixture
def waits():
    return Waits()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Downloading ----------------------------------------------------------------------------------------------------------


def test_a_download_and_its_digest_are_kept_and_not_made_again(server, tmp_path):
    path = tmp_path / "new" / "file.tar.gz"
    assert fetch(server.url, path) == SHA256
    assert path.read_bytes() == DATA
    assert names(path.parent) == ["file.tar.gz", "file.tar.gz.sha256"]
    assert fetch(server.url, path, md5=hashlib.md5(DATA).hexdigest().upper(), sha256=SHA256) == SHA256
    assert server.requests == [("/file.tar.gz", None)]
    checked = subprocess.run(["sha256sum", "-c", "file.tar.gz.sha256"], cwd=path.parent, capture_output=True, text=True)
    assert checked.stdout == "file.tar.gz: OK\n"
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_cut_is_taken_up_where_it_was(server, tmp_path, waits):
    server.cuts = [100_000]
    assert fetch(server.url, tmp_path / "x", wait=waits) == SHA256
    assert [wanted for _, wanted in server.requests] == [None, "bytes=100000-"]
    assert server.sent == [100_000, len(DATA) - 100_000]
    assert (tmp_path / "x").read_bytes() == DATA
    assert waits == [1.0]


def test_a_later_call_takes_up_what_an_earlier_one_kept(server, tmp_path, waits):
    path = tmp_path / "x"
    server.cuts = [70_000]
    with pytest.raises(ValueError, match=r"cut after 70000 of 256000 bytes; run again to go on from the 70000 bytes"):
        fetch(server.url, path, retries=0, wait=waits)
    assert names(tmp_path) == ["x.part", "x.part.json"]
    assert waits == []
    assert fetch(server.url, path) == SHA256
    assert server.requests[-1][1] == "bytes=70000-"
    assert sum(server.sent) == len(DATA)
    assert names(tmp_path) == ["x", "x.sha256"]


def test_a_server_without_ranges_starts_again(server, tmp_path, waits):
    server.ranges, server.cuts = False, [100_000]
    assert fetch(server.url, tmp_path / "x", wait=waits) == SHA256
    assert server.requests[-1][1] == "bytes=100000-"
    assert server.sent == [100_000, len(DATA)]


def test_without_etag_and_date_nothing_is_continued(server, tmp_path, waits):
    server.etag, server.cuts = None, [100_000]
    assert fetch(server.url, tmp_path / "x", wait=waits) == SHA256
    assert [wanted for _, wanted in server.requests] == [None, None]


def test_three_cuts_then_all(server, tmp_path, waits):
    server.cuts = [100_000, 0, 0]
    assert fetch(server.url, tmp_path / "x", wait=waits) == SHA256
    assert waits == [1.0, 2.0, 4.0]
    assert sum(server.sent) == len(DATA)


def test_tries_that_bring_something_do_not_count(server, tmp_path, waits):
    server.cuts = [20_000] * 10
    assert fetch(server.url, tmp_path / "x", retries=1, wait=waits) == SHA256
    assert waits == [1.0] * 10
    assert sum(server.sent) == len(DATA)


def test_too_many_cuts_end_in_one_line_and_keep_the_part(server, tmp_path, waits):
    server.cuts = [100_000] + [0] * 9
    with pytest.raises(ValueError, match="cut after 100000 of 256000 bytes") as caught:
        fetch(server.url, tmp_path / "x", retries=3, wait=waits)
    assert str(caught.value).startswith(server.url)
    assert f"download it elsewhere and put it at {tmp_path / 'x'}" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert waits == [1.0, 2.0, 4.0]
    assert (tmp_path / "x.part").read_bytes() == DATA[:100_000]
    assert not (tmp_path / "x.sha256").exists()


def test_a_server_without_ranges_that_always_cuts_comes_to_an_end(server, tmp_path, waits):
    server.ranges, server.cuts = False, [100_000] * 99
    with pytest.raises(ValueError, match="cut after 100000"):
        fetch(server.url, tmp_path / "x", retries=3, wait=waits)
    assert len(server.requests) == 4


@pytest.mark.parametrize("status", [503, 500, 429, None])
def test_a_passing_error_is_waited_out(server, tmp_path, waits, status):
    server.statuses = [status, status]
    assert fetch(server.url, tmp_path / "x", wait=waits) == SHA256
    assert waits == [1.0, 2.0]


@pytest.mark.parametrize(("status", "reason"), [(404, "HTTP 404 Not Found"), (403, "HTTP 403 Forbidden")])
def test_a_refusal_is_final(server, tmp_path, waits, status, reason):
    server.statuses = [status]
    path = tmp_path / "x"
    with pytest.raises(ValueError, match=reason) as caught:
        fetch(server.url, path, wait=waits)
    assert str(caught.value) == f"{server.url}: {reason}; run again, or download it elsewhere and put it at {path}"
    assert waits == []
    assert names(tmp_path) == []


def test_a_lasting_error_of_the_server_is_named(server, tmp_path, waits):
    server.statuses = [503] * 9
    with pytest.raises(ValueError, match="HTTP 503 Service Unavailable"):
        fetch(server.url, tmp_path / "x", retries=2, wait=waits)
    assert waits == [1.0, 2.0]


@pytest.mark.parametrize("kind", ["md5", "sha256"])
def test_a_wrong_digest_deletes_the_download(server, tmp_path, kind):
    path, wrong = tmp_path / "x", "0" * (32 if kind == "md5" else 64)
    with pytest.raises(
        ValueError, match=rf"{path}: {kind} is .* expected {wrong} \(as given\); .* it is deleted"
    ) as caught:
        fetch(server.url, path, **{kind: wrong})
    assert hashlib.new(kind, DATA).hexdigest() in str(caught.value)
    assert server.url in str(caught.value)
    assert names(tmp_path) == []


def test_other_bytes_than_the_first_time_are_refused_until_the_digest_is_deleted(server, tmp_path):
    path = tmp_path / "x"
    fetch(server.url, path)
    path.unlink()
    server.data, server.etag = DATA[::-1], '"two"'
    other = hashlib.sha256(DATA[::-1]).hexdigest()
    with pytest.raises(ValueError, match=rf"sha256 is {other}, expected {SHA256} \(as in x.sha256, to be deleted if"):
        fetch(server.url, path)
    assert names(tmp_path) == ["x.sha256"]
    (tmp_path / "x.sha256").unlink()
    assert fetch(server.url, path) == other


def test_a_file_that_has_changed_is_refused_and_left(server, tmp_path):
    path = tmp_path / "x"
    fetch(server.url, path)
    path.write_bytes(b"damaged")
    with pytest.raises(ValueError, match=rf"{path}: sha256 is .*; delete it to download {server.url} again"):
        fetch(server.url, path)
    assert path.read_bytes() == b"damaged"
    assert len(server.requests) == 1


def test_a_file_put_there_by_hand_is_checked_and_needs_no_network(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(DATA)
    (tmp_path / "x.part").write_bytes(b"of an earlier try")
    (tmp_path / "x.part.json").write_text("{}")
    url = "http://host.invalid/x"
    with pytest.raises(
        ValueError, match=r"expected 0{32} \(as given\); delete it to download http://host.invalid/x again"
    ):
        fetch(url, path, md5="0" * 32)
    assert fetch(url, path, md5=hashlib.md5(DATA).hexdigest()) == SHA256
    assert names(tmp_path) == ["x", "x.sha256"]


@pytest.mark.parametrize("text", ["", "0" * 64, f"{SHA256}  y\n", f"{SHA256}  x\n{SHA256}  y\n", "é" * 70])
def test_a_digest_file_that_is_none_is_named(server, tmp_path, text):
    (tmp_path / "x.sha256").write_text(text)
    with pytest.raises(ValueError, match=r"x.sha256: holds .*, expected 64 hexadecimal digits, two blanks and x"):
        fetch(server.url, tmp_path / "x")
    assert server.requests == []


@pytest.mark.parametrize("change", ["etag", "modified", "size", "shorter", "elsewhere"])
def test_a_part_is_not_continued_with_another_file(server, tmp_path, waits, change):
    path, modified = tmp_path / "x", "Mon, 01 Jan 2024 00:00:00 GMT"
    server.modified, server.cuts = modified, [100_000]
    with pytest.raises(ValueError, match="cut after"):
        fetch(server.url, path, retries=0)
    if change == "etag":
        server.data, server.etag = DATA[::-1], '"two"'
    elif change == "modified":
        server.data, server.modified = DATA[::-1], "Tue, 02 Jan 2024 00:00:00 GMT"
    elif change == "size":
        server.data = DATA[::-1] + b"longer"
    elif change == "shorter":
        server.data = DATA[:50_000]
    else:  # a server that sends from another place than asked
        server.shift = 1
    assert fetch(server.url, path, wait=waits) == hashlib.sha256(server.data).hexdigest()
    assert path.read_bytes() == server.data
    assert [wanted for _, wanted in server.requests] == [None, "bytes=100000-", None]


def test_another_address_does_not_continue_a_part(server, tmp_path, waits):
    server.cuts = [100_000]
    with pytest.raises(ValueError, match="cut after"):
        fetch(server.url, tmp_path / "x", retries=0)
    assert fetch(server.url + "?new", tmp_path / "x", wait=waits) == SHA256
    assert server.requests[-1][1] is None


def test_a_kill_before_the_last_step_costs_no_second_download(server, tmp_path, monkeypatch):
    path = tmp_path / "x"

    def kill(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(download, "_digest", kill)
        with pytest.raises(KeyboardInterrupt):
            fetch(server.url, path)
    assert names(tmp_path) == ["x.part", "x.part.json"]
    assert fetch(server.url, path) == SHA256
    assert len(server.requests) == 1
    assert names(tmp_path) == ["x", "x.sha256"]


def test_a_full_disk_is_not_taken_for_a_cut(server, tmp_path, waits):
    (tmp_path / "x.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        fetch(server.url, tmp_path / "x", wait=waits)
    assert waits == []


def test_a_length_that_nobody_says_is_refused(server, tmp_path, waits):
    server.length = False
    with pytest.raises(ValueError, match="does not say how long the file is"):
        fetch(server.url, tmp_path / "x", wait=waits)
    assert names(tmp_path) == []


def test_chunks_need_no_length_and_a_cut_among_them_starts_again(server, tmp_path, waits):
    server.chunked, server.cuts = True, [100_000]
    assert fetch(server.url, tmp_path / "x", wait=waits) == SHA256
    assert [wanted for _, wanted in server.requests] == [None, None]
    assert (tmp_path / "x").read_bytes() == DATA


def test_any_error_while_reading_is_a_cut(server, tmp_path, waits, monkeypatch):
    read, errors = HTTPResponse.read1, [OSError(113, "No route to host"), ConnectionResetError(104, "reset")]

    def fail_twice(*arguments):
        if errors:
            raise errors.pop()
        return read(*arguments)

    monkeypatch.setattr(HTTPResponse, "read1", fail_twice)
    assert fetch(server.url, tmp_path / "x", wait=waits) == SHA256
    assert waits == [1.0, 2.0]


def test_no_answer_in_time_is_a_cut(tmp_path, waits):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/x"
        with pytest.raises(ValueError, match="timed out"):
            fetch(url, tmp_path / "x", retries=1, timeout=0.1, wait=waits)
    assert waits == [1.0]


def test_a_refused_connection_is_one_line_at_once(tmp_path, waits):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/x"
    with pytest.raises(
        ValueError, match=rf"^{url}: \[Errno \d+\] Connection refused; run again, or download it elsewhere"
    ):
        fetch(url, tmp_path / "x", wait=waits)
    assert waits == []


def test_no_network_is_one_line_at_once_and_tells_where_to_put_the_file(tmp_path, waits, monkeypatch):
    def resolve(*arguments, **settings):
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    for name in ("http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    url = SOURCES["waterbirds"][0].url
    with pytest.raises(ValueError, match="Temporary failure in name resolution") as caught:
        get_waterbirds(tmp_path / "birds")
    assert str(caught.value).startswith(f"{url}: ")
    assert str(caught.value).endswith(f"put it at {tmp_path / Path(url).name}")
    assert "\n" not in str(caught.value)


def fail_first(monkeypatch, errors: list[Exception | None]) -> None:
    """The first connections end with these errors; None stands for one that is made."""
    urlopen = download.urlopen

    def connect(*arguments, **settings):
        if errors and (error := errors.pop(0)):
            raise URLError(error)
        return urlopen(*arguments, **settings)

    monkeypatch.setattr(download, "urlopen", connect)


def test_a_network_that_goes_away_during_a_download_is_waited_for(server, tmp_path, waits, monkeypatch):
    server.cuts = [100_000]
    fail_first(monkeypatch, [None, socket.gaierror(-3, "Temporary failure in name resolution")])
    assert fetch(server.url, tmp_path / "x", wait=waits) == SHA256
    assert waits == [1.0, 2.0]
    assert sum(server.sent) == len(DATA)


def test_a_reset_while_connecting_is_a_cut(server, tmp_path, waits, monkeypatch):
    fail_first(monkeypatch, [ConnectionResetError(104, "Connection reset by peer")])
    assert fetch(server.url, tmp_path / "x", wait=waits) == SHA256
    assert waits == [1.0]


def test_the_environment_chooses_the_proxy(server, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.server_port}")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    # urllib keeps the proxies of its first call
    monkeypatch.setattr(urllib.request, "_opener", None)
    assert fetch("http://data.invalid/x", tmp_path / "x") == SHA256
    assert server.requests == [("http://data.invalid/x", None)]


# Unpacking ------------------------------------------------------------------------------------------------------------


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", data: bytes = b"") -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.size = kind, link, len(data)
    return member, data


def write_tar(path: Path, *entries: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
        for member, data in entries:
            tar.addfile(member, io.BytesIO(data))
    return path


def write_zip(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as whole:
        for name, data in members.items():
            whole.writestr(name, data)
    return path


BIRDS = [
    entry("birds", tarfile.DIRTYPE),
    entry("birds/metadata.csv", data=b"img_id\n1\n"),
    entry("birds/a/1.jpg", data=os.urandom(5000)),
    entry("birds/a/2.jpg", data=os.urandom(5000)),
]


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
@pytest.mark.parametrize("name", ["birds", "other"])
def test_a_top_folder_becomes_the_folder(tmp_path, suffix, name):
    archive, folder = write_tar(tmp_path / f"x{suffix}", *BIRDS), tmp_path / "data" / name
    unpack(archive, folder)
    assert names(folder.parent) == [name]
    assert names(folder) == ["a", "metadata.csv"]
    assert (folder / "a" / "2.jpg").read_bytes() == BIRDS[3][1]


def test_other_content_lies_in_the_folder(tmp_path):
    unpack(write_tar(tmp_path / "y.tar", *BIRDS, entry("readme", data=b"?")), tmp_path / "birds")
    unpack(write_zip(tmp_path / "z.zip", **{"zipped/a/1.txt": b"1", "zipped/b.txt": b"2"}), tmp_path / "zipped")
    assert names(tmp_path / "birds") == ["birds", "readme"]
    assert names(tmp_path / "zipped") == ["a", "b.txt"]
    unpack(write_tar(tmp_path / "w.tar", entry("same", data=b"a file")), tmp_path / "same")
    assert names(tmp_path / "same") == ["same"]
    unpack(write_tar(tmp_path / "v.tar", entry("here", tarfile.SYMTYPE, ".")), tmp_path / "linked")
    assert names(tmp_path / "linked") == ["here"]


def test_rights_are_those_of_new_folders_and_of_no_program(tmp_path):
    member, data = entry("run", data=b"#!/bin/sh")
    member.mode = 0o4777
    unpack(write_tar(tmp_path / "x.tar", (member, data)), tmp_path / "x")
    (tmp_path / "plain").mkdir()
    assert (tmp_path / "x").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert (tmp_path / "x" / "run").stat().st_mode & 0o7777 == 0o755


def test_links_that_lead_further_down_are_unpacked(tmp_path):
    archive = write_tar(
        tmp_path / "x.tar",
        entry("a/1.txt", data=b"one"),
        entry("latest", tarfile.SYMTYPE, "a/1.txt"),
        entry("b/2.txt", tarfile.LNKTYPE, "a/1.txt"),
    )
    unpack(archive, tmp_path / "x")
    assert (tmp_path / "x" / "latest").read_bytes() == (tmp_path / "x" / "b" / "2.txt").read_bytes() == b"one"


HOSTILE = {
    "absolute": [entry("/tmp/evil", data=b"evil")],
    "parent": [entry("../evil", data=b"evil")],
    "parent within": [entry("good/../../evil", data=b"evil")],
    "windows": [entry("..\\evil", data=b"evil")],
    "drive": [entry("C:/evil", data=b"evil")],
    "symlink out": [entry("evil", tarfile.SYMTYPE, "../outside")],
    "absolute symlink": [entry("evil", tarfile.SYMTYPE, "/etc/passwd")],
    "symlink by steps": [
        entry("down", tarfile.SYMTYPE, "."),
        entry("evil", tarfile.SYMTYPE, "down/down/../.."),
        entry("evil/file", data=b"evil"),
    ],
    "hard link out": [entry("evil", tarfile.LNKTYPE, "../outside")],
    "absolute hard link": [entry("evil", tarfile.LNKTYPE, "/etc/passwd")],
    "device": [entry("evil", tarfile.CHRTYPE)],
    "pipe": [entry("evil", tarfile.FIFOTYPE)],
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_member_is_named_and_nothing_is_left(tmp_path, kind):
    (tmp_path / "outside").write_text("untouched")
    archive = write_tar(tmp_path / "x.tar.gz", entry("good/file", data=b"good"), *HOSTILE[kind])
    with pytest.raises(ValueError, match=r"x.tar.gz: member '.*evil.*' (would leave the folder|is a device)"):
        unpack(archive, tmp_path / "x")
    assert names(tmp_path) == ["outside", "x.tar.gz"]
    assert (tmp_path / "outside").read_text() == "untouched"
    assert not (tmp_path.parent / "evil").exists()


@pytest.mark.parametrize("name", ["/tmp/evil", "../evil", "a/../../evil", "..\\evil", "C:\\evil"])
def test_a_hostile_zip_is_refused(tmp_path, name):
    archive = write_zip(tmp_path / "x.zip", good=b"good", **{name: b"evil"})
    with pytest.raises(ValueError, match=r"x.zip: member '.*evil' would leave the folder"):
        unpack(archive, tmp_path / "x")
    assert names(tmp_path) == ["x.zip"]


def test_a_link_in_a_zip_is_refused(tmp_path):
    member = zipfile.ZipInfo("evil")
    member.create_system, member.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as whole:
        whole.writestr(member, "/etc/passwd")
    with pytest.raises(ValueError, match=r"x.zip: member 'evil' is a device, a pipe or a link"):
        unpack(tmp_path / "x.zip", tmp_path / "x")


def cut_tar() -> dict[str, int]:
    """Lengths of a plain tar of BIRDS that end within a member's data, within a header and between two members."""
    return {"data": 5 * 512 + 100, "header": 512 + 2 * 512 + 100, "between": 512 + 2 * 512}


@pytest.mark.parametrize("place", cut_tar())
def test_a_cut_tar_is_named(tmp_path, place):
    archive = write_tar(tmp_path / "x.tar", *BIRDS)
    archive.write_bytes(archive.read_bytes()[: cut_tar()[place]])
    with pytest.raises(ValueError, match=r"x.tar: damaged, cut, or no archive"):
        unpack(archive, tmp_path / "x")
    assert names(tmp_path) == ["x.tar"]


@pytest.mark.parametrize("kept", [0, 5, 3000, -9000, -1])
@pytest.mark.parametrize("suffix", [".tar.gz", ".zip"])
def test_a_cut_compressed_archive_is_named(tmp_path, suffix, kept):
    archive = tmp_path / f"x{suffix}"
    if suffix == ".zip":
        write_zip(archive, **{member.name: data for member, data in BIRDS})
    else:
        write_tar(archive, *BIRDS)
    archive.write_bytes(archive.read_bytes()[:kept])
    with pytest.raises(ValueError, match=rf"x{suffix}: damaged, cut, or no archive") as caught:
        unpack(archive, tmp_path / "x")
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == [f"x{suffix}"]


def test_damaged_archives_are_named(tmp_path):
    archive = write_tar(tmp_path / "header.tar", *BIRDS)
    content = bytearray(archive.read_bytes())
    content[512 + 2 * 512 + 150] ^= 1  # the checksum of the third header
    archive.write_bytes(content)
    packed = bytearray(gzip.compress(write_tar(tmp_path / "y.tar", *BIRDS).read_bytes(), 0))
    packed[4000] ^= 1  # a byte of a file: only gzip's checksum sees it
    (tmp_path / "checksum.tar.gz").write_bytes(packed)
    (tmp_path / "page.tar.gz").write_text("<html>login</html>")
    write_tar(tmp_path / "link.tar", entry("a", tarfile.LNKTYPE, "absent"))
    for name in ("header.tar", "checksum.tar.gz", "page.tar.gz", "link.tar"):
        with pytest.raises(ValueError, match=f"{name}: damaged, cut, or no archive"):
            unpack(tmp_path / name, tmp_path / "x")
        assert not (tmp_path / "x").exists()


def test_an_existing_folder_is_left_alone(tmp_path):
    (tmp_path / "birds").mkdir()
    (tmp_path / "birds" / "mine").write_text("mine")
    with pytest.raises(ValueError, match=r"birds: exists already and is left alone"):
        unpack(write_tar(tmp_path / "x.tar", *BIRDS), tmp_path / "birds")
    assert names(tmp_path / "birds") == ["mine"]
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(ValueError, match=r"link: exists already"):
        unpack(tmp_path / "x.tar", tmp_path / "link")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link to empty").symlink_to("empty")
    with pytest.raises(ValueError, match=r"link to empty: exists already"):
        unpack(tmp_path / "x.tar", tmp_path / "link to empty")
    unpack(tmp_path / "x.tar", tmp_path / "empty")
    assert names(tmp_path / "empty") == ["a", "metadata.csv"]


def test_what_a_killed_run_left_is_cleaned_up(tmp_path):
    left = tmp_path / ".birds.unpacking" / "birds"
    left.mkdir(parents=True)
    (left / "half.jpg").write_text("half")
    unpack(write_tar(tmp_path / "x.tar", *BIRDS), tmp_path / "birds")
    assert names(tmp_path) == ["birds", "x.tar"]
    assert names(tmp_path / "birds") == ["a", "metadata.csv"]


# Sources --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def birds(server, tmp_path, monkeypatch):
    """A folder to be, and Waterbirds on the loopback."""
    server.data = write_tar(tmp_path / "served.tar.gz", *BIRDS).read_bytes()
    monkeypatch.setitem(SOURCES, "waterbirds", (replace(SOURCES["waterbirds"][0], url=server.url),))
    return tmp_path / "data" / "birds"


ARCHIVE = "waterbird_complete95_forest2water2.tar.gz"


def test_waterbirds_are_downloaded_once(server, birds):
    get_waterbirds(birds)
    assert names(birds) == ["a", "metadata.csv"]
    assert names(birds.parent) == [".hsfm-download.lock", "birds", ARCHIVE, f"{ARCHIVE}.sha256"]
    get_waterbirds(birds)
    (birds.parent / ARCHIVE).unlink()  # to save space: the data and the digest are enough
    get_waterbirds(birds)
    assert len(server.requests) == 1


def test_a_folder_deleted_later_is_unpacked_from_the_kept_archive(server, birds):
    get_waterbirds(birds)
    birds.rename(birds.with_name("away"))
    birds.mkdir()  # as Snakemake does for a job's outputs
    get_waterbirds(birds)
    assert names(birds) == ["a", "metadata.csv"]
    assert len(server.requests) == 1


def test_a_kept_archive_is_checked_ever_after(server, birds):
    get_waterbirds(birds)
    with open(birds.parent / ARCHIVE, "ab") as file:
        file.write(b"more")
    with pytest.raises(ValueError, match=rf"{ARCHIVE}: sha256 is"):
        get_waterbirds(birds)
    assert (birds / "metadata.csv").exists()


def test_data_that_came_otherwise_are_taken_as_they_are(server, birds):
    birds.mkdir(parents=True)
    (birds / "metadata.csv").write_text("img_id\n")
    get_waterbirds(birds)
    (birds.parent / ARCHIVE).write_bytes(b"of which hsfm knows nothing")
    get_waterbirds(birds)
    assert server.requests == []
    assert names(birds.parent) == [".hsfm-download.lock", "birds", ARCHIVE]


def test_a_folder_that_lacks_its_table_is_named_before_any_download(server, birds):
    birds.mkdir(parents=True)
    (birds / "mine").write_text("mine")
    with pytest.raises(ValueError, match=rf"{birds}: holds no metadata.csv; move this folder away to have .*{ARCHIVE}"):
        get_waterbirds(birds)
    assert server.requests == []
    assert names(birds) == ["mine"]


def test_a_file_system_without_locks_will_do(birds, monkeypatch):
    def fail(*arguments):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(download.fcntl, "flock", fail)
    get_waterbirds(birds)
    assert names(birds) == ["a", "metadata.csv"]


def test_a_second_process_waits_for_the_first(server, birds):
    threads = [threading.Thread(target=get_waterbirds, args=(birds,), daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(server.requests) == 1
    assert names(birds) == ["a", "metadata.csv"]


def test_dominoes_are_laid_out_as_torchvision_reads_them(server, tmp_path, monkeypatch):
    from torchvision.datasets import MNIST

    content = {}
    for split, n in (("train", 3), ("t10k", 2)):
        content[f"{split}-images-idx3-ubyte"] = struct.pack(">iiii", 2051, n, 28, 28) + bytes(n * 784)
        content[f"{split}-labels-idx1-ubyte"] = struct.pack(">ii", 2049, n) + bytes(n)
    batches = write_tar(
        tmp_path / "cifar.tar.gz", *(entry(f"cifar-10-batches-py/{name}") for name in SOURCES["dominoes"][-1].files)
    )
    served, archives = {}, []
    for archive in SOURCES["dominoes"]:
        name = Path(archive.target).name
        data = gzip.compress(content[name]) if name in content else batches.read_bytes()
        served[f"/{archive.path}"] = data
        url = server.url.replace("file.tar.gz", archive.path)
        archives.append(replace(archive, url=url, md5=hashlib.md5(data).hexdigest()))
    server.data = served
    monkeypatch.setitem(SOURCES, "dominoes", tuple(archives))
    folder = tmp_path / "data"
    get_dominoes(folder)
    assert len(MNIST(folder, train=True)) == 3
    assert len(MNIST(folder, train=False)) == 2
    assert names(folder / "cifar-10-batches-py") == sorted(SOURCES["dominoes"][-1].files)
    (folder / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").unlink()  # as Snakemake does with outputs of a failed job
    get_dominoes(folder)
    assert len(MNIST(folder, train=False)) == 2
    assert len(server.requests) == 5


def test_the_script_of_the_rule(server, birds, monkeypatch):
    said = []
    monkeypatch.setattr(job, "start", lambda log: None)
    monkeypatch.setattr(job, "finish", lambda *words: said.append(words))
    params = SimpleNamespace(source="waterbirds", folder=str(birds))
    script = Path(__file__).parents[2] / "workflow" / "scripts" / "download_data.py"
    runpy.run_path(str(script), {"snakemake": SimpleNamespace(log=["log"], params=params)})
    assert names(birds) == ["a", "metadata.csv"]
    assert said == [("Download", f"{birds} is complete")]


def test_the_sources_are_those_of_torchvision():
    from torchvision.datasets import CIFAR10, MNIST

    *digits, cifar = SOURCES["dominoes"]
    assert [(archive.url, archive.md5) for archive in digits] == [
        (MNIST.mirrors[0] + name, md5) for name, md5 in MNIST.resources
    ]
    assert [archive.path for archive in digits] == [f"MNIST/raw/{name}" for name, _ in MNIST.resources]
    assert (cifar.url, cifar.path, cifar.md5) == (CIFAR10.url, CIFAR10.filename, CIFAR10.tgz_md5)
    assert cifar.target == CIFAR10.base_folder
    assert list(cifar.files) == [name for name, _ in CIFAR10.train_list + CIFAR10.test_list] + [
        CIFAR10.meta["filename"]
    ]
