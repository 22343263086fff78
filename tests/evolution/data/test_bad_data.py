"""Each kind of bad data ends in a message that says what to do, and leaves nothing behind."""

import errno
import io
import os
import tarfile
import zipfile

import pytest
from typer.testing import CliRunner

from evolution.data import adding, staging
from evolution.data.command import app
from evolution.data.errors import DataError
from evolution.data.places import FolderPlace
from evolution.data.rows import read_picture
from evolution.data.stored import cards, classes_of
from tests.evolution.data.drawn import class_folders, encoded, picture


def refused(added, place, source, **how) -> str:
    """The message with which a set is refused, of which nothing is left."""
    with pytest.raises(DataError) as error:
        added("photos", source, **how)
    message = str(error.value)
    assert len(message.splitlines()) <= 5 and max(map(len, message.splitlines())) < 700, message
    assert cards(place) == []
    assert not place.root.exists() or list(place.root.iterdir()) == []
    return message


def table(path, *rows):
    """A CSV file."""
    path.write_text("\n".join(["image,label", *rows]))
    return path


def zipped(path, **members):
    """A ZIP of members by name."""
    with zipfile.ZipFile(path, "w") as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


def linked_tar(path):
    """A TAR with a link in it."""
    with tarfile.open(path, "w") as file:
        member = tarfile.TarInfo("disc/000.png")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        file.addfile(member)
    return path


def written(path, data: bytes | str):
    """A file with this in it."""
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def empty_class_folders(path):
    """Folders without a file."""
    (path / "a/b").mkdir(parents=True)
    (path / "c").mkdir()
    return path


def made(path):
    """An empty folder."""
    path.mkdir()
    return path


def split_folders(path, *names):
    """Folders with class folders in them."""
    for i, name in enumerate(names):
        class_folders(path / name, 3, first=3 * i)
    return path


BOMB = bytes(300 << 10)
KINDS = {
    "an empty text": (lambda d: "", "found an empty text"),
    "nothing there": (lambda d: d / "nothing", "expected a folder, a table or an archive"),
    "an empty folder": (lambda d: made(d / "empty"), "a folder for each class, found an empty"),
    "class folders without files": (lambda d: empty_class_folders(d / "p"), "found no file"),
    "loose files": (
        lambda d: written(made(d / "p") / "a.png", b"x").parent, "1 file: a.png\nput the pictures"
    ),
    "an archive in an archive": (
        lambda d: zipped(d / "p.zip", **{"b.tgz": b"x", "c.zip": b"x", "a": b"x"}),
        "found 3 files: a, b.tgz, c.zip\nunpack b.tgz, c.zip, and give",
    ),
    "one class": (lambda d: class_folders(d / "p", 4, ("disc",)), "--allow one-class"),
    "another file": (lambda d: written(d / "photos.rar", b"x"), "rename or convert it"),
    "no ZIP": (lambda d: written(d / "p.zip", b"PK\3\4 and so on"), "ZIP or TAR that can be read"),
    "no TAR": (lambda d: written(d / "p.tar.gz", b"\x1f\x8b\x08"), "ZIP or TAR that can be read"),
    "a way out of a ZIP": (
        lambda d: zipped(d / "p.zip", **{"a/../../out.png": b"x"}), "leads out of the archive"
    ),
    "a way out on Windows": (
        lambda d: zipped(d / "p.zip", **{"C:\\out.png": b"x"}), "leads out of the archive"
    ),
    "a link in a TAR": (lambda d: linked_tar(d / "p.tar"), "is a link or a device"),
    "a bomb": (
        lambda d: written(d / "p.zip", _compressed(BOMB)), "unpacks to more than 100 times"
    ),
    "no columns": (lambda d: written(d / "t.csv", ""), "found none\nname it: --image-column"),
    "UTF-16": (
        lambda d: written(d / "t.csv", "image,label\na.png,a".encode("utf-16-le")), "as of UTF-16"
    ),
    "no UTF-8": (lambda d: written(d / "t.csv", b"image,label\n\xff\xfe,a"), "save it as UTF-8"),
    "no JSON": (lambda d: written(d / "t.jsonl", '{"image": "a", "label": "b"}\n{'), "line 2: exp"),
    "no parquet": (lambda d: written(d / "t.parquet", b"PAR1"), "expected a parquet file"),
    "no split": (
        lambda d: written(d / "t.csv", "image,label,split\na.png,b,often"), "expected a split"
    ) ,
    "no picture at all": (
        lambda d: table(d / "t.csv", "a.png,x", "b.png,y"), "2 of which none can be used:\n"
    ),
    "splits without class folders": (
        lambda d: class_folders(d / "p", 4, ("disc", "cross"), names=("train", "test")),
        "expected class folders in test, train, which are called as splits are",
    ),
    "a folder next to those of splits": (
        lambda d: split_folders(d / "p", "train", "test", "unlabelled"),
        "into one folder, and move others away: unlabelled",
    ),
    "a class without a picture": (
        lambda d: made(class_folders(d / "p", 4) / "empty").parent,
        "1 class has no training picture, of 4: empty",
    ),
    "an open quote": (
        lambda d: table(d / "t.csv", 'a.png,"big', "a.png,b"), "t.csv, line 3: unexpected end"
    ),
    "a comma in a name": (
        lambda d: table(d / "t.csv", "a, b.png,x"), "expected 2 values, found 2 and ['x']"
    ),
    "an address": (lambda d: "s3://bucket/photos", "expected a path on this machine, found an"),
    "no TFDS name": (lambda d: "tfds:nonsuch", "no TensorFlow data set is called 'nonsuch'"),
}  # fmt: skip


