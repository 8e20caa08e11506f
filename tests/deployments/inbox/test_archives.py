"""What an archive holds comes out as it went in, or the archive is refused with the reason, and nothing is left."""

import io
import stat
import tarfile
import tracemalloc
import zipfile

import pytest

from deployments.inbox.archives import Limits, unpack
from tasks.base.errors import DatasetError, StorageError

FILES = {"room/a.png": b"first", "room/sub/b.png": b"second" * 1000}
TAR = [(".tar", "w"), (".tar.gz", "w:gz"), (".tgz", "w:gz"), (".tar.bz2", "w:bz2"), (".tar.xz", "w:xz")]


def info(name, kind=tarfile.REGTYPE, size=0, link=""):
    made = tarfile.TarInfo(name)
    made.type, made.size, made.linkname = kind, size, link
    return made


def tar(path, *members, mode="w"):
    with tarfile.open(path, mode) as archive:
        for member in members:
            made, data = member if isinstance(member, tuple) else (member, b"")
            made.size = len(data)
            archive.addfile(made, io.BytesIO(data))
    return path


def zipped(path, *members, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return path


def refused(archive, target, limits=None, kind=DatasetError):
    with pytest.raises(kind) as caught:
        unpack(archive, target, limits)
    assert not target.exists()
    assert list(target.parent.glob("*.tmp")) == []
    return str(caught.value)


@pytest.mark.parametrize(("suffix", "mode"), TAR)
def test_a_tar_comes_out_as_it_went_in(tmp_path, suffix, mode):
    archive = tar(tmp_path / f"room{suffix}", *((info(name), data) for name, data in FILES.items()), mode=mode)
    unpack(archive, tmp_path / "out")
    assert {str(p.relative_to(tmp_path / "out")): p.read_bytes() for p in (tmp_path / "out").rglob("*.png")} == FILES


def test_a_zip_comes_out_as_it_went_in(tmp_path):
    unpack(zipped(tmp_path / "room.ZIP", ("room/", b""), *FILES.items()), tmp_path / "out")
    assert {str(p.relative_to(tmp_path / "out")): p.read_bytes() for p in (tmp_path / "out").rglob("*.png")} == FILES


def test_links_within_the_archive_stay(tmp_path):
    members = [
        (info("room/a.png"), b"first"),
        info("room/b.png", tarfile.LNKTYPE, link="room/a.png"),
        info("c.png", tarfile.SYMTYPE, link="room/a.png"),
    ]
    unpack(tar(tmp_path / "a.tar", *members), tmp_path / "out")
    assert (tmp_path / "out" / "room" / "b.png").read_bytes() == (tmp_path / "out" / "c.png").read_bytes() == b"first"


ESCAPES = {
    "leads out of the archive": ["../evil", "/etc/evil", "room/../../evil"],
    "control characters or backslashes": ["..\\evil", "a\nb", "a\x1b[2J"],
    "nested deeper than 32": ["/".join("a" * 40)],
    "name that is too long": ["a" * 300, "/".join(["b" * 200] * 6)],
}


@pytest.mark.parametrize(("fault", "name"), [(fault, name) for fault, names in ESCAPES.items() for name in names])
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_a_name_that_leads_out_is_refused(tmp_path, kind, fault, name):
    if kind == "zip":
        entry = zipfile.ZipInfo("x")
        entry.filename = name
        archive = zipped(tmp_path / "a.zip", ("ok.png", b"data"), (entry, b"data"))
    else:
        archive = tar(tmp_path / "a.tar", (info("ok.png"), b"data"), (info(name), b"data"))
    said = refused(archive, tmp_path / "out")
    assert said.startswith(f"{archive.name} holds ")
    assert fault in said
    assert not (tmp_path / "evil").exists()
    assert not (tmp_path.parent / "evil").exists()


@pytest.mark.parametrize(
    ("members", "fault"),
    [
        ([info("a", tarfile.SYMTYPE, link="/etc/passwd")], "leads out"),
        ([info("a", tarfile.SYMTYPE, link="../../../../etc/passwd")], "leads out|leads nowhere"),
        ([info("a", tarfile.SYMTYPE, link="gone")], "leads nowhere"),
        ([info("a", tarfile.SYMTYPE, link="b"), info("b", tarfile.SYMTYPE, link="a")], "leads nowhere"),
        ([info("a", tarfile.SYMTYPE, link=".."), (info("a/evil"), b"data")], "two entries of one name|leads"),
        ([info("a", tarfile.LNKTYPE, link="/etc/passwd")], "leads out"),
        ([info("a", tarfile.LNKTYPE, link="../../evil")], "leads out"),
        ([info("a", tarfile.LNKTYPE, link="later")], "no file before it"),
        ([info("dev", tarfile.CHRTYPE)], "a device, a pipe"),
        ([info("pipe", tarfile.FIFOTYPE)], "a device, a pipe"),
        ([(info("a/B.png"), b"1"), (info("a/b.png"), b"2")], "differ by case alone: 'a/B.png' and 'a/b.png'"),
        ([(info("A/x"), b"1"), (info("a/y"), b"2")], "differ by case alone"),
        ([(info("e\u0301"), b"1"), (info("\u00e9"), b"2")], "differ by case alone"),
        ([(info("a"), b"1"), (info("a"), b"2")], "two entries of one name"),
        ([(info("a"), b"1"), (info("a/b"), b"2")], "two entries of one name"),
        ([(info("a/b"), b"1"), (info("a"), b"2")], "two entries of one name"),
    ],
)
def test_what_could_do_harm_is_refused(tmp_path, members, fault):
    archive = tar(tmp_path / "a.tar", (info("ok.png"), b"data"), *members)
    with pytest.raises(DatasetError, match=fault):
        unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_link_in_a_zip_is_held_against_the_folder_too(tmp_path):
    entry = zipfile.ZipInfo("a")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    assert "leads out" in refused(zipped(tmp_path / "a.zip", ("x", b"1"), (entry, "/etc/passwd")), tmp_path / "out")


def test_bombs_are_refused_before_they_fill_the_disk(tmp_path):
    small = Limits(ratio=100, free_bytes=1 << 20)
    for archive in (
        zipped(tmp_path / "a.zip", ("zeros", bytes(32 << 20))),
        tar(tmp_path / "a.tar.gz", (info("zeros"), bytes(32 << 20)), mode="w:gz"),
    ):
        assert "unpacks to more than 100 times its" in refused(archive, tmp_path / "out", small)
    many = zipped(tmp_path / "many.zip", *((f"{i}", b"x") for i in range(20)))
    assert "more than 10 files" in refused(many, tmp_path / "out", Limits(n_entries=10))
    many = tar(tmp_path / "many.tar", *((info(f"{i}"), b"x") for i in range(20)))
    assert "more than 10 files" in refused(many, tmp_path / "out", Limits(n_entries=10))
    assert "more than 10 bytes" in refused(many, tmp_path / "out", Limits(n_bytes=10))


def test_a_header_that_says_it_is_huge_takes_no_memory(tmp_path):
    made = info("pax", tarfile.XHDTYPE)
    archive = tmp_path / "a.tar.gz"
    with tarfile.open(archive, "w:gz") as out:
        made.size = 200 << 20
        out.addfile(made, io.BytesIO(bytes(200 << 20)))
    tracemalloc.start()
    said = refused(archive, tmp_path / "out")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "header of" in said
    assert peak < 64 << 20


def test_no_room_is_no_fault_of_the_archive(tmp_path):
    archive = zipped(tmp_path / "a.zip", ("x", b"1"))
    assert "disk full" in refused(archive, tmp_path / "out", Limits(left_bytes=1 << 60), StorageError)


def test_damage_is_named(tmp_path):
    for n, (suffix, mode) in enumerate([*TAR, (".zip", "")]):
        path = tmp_path / f"{n}{suffix}"
        whole = (
            zipped(path, *FILES.items())
            if not mode
            else tar(path, *((info(k), v) for k, v in FILES.items()), mode=mode)
        )
        data = whole.read_bytes()
        for cut in (len(data) // 2, 10, 0):
            whole.write_bytes(data[:cut])
            assert f"{whole.name} is" in refused(whole, tmp_path / "out")
        whole.write_bytes(b"no archive at all" * 100)
        assert f"{whole.name} is damaged" in refused(whole, tmp_path / "out")
    (tmp_path / "a.tar.zst").write_bytes(b"x")
    assert "zstd, which this Python cannot read" in refused(tmp_path / "a.tar.zst", tmp_path / "out")


def test_an_encrypted_one_is_refused(tmp_path):
    archive = zipped(tmp_path / "a.zip", ("x", b"1"))
    data = bytearray(archive.read_bytes())
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(data)
    assert "is encrypted: 'x'" in refused(archive, tmp_path / "out")
