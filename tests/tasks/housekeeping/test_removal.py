"""What is counted is what `du` loses."""

import os
import subprocess

import pytest

from tasks.housekeeping.removal import Remover, disk_usage


def du(path):
    done = subprocess.run(["du", "-s", "-B1", str(path)], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[0])


@pytest.fixture
def tree(tmp_path):
    folder = tmp_path / "tree" / "deep"
    folder.mkdir(parents=True)
    (folder / "a").write_bytes(b"x" * 10_000)
    os.link(folder / "a", folder / "b")  # both go: counted once
    (tmp_path / "elsewhere").write_bytes(b"y" * 10_000)
    os.link(tmp_path / "elsewhere", folder / "c")  # one stays: frees nothing
    with (folder / "sparse").open("wb") as file:
        file.truncate(10**9)
        file.write(b"z" * 9000)
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    return tmp_path / "tree"


def test_usage_is_that_of_du(tree):
    assert disk_usage(tree.parent) == du(tree.parent)


@pytest.mark.parametrize("dry_run", [True, False])
def test_the_bytes_are_what_the_disk_gets_back(tree, dry_run):
    before = du(tree.parent)
    freed = Remover(dry_run=dry_run).remove(tree)
    assert tree.exists() is dry_run
    if dry_run:
        assert freed == Remover(dry_run=False).remove(tree)
    assert before - du(tree.parent) == freed
    assert (tree.parent / "elsewhere").read_bytes() == b"y" * 10_000


def test_what_is_gone_frees_nothing(tmp_path):
    assert Remover(dry_run=False).remove(tmp_path / "none") == 0


def test_what_cannot_be_removed_is_named_and_the_rest_goes(as_nobody):
    folder, call = as_nobody
    locked = folder / "tree" / "locked"
    locked.mkdir(parents=True)
    (locked / "a").write_text("a")
    (folder / "tree" / "b").write_text("b")
    locked.chmod(0o555)
    (folder / "tree").chmod(0o777)
    remover = Remover(dry_run=False)
    call(remover.remove, folder / "tree")
    assert (locked / "a").exists()
    assert not (folder / "tree" / "b").exists()
    assert any("cannot remove" in fault and "locked/a: Permission denied" in fault for fault in remover.faults)
