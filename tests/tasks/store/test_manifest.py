import gzip
import json

import pytest

from tasks.base.errors import StorageError
from tasks.store.manifest import File, Name, Span, decode, digest_of, encode, merged

DIGEST = "ab" * 32


def file(clock: int, writer: str = "w", digest: str = DIGEST) -> File:
    return File(clock, writer, digest, 3, spans=(Span(DIGEST, 0, 3),)) if digest else File(clock, writer)


def test_a_manifest_comes_back_as_it_was_and_the_same_files_give_the_same_bytes():
    files = {"b/ü\udc80": file(2), "a": file(1), "gone": file(3, digest="")}
    data = encode(files)
    assert decode(data, "x") == files
    assert data == encode(dict(reversed(files.items())))


def test_the_latest_word_on_a_file_counts_whoever_says_it_first():
    one, two = {"a": file(1), "b": file(5, "x")}, {"a": file(2, digest=""), "b": file(5, "w")}
    assert merged([one, two]) == merged([two, one]) == {"a": two["a"], "b": one["b"]}


def test_the_digest_of_a_folder_is_that_of_its_paths_and_content():
    same = {"a": File(9, "z", DIGEST, 3, spans=(Span("cd" * 32, 7, 3),))}
    assert digest_of(same) == digest_of({"a": file(1), "gone": file(2, digest="")})
    assert digest_of(same) != digest_of({"b": file(1)})


def rows(**files: object) -> bytes:
    return gzip.compress(json.dumps({"form": 1, "files": files}).encode())


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"no gzip", "Not a gzipped file"),
        (gzip.compress(b"[]"), "cannot read the manifest"),
        (gzip.compress(b'{"form": 2, "files": {}}'), "form 2, need 1"),
        (rows(**{"../up": [1, "w", "", 0, False, False, []]}), "need one below its folder"),
        (rows(**{"/etc/passwd": [1, "w", "", 0, False, False, []]}), "need one below its folder"),
        (rows(**{"a//b": [1, "w", "", 0, False, False, []]}), "need one below its folder"),
        (rows(a=[1, "w", "xyz", 0, False, False, []]), "found the digest 'xyz'"),
        (rows(a=[1, "w", DIGEST, 3, False, False, [["../x", 0, 3]]]), "found the span"),
        (rows(a=[1, "w", DIGEST, 3, False, False, [[DIGEST, 0, 2]]]), "spans of other than 3 bytes"),
    ],
    ids=["no gzip", "no form", "newer", "up", "absolute", "twice a slash", "digest", "span", "size"],
)
def test_a_damaged_manifest_is_refused(data, said):
    with pytest.raises(StorageError, match=said):
        decode(data, "x")


def test_names_say_whose_how_late_and_what():
    name = Name("aa-bb", 12, DIGEST)
    assert Name.parse(str(name)) == name
    assert Name.parse("notes.txt") is None