def _compressed(data: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("a/bomb.png", data)
    return file.getvalue()


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_bad_data_says_what_to_do(kind, added, place, tmp_path, monkeypatch):
    monkeypatch.setattr("evolution.data.archives.FREE_BYTES", 1 << 10)
    (tmp_path / "a.png").write_bytes(b"x")
    make, message = KINDS[kind]
    if kind == "no picture at all":
        (tmp_path / "a.png").unlink()
    assert message in refused(added, place, make(tmp_path))


BAD_FILES = {
    "no picture": (lambda f: f.write_bytes(b"just text"), "expected PNG, JPEG"),
    "a TIFF": (
        lambda f: f.write_bytes(encoded(picture("disc", 0), "TIFF")),
        "expected PNG, JPEG, WEBP, BMP, GIF; found a TIFF; save it as PNG or JPEG",
    ),
    "an AVIF": (
        lambda f: f.write_bytes(encoded(picture("disc", 0), "AVIF")), "expected PNG, JPEG, WEBP"
    ),
    "cut short": (lambda f: f.write_bytes(f.read_bytes()[:90]), "a PNG that ends before"),
    "empty": (lambda f: f.write_bytes(b""), "an empty file"),
    "a link out": (
        lambda f: (f.unlink(), f.symlink_to("/etc/passwd")), "leads out of "
    ),
    "a broken link": (lambda f: (f.unlink(), f.symlink_to("gone.png")), "no such file"),
    "links in a circle": (lambda f: (f.unlink(), f.symlink_to(f.name)), ""),
    "a pipe": (lambda f: (f.unlink(), os.mkfifo(f)), "no plain file"),
}  # fmt: skip


@pytest.mark.parametrize(
    "name", ["disc/0.png/x.png", "disc", f"disc/{'x' * 300}.png", f"disc/{'x/' * 2000}x.png"]
)
def test_a_member_that_no_folder_can_hold_is_named(name, added, place, tmp_path):
    pictures = {f"disc/{i}.png": encoded(picture("disc", i), "PNG") for i in range(3)}
    told = refused(added, place, zipped(tmp_path / "a.zip", **pictures, **{name: b"x"}))
    assert "cannot be unpacked" in told and "rename it" in told and str(place.root) not in told


def test_ctrl_c_says_that_nothing_is_half_done(place, tmp_path, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("evolution.data.adding.write_split", stopped)
    asked = ["add", "photos", "--from", str(class_folders(tmp_path / "photos"))]
    done = CliRunner().invoke(app, asked, env={"MUNET_DATA": str(place.root)})
    assert done.exit_code == 130 and "whole or not at all" in done.stderr
    assert list(place.root.iterdir()) == []


def test_a_check_that_cannot_be_kept_is_told_all_the_same(added, place, tmp_path, monkeypatch):
    added("photos", class_folders(tmp_path / "photos"))

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(FolderPlace, "replace_card", full)
    done = CliRunner().invoke(app, ["check", "photos"], env={"MUNET_DATA": str(place.root)})
    assert "transparency" in done.output and isinstance(done.exception, OSError)


def test_what_a_file_is_called_does_nothing_to_the_terminal(added, place, tmp_path):
    folder = class_folders(tmp_path / "photos")
    written(folder / "disc/\x1b]0;title\x07.png", b"no picture")
    added("photos", folder, max_bad=0.5)
    done = CliRunner().invoke(app, ["show", "photos"], env={"MUNET_DATA": str(place.root)})
    assert "title" in done.output and not {"\x1b", "\x07"} & set(done.output)


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_bad_file_is_named_with_its_reason_and_left_out_if_there_are_few(
    kind, added, place, tmp_path
):
    folder = class_folders(tmp_path / "photos", 6)
    spoil, reason = BAD_FILES[kind]
    spoil(folder / "disc/003.png")
    message = refused(added, place, folder)
    assert "1 of 18 pictures cannot be used: disc/003.png: " + reason in message
    assert message.endswith("add it as it is: --max-bad 0.06")
    card = added("photos", folder, max_bad=0.06)
    assert card.left_out == 1 and card.left_out_names[0].startswith(f"disc/003.png: {reason}")
    assert card.check.pictures == 17


def test_a_link_counts_as_the_file_within_the_folder_that_it_leads_to(added, tmp_path):
    folder = class_folders(tmp_path / "photos", 6)
    (folder / "disc/003.png").rename(folder / "disc/other.png")
    (folder / "disc/003.png").symlink_to("other.png")
    assert added("photos", folder).check.duplicates["within"] == 1


def test_a_link_to_a_folder_is_refused(added, place, tmp_path):
    folder = class_folders(tmp_path / "photos", 6)
    (folder / "more").symlink_to(tmp_path / "photos/disc")
    assert "a link to a folder" in refused(added, place, folder)


def test_a_path_of_a_table_does_not_lead_out_of_its_folder(added, place, tmp_path):
    class_folders(tmp_path / "photos", 3)
    (tmp_path / "tables").mkdir()
    rows = [f"../photos/{k}/00{i}.png,{k}" for k in ("disc", "cross") for i in range(3)]
    found = table(tmp_path / "tables/t.csv", *rows)
    assert "leads out of" in refused(added, place, found)
    rows = [row.removeprefix("../photos/") for row in rows]
    assert added("photos", table(found, *rows), images=tmp_path / "photos").check.pictures == 6


def test_a_folder_that_changes_while_it_is_read_gives_one_set(added, tmp_path, monkeypatch):
    folder = class_folders(tmp_path / "photos", 6)

    def read(path, root):
        (folder / "disc/004.png").unlink(missing_ok=True)
        (folder / "disc/new.png").write_bytes(b"late")
        (folder / "square/005.png").write_bytes(encoded(picture("square", 99)))
        return read_picture(path, root)

    monkeypatch.setattr("evolution.data.folders.read_picture", read)
    card = added("photos", folder, max_bad=0.1)
    assert card.left_out_names == ["disc/004.png: no such file (any more)"]
    assert card.check.pictures == 17


def test_a_full_disk_leaves_nothing(added, place, tmp_path, monkeypatch):
    folder = class_folders(tmp_path / "photos", 6)

    def full(self, path, data):
        if len(self._ends) > 10:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        append(self, path, data)

    append = staging.Staged.append
    monkeypatch.setattr(staging.Staged, "append", full)
    assert "No space left on device; nothing was added\nmake room" in refused(added, place, folder)

    def full_later(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(staging.Staged, "append", append)
    monkeypatch.setattr(adding, "write_split", full_later)
    assert "nothing was added" in refused(added, place, folder)


def test_a_set_is_added_once_and_its_name_is_not_given_to_another(added, place, tmp_path):
    first = added("photos", class_folders(tmp_path / "photos", 6))
    request = adding.Request("photos", str(tmp_path / "photos"))
    assert adding.add(request, place)[2] is False
    with pytest.raises(DataError, match=r"the name is in use .*\n?.*munet data rm photos"):
        added("photos", class_folders(tmp_path / "others", 7))
    assert [card.fingerprint for card in cards(place)] == [first.fingerprint]


@pytest.mark.parametrize("name", ["my photos", "", "../up", "a/../b", "ä", "x" * 300, "private:x"])
def test_a_name_that_is_no_tasks_is_refused_before_anything_is_read(name, added, place, tmp_path):
    with pytest.raises(DataError, match="for example: "):
        added(name, tmp_path / "nothing")
    assert not place.root.exists()


def test_what_a_killed_command_left_is_cleared_by_the_next(added, place, tmp_path):
    (place.root / "~1-dead").mkdir(parents=True)
    (place.root / "~1-dead/lock").touch()
    (place.root / "~1-dead/staged").write_bytes(b"half")
    assert cards(place) == []
    added("photos", class_folders(tmp_path / "photos", 6))
    assert [path.name for path in place.root.iterdir()] == ["photos"]


def test_a_hundred_thousand_classes_are_doubted(added, place, tmp_path, monkeypatch):
    monkeypatch.setattr("evolution.data.check.MAX_CLASSES", 5)
    rows = [f"a.png,name {i}" for i in range(6) for _ in range(3)]
    (tmp_path / "a.png").write_bytes(encoded(picture("disc", 1)))
    message = refused(added, place, table(tmp_path / "t.csv", *rows))
    assert "is the class column a name or number of each picture?" in message
    assert "--allow many-classes" in message
    monkeypatch.setattr("evolution.data.adding.MAX_LABEL_BYTES", 20)
    message = refused(added, place, table(tmp_path / "t.csv", *rows))
    assert "6 classes: expected names of at most" in message


@pytest.mark.parametrize(
    "names",
    [("Cat", "cat", "dog"), ("cat", "cat ", "dog"), ("\u00e9", "e\u0301", "dog"),
     ("cat", "c\u200bat", "dog"), ("\u202ecat", "cat", "dog"), ("a b", "a\nb", "dog")],
)  # fmt: skip
def test_names_that_look_the_same_stay_apart_and_are_noted(names, added, place, tmp_path):
    card = added("photos", class_folders(tmp_path / "photos", names=names))
    assert classes_of(place, card) == tuple(sorted(names))
    (note,) = (finding for finding in card.check.findings if finding.name == "alike-names")
    assert not note.dangerous and all(repr(name) in note.message for name in names[:2])
    assert "dog" not in note.message


@pytest.mark.slow
def test_a_hundred_thousand_real_classes_are_read_and_doubted(added, place, tmp_path):
    class_folders(tmp_path / "p", 6, ("disc", "cross"))
    files = [f"p/{kind}/{i:03}.png" for kind in ("disc", "cross") for i in range(6)]
    rows = [f"{files[i % 12]},class {i}" for i in range(100_000)]
    message = refused(added, place, table(tmp_path / "t.csv", *rows))
    assert "100,000 classes for 100,000 pictures" in message and "--allow many-classes" in message


def test_a_class_folder_that_is_not_unicode_is_named(added, place, tmp_path):
    folder = class_folders(tmp_path / "photos", 4)
    os.rename(folder / "disc", os.fsencode(folder) + b"/d\xffsc")
    assert "expected names in UTF-8" in refused(added, place, folder)
