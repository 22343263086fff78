"""Downloads against real servers on this machine: cut off, changed, wrong, busy, full disk."""

from __future__ import annotations

import hashlib
import logging
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from evolution.roots.download import DownloadError, Patience, download
from tests.evolution.roots.serving import CONTENT, Served, serving

OTHER = np.random.default_rng(1).bytes(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
QUICK = Patience(timeout_s=60.0, attempts=3, first_wait_s=0.01)


def leftovers(folder: Path) -> list[str]:
    """Files next to the downloaded ones and their locks."""
    return [f.name for f in folder.iterdir() if f.suffix in (".part", ".json")]


def test_a_file_is_fetched_once_and_its_digest_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with serving(Served()) as served:
        path = download(served.url, tmp_path / "new" / "cache")
        assert path.read_bytes() == CONTENT
        assert path.name.endswith("-L_16_i21k.npz")
        assert f"sha256={SHA256}" in caplog.text
        assert download(served.url, tmp_path / "new" / "cache", SHA256.upper()) == path
        assert served.asked == [None]
    assert not leftovers(path.parent)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_lost_connection_is_resumed_where_it_broke(tmp_path: Path, chunked: bool) -> None:
    with serving(Served(cuts=[1_000_000, 500_000], chunked=chunked)) as served:
        path = download(served.url, tmp_path, SHA256, QUICK)
    assert path.read_bytes() == CONTENT
    assert served.asked == [None, "bytes=1000000-", "bytes=1500000-"]


def test_a_later_call_resumes_what_an_earlier_one_gave_up(tmp_path: Path) -> None:
    with serving(Served(cuts=[1_000_000])) as served:
        served.cuts += [0] * QUICK.attempts
        with pytest.raises(DownloadError, match=r"in a row brought nothing.*1000000 bytes are k"):
            download(served.url, tmp_path, SHA256, QUICK)
        assert download(served.url, tmp_path, SHA256, QUICK).read_bytes() == CONTENT
    assert served.asked == [None, *["bytes=1000000-"] * (QUICK.attempts + 1)]
    assert not leftovers(tmp_path)


def test_attempts_that_bring_something_do_not_wear_patience_out(tmp_path: Path) -> None:
    with serving(Served(cuts=[100_000] * 10)) as served:
        assert download(served.url, tmp_path, SHA256, QUICK).read_bytes() == CONTENT
    assert len(served.asked) == 11


def test_a_server_that_ignores_ranges_sends_it_all_again(tmp_path: Path) -> None:
    with serving(Served(cuts=[1_000_000], ranges=False)) as served:
        assert download(served.url, tmp_path, SHA256, QUICK).read_bytes() == CONTENT
    assert served.asked == [None, "bytes=1000000-"]


@pytest.mark.parametrize("etag", [None, 'W/"1"'])
def test_without_a_strong_version_nothing_is_resumed(tmp_path: Path, etag: str | None) -> None:
    with serving(Served(cuts=[1_000_000], etag=etag)) as served:
        assert download(served.url, tmp_path, SHA256, QUICK).read_bytes() == CONTENT
    assert served.asked == [None, None]


def test_without_ranges_or_version_a_cut_file_is_given_up(tmp_path: Path) -> None:
    """Each attempt starts at the beginning; one that gets less far than another is no progress."""
    cuts = [500_000, 400_000, 450_000, 430_000, 10]
    given_up = pytest.raises(DownloadError, match="attempts in a row brought nothing")
    with serving(Served(cuts=cuts, etag=None)) as served, given_up:
        download(served.url, tmp_path, SHA256, QUICK)
    assert len(served.asked) == 1 + QUICK.attempts


def test_a_file_that_changed_meanwhile_is_fetched_whole(tmp_path: Path) -> None:
    with serving(Served(cuts=[1_000_000, 0, 0, 0])) as served:
        with pytest.raises(DownloadError):
            download(served.url, tmp_path, None, QUICK)
        served.content, served.etag = OTHER, '"2"'
        assert download(served.url, tmp_path, None, QUICK).read_bytes() == OTHER


def test_a_server_that_sends_other_bytes_than_asked_for_is_not_believed(tmp_path: Path) -> None:
    with serving(Served(cuts=[1_000_000], shift=7)) as served:
        assert download(served.url, tmp_path, SHA256, QUICK).read_bytes() == CONTENT
    assert served.asked == [None, "bytes=1000000-", None]


def test_a_part_longer_than_the_file_is_thrown_away(tmp_path: Path) -> None:
    with serving(Served(cuts=[1_000_000, 0, 0, 0])) as served:
        with pytest.raises(DownloadError):
            download(served.url, tmp_path, None, QUICK)
        served.content = CONTENT[:1000]  # another file under the same version
        assert download(served.url, tmp_path, None, QUICK).read_bytes() == CONTENT[:1000]


def test_a_whole_part_is_not_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with serving(Served()) as served:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr("os.replace", killed)
            download(served.url, tmp_path, SHA256, QUICK)
        assert download(served.url, tmp_path, SHA256, QUICK).read_bytes() == CONTENT
    assert served.asked == [None, f"bytes={len(CONTENT)}-"]
    assert not leftovers(tmp_path)


def test_a_connection_that_falls_silent_is_lost(tmp_path: Path) -> None:
    patience = Patience(timeout_s=2.0, attempts=3, first_wait_s=0.01)
    with serving(Served(stalls=1)) as served:
        assert download(served.url, tmp_path, SHA256, patience).read_bytes() == CONTENT
        served.over.set()
    assert served.asked == [None, "bytes=1500000-"]


def test_a_busy_server_is_asked_again_and_a_refusal_is_final(tmp_path: Path) -> None:
    with serving(Served(statuses=[503, 429])) as served:
        assert download(served.url, tmp_path, SHA256, QUICK).read_bytes() == CONTENT
    with serving(Served(statuses=[404])) as served:
        with pytest.raises(DownloadError, match="expected 200 OK, found 404 Not Found"):
            download(served.url, tmp_path, SHA256, QUICK)
        assert len(served.asked) == 1


def test_a_wrong_checksum_removes_the_file_and_tells_both(tmp_path: Path) -> None:
    with serving(Served(content=OTHER)) as served:
        found = hashlib.sha256(OTHER).hexdigest()
        for _ in range(2):
            with pytest.raises(DownloadError, match=f"expected sha256 {SHA256}, found {found}"):
                download(served.url, tmp_path, SHA256, QUICK)
    assert served.asked == [None, None]
    assert not [f for f in tmp_path.iterdir() if f.suffix != ".lock"]


def test_a_damaged_cached_file_is_not_used(tmp_path: Path) -> None:
    with serving(Served()) as served:
        path = download(served.url, tmp_path, SHA256, QUICK)
        path.write_bytes(CONTENT[:-1])
        with pytest.raises(DownloadError, match="file removed: try again"):
            download(served.url, tmp_path, SHA256, QUICK)
        assert download(served.url, tmp_path, SHA256, QUICK).read_bytes() == CONTENT


def test_urls_of_one_name_do_not_share_a_file(tmp_path: Path) -> None:
    with serving(Served()) as one, serving(Served(content=OTHER)) as two:
        assert download(one.url, tmp_path).read_bytes() == CONTENT
        assert download(two.url, tmp_path).read_bytes() == OTHER


def test_of_several_that_want_a_file_one_downloads(tmp_path: Path) -> None:
    with serving(Served(cuts=[1_000_000])) as served, ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: download(served.url, tmp_path, SHA256, QUICK), range(4)))
    assert len(set(found)) == 1 and found[0].read_bytes() == CONTENT
    assert len(served.asked) == 2


