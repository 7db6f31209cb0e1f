"""Links are followed, and every path that cannot be followed or read is named."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from permissions import forbidden

from spikefuse._io import folders


def below(root: Path, *, hidden: bool = False) -> list[str]:
    return [path.relative_to(root).as_posix() for path in folders.walk(root, hidden=hidden)]


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "set"
    touch(folder, "b/2.wav", "b/10.wav", "a.txt", ".hidden/x.wav", "b/.x.wav", "c/d/e/f.wav")
    (folder / "empty").mkdir()
    return folder


def test_every_file_in_the_order_of_names(root: Path) -> None:
    seen = ["a.txt", "b/10.wav", "b/2.wav", "c/d/e/f.wav"]
    assert below(root) == seen
    assert sorted(below(root, hidden=True)) == sorted([*seen, ".hidden/x.wav", "b/.x.wav"])


def test_linked_folders_and_files_keep_the_names_of_the_links(root: Path, tmp_path: Path) -> None:
    touch(tmp_path, "disk/deep/1.wav")
    (root / "b/linked").symlink_to(tmp_path / "disk")
    (root / "b/again").symlink_to("linked")
    (root / "c/file.wav").symlink_to("../../disk/deep/1.wav")
    (tmp_path / "disk/deep/more").symlink_to(root / "c/d")
    (tmp_path / "other").symlink_to(root)
    linked = ["deep/1.wav", "deep/more/e/f.wav"]
    expected = ["a.txt", "b/10.wav", "b/2.wav", *(f"b/again/{n}" for n in linked), *(f"b/linked/{n}" for n in linked)]
    assert below(tmp_path / "other") == [*expected, "c/d/e/f.wav", "c/file.wav"]


@pytest.mark.parametrize("target", [".", "..", "../c", "../../set", "../../disk/on"])
def test_a_link_that_leads_back_is_named(root: Path, tmp_path: Path, target: str) -> None:
    touch(tmp_path, "disk/1.wav")
    (tmp_path / "disk/on").symlink_to(root / "c")
    (root / "c/back").symlink_to(target)
    with pytest.raises(OSError, match=f"leads back .*'{root}/c/back' -> '{tmp_path}") as error:
        below(root)
    assert Path(error.value.filename2) in (root, root / "c")


def test_two_links_that_lead_to_each_other_are_named(tmp_path: Path) -> None:
    touch(tmp_path, "a/1", "b/1")
    (tmp_path / "a/x").symlink_to("../b")
    (tmp_path / "b/y").symlink_to("../a")
    with pytest.raises(OSError, match=r"leads back .*'.*/a/x/y' -> '.*/a'"):
        below(tmp_path)


def test_a_link_to_the_folder_above_the_walk_is_named(root: Path, tmp_path: Path) -> None:
    (root / "up").symlink_to(tmp_path)
    with pytest.raises(OSError, match=f"leads back .*'{root}/up' -> '{tmp_path}'"):
        below(root)


@pytest.mark.parametrize("name", ["yes", "yes.wav", "notes.txt"])
def test_a_dangling_link_is_named_with_its_target(root: Path, name: str) -> None:
    (root / "b" / name).symlink_to("../../gone/yes")
    pattern = rf"link to a path that does not exist.*'{root}/b/{re.escape(name)}' -> '../../gone/yes'"
    with pytest.raises(FileNotFoundError, match=pattern):
        below(root)


def test_a_hidden_dangling_link_is_passed_over(root: Path) -> None:
    (root / ".#lock").symlink_to("someone@host:1")
    assert "a.txt" in below(root)
    with pytest.raises(FileNotFoundError, match="someone@host:1"):
        below(root, hidden=True)


def test_a_link_to_itself_is_named(root: Path) -> None:
    (root / "me").symlink_to("me")
    with pytest.raises(OSError, match=f"leads back to itself.*'{root}/me' -> 'me'"):
        below(root)


@pytest.mark.parametrize("mode", [0o000, 0o300, 0o600])
def test_a_folder_without_permission_is_named(root: Path, mode: int) -> None:
    with forbidden(root / "b", mode), pytest.raises(PermissionError, match=f"chmod u\\+rx.*'{root}/b"):
        below(root)


def test_a_link_into_a_folder_without_permission_is_named(root: Path, tmp_path: Path) -> None:
    touch(tmp_path, "disk/yes/1.wav")
    (root / "yes").symlink_to(tmp_path / "disk/yes")
    pattern = f"cannot be looked at.*'{root}/yes' -> '{tmp_path}/disk/yes'"
    with forbidden(tmp_path / "disk"), pytest.raises(PermissionError, match=pattern):
        below(root)


def test_the_system_s_own_folder_of_a_disk_is_passed_over(root: Path) -> None:
    touch(root, "lost+found/1.wav")
    assert "lost+found/1.wav" in below(root)
    with forbidden(root / "lost+found"):
        assert below(root) == ["a.txt", "b/10.wav", "b/2.wav", "c/d/e/f.wav"]


def test_pipes_are_passed_over(root: Path) -> None:
    os.mkfifo(root / "b/pipe.wav")
    assert "b/pipe.wav" not in below(root)


def test_a_file_without_permission_is_named(root: Path) -> None:
    folders.check_readable(root / "a.txt")
    with forbidden(root / "a.txt"):
        with pytest.raises(PermissionError, match=rf"file cannot be read .*chmod u\+r.*'{root}/a\.txt'"):
            folders.check_readable(root / "a.txt")
        with pytest.raises(PermissionError, match=r"a\.txt"):
            folders.open_file(root / "a.txt")


QUESTIONS: tuple[Callable[[Path], object], ...] = (
    folders.exists,
    folders.is_file,
    folders.is_folder,
    folders.entries,
    folders.open_file,
)


@pytest.mark.parametrize("ask", QUESTIONS)
def test_no_answer_is_given_of_what_cannot_be_looked_at(root: Path, ask: Callable[[Path], object]) -> None:
    (root / "gone").symlink_to("nowhere")
    for path in (root / "gone", root / "gone/below/it"):
        with pytest.raises(FileNotFoundError, match=f"'{root}/gone' -> 'nowhere'"):
            ask(path)
    with forbidden(root), pytest.raises(PermissionError, match=f"'{root}/b'"):
        ask(root / "b")


def test_answers(root: Path) -> None:
    (root / "file").symlink_to("a.txt")
    (root / "folder").symlink_to("b")
    for name, file, folder in (("file", True, False), ("folder", False, True), ("no", False, False)):
        assert (folders.is_file(root / name), folders.is_folder(root / name)) == (file, folder)
        assert folders.exists(root / name) is (file or folder)
    assert not folders.exists(root / "file" / "below")
    with pytest.raises(FileNotFoundError, match=r"No such file.*/no'"):
        folders.entries(root / "no")
    with pytest.raises(NotADirectoryError, match=r"a\.txt"):
        folders.entries(root / "a.txt")
