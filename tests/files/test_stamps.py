from __future__ import annotations

from lib_lora.files.stamps import stamp_of


def test_a_stamp_has_size_and_time_and_none_means_that_there_is_no_file(tmp_path):
    path = tmp_path / "a.txt"
    assert stamp_of(path) is None
    path.write_bytes(b"abc")
    first = stamp_of(str(path))
    assert first == (3, path.stat().st_mtime_ns)
    path.write_bytes(b"abcd")
    assert stamp_of(path) != first