def test_no_server_ends_with_what_was_tried(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: refused
        with pytest.raises(DownloadError, match=r"no answer .*refused.*3 attempts"):
            download(f"http://127.0.0.1:{taken.getsockname()[1]}/x", tmp_path, None, QUICK)


@pytest.mark.parametrize("url", ["gs://vit_models/augreg/x.npz", "file:///etc/passwd", "x.npz"])
def test_only_http_is_spoken(tmp_path: Path, url: str) -> None:
    with pytest.raises(DownloadError, match="expected an http or https URL"):
        download(url, tmp_path)


def test_a_url_with_control_characters_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="expected a URL"):
        download("http://127.0.0.1/a b\n", tmp_path)


def test_a_disk_error_passes_through_and_what_came_is_resumed(tmp_path: Path) -> None:
    """A file size limit stands for the full disk: both end a write with an OSError."""
    code = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from evolution.roots.download import download\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))\n"
        "try: download(sys.argv[1], Path(sys.argv[2]))\n"
        "except OSError as error: sys.exit(error.errno)\n"
    )
    with serving(Served()) as served:
        command = [sys.executable, "-c", code, served.url, str(tmp_path)]
        done = subprocess.run(command, cwd=Path(__file__).parents[3], check=False, timeout=60)
        assert done.returncode == 27  # EFBIG
        assert download(served.url, tmp_path, SHA256, QUICK).read_bytes() == CONTENT
    assert served.asked == [None, "bytes=1000000-"]
