"""Pieces of messages as files: the store answers as Flower's does, and a crash leaves nothing behind."""

from contextlib import nullcontext
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from flwr.proto.message_pb2 import ObjectTree
from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
from flwr.supercore.date import now
from flwr.supercore.state.schema.corestate_models import ObjectPushSession
from sqlalchemy import update

from server import store as store_module
from server.store import FOLDER, IN_A_FILE, Incoming, Kept, PieceStore, ShortState

pytestmark = pytest.mark.filterwarnings("ignore:No path_separator:DeprecationWarning")  # Flower's migrations

RUN = 7
PIECE = b"a piece of a model"
NAME = sha256(PIECE).hexdigest()


def _opened(folder: Path) -> PieceStore:
    store = PieceStore(str(folder / "state.db"))
    store.initialize()
    return store


def _files(folder: Path) -> set[str]:
    return {path.name for path in (folder / FOLDER).iterdir()}


def _tree(root: str) -> ObjectTree:
    """A message of which the piece is a part."""
    return ObjectTree(object_id=sha256(root.encode()).hexdigest(), children=[ObjectTree(object_id=NAME)])


def _put(store: PieceStore, root: str, content: bytes = PIECE) -> str:
    """Announce a message, and store the piece of it."""
    store.preregister(RUN, tree := _tree(root))
    with store.incoming(NAME) as piece:
        piece.write(content)
        store.put(NAME, piece.kept())
    return tree.object_id


def test_what_is_kept_is_found_by_the_next_process_and_goes_with_its_run(tmp_path: Path) -> None:
    _put(_opened(tmp_path), "one")
    store = _opened(tmp_path)
    assert store.get(NAME) == IN_A_FILE
    assert store.path(NAME).read_bytes() == PIECE
    assert store.path(NAME).stat().st_mode & 0o777 == 0o600
    store.delete_objects_in_run(RUN)
    assert len(store) == 0
    assert not _files(tmp_path)


def test_a_piece_that_another_message_needs_stays(tmp_path: Path) -> None:
    store = _opened(tmp_path)
    first, second = _put(store, "one"), _put(store, "two")
    store.delete(first)
    assert _files(tmp_path) == {NAME}
    store.delete(second)
    assert not _files(tmp_path)


def test_what_a_crash_left_is_removed_and_what_is_in_use_stays(tmp_path: Path) -> None:
    _put(_opened(tmp_path), "one")
    (tmp_path / FOLDER / f"{NAME}.half").write_bytes(b"half")
    (tmp_path / FOLDER / ("0" * 64)).write_bytes(b"nobody's")
    _opened(tmp_path)
    assert _files(tmp_path) == {NAME}


@pytest.mark.parametrize("left", [None, b"", PIECE[:-1], bytes(len(PIECE))])
def test_what_a_power_failure_has_taken_is_asked_for_again(
    tmp_path: Path, left: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database had reached the disk, and the piece had not, or not all of it."""
    _put(_opened(tmp_path), "one")
    path = tmp_path / FOLDER / NAME
    path.unlink() if left is None else path.write_bytes(left)
    _started_anew(tmp_path, monkeypatch)
    store = _opened(tmp_path)
    assert not _files(tmp_path)
    assert store.preregister(RUN, _tree("one")) == [NAME, _tree("one").object_id]
    _put(store, "one")
    assert path.read_bytes() == PIECE
    assert NAME not in _opened(tmp_path).preregister(RUN, _tree("one"))


def _started_anew(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine has been."""
    boot = folder / "boot_id"
    boot.write_text("another")
    monkeypatch.setattr(store_module, "BOOT", boot)


def test_a_store_that_believes_its_database_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "_is_whole", lambda path: True)
    with pytest.raises(AssertionError):
        test_what_a_power_failure_has_taken_is_asked_for_again(tmp_path, None, monkeypatch)


def test_a_store_that_takes_any_start_for_the_machines_last_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PieceStore, "_seen_since_boot", lambda store: store._boot.exists())
    with pytest.raises(AssertionError):
        test_what_a_power_failure_has_taken_is_asked_for_again(tmp_path, b"", monkeypatch)


def test_pieces_are_read_once_after_the_machine_has_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a process has written outlives its death, however it dies; only the machine's takes it."""
    _put(_opened(tmp_path), "one")
    read, is_whole = list[Path](), vars(store_module)["_is_whole"]
    monkeypatch.setattr(store_module, "_is_whole", lambda path: read.append(path) or is_whole(path))
    _opened(tmp_path)
    assert not read
    _started_anew(tmp_path, monkeypatch)
    for _ in range(2):
        _opened(tmp_path)
        assert read == [tmp_path / FOLDER / NAME]


def test_a_piece_that_is_gone_is_asked_for_again_without_a_start_of_the_machine(tmp_path: Path) -> None:
    _put(_opened(tmp_path), "one")
    (tmp_path / FOLDER / NAME).unlink()
    assert NAME in _opened(tmp_path).preregister(RUN, _tree("one"))


OUTSIDE = ["../state.db", "../../kept", "{folder}/kept", "pieces/../../kept", "", ".", ".."]


@pytest.mark.parametrize("name", OUTSIDE)
def test_no_name_that_a_site_says_reaches_another_file(tmp_path: Path, name: str) -> None:
    """It says that it has received a message, by any name; Flower has that one removed, if there is one."""
    home = tmp_path / "state"
    home.mkdir()
    store = _opened(home)
    _put(store, "one")
    kept = tmp_path / "kept"
    kept.write_bytes(b"the coordinator's key")
    store.delete(name.format(folder=tmp_path))
    assert kept.read_bytes() == b"the coordinator's key"
    assert (home / "state.db").exists()
    assert _files(home) == {NAME}
    with pytest.raises(ValueError, match="is called by its SHA-256"):
        store.path(name.format(folder=tmp_path))


def test_a_store_that_looks_for_any_name_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "is_name", lambda name: True)
    with pytest.raises(AssertionError):
        test_no_name_that_a_site_says_reaches_another_file(tmp_path, "../state.db")


@pytest.mark.parametrize("name", ["A" * 64, "0x" + "1" * 62, "1_" * 31 + "11"])
def test_a_run_goes_with_what_flower_took_for_names(tmp_path: Path, name: str) -> None:
    store = _opened(tmp_path)
    store.preregister(RUN, ObjectTree(object_id="1" * 64, children=[ObjectTree(object_id=name)]))
    _put(store, "one")
    store.delete_objects_in_run(RUN)
    assert len(store) == 0
    assert not _files(tmp_path)


def test_a_piece_under_another_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is another one"):
        _put(_opened(tmp_path), "one", b"something else")
    assert not _files(tmp_path)


def test_a_store_that_believes_a_name_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Incoming, "kept", lambda piece: Kept(piece._place.encode()))
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        test_a_piece_under_another_name_is_refused(tmp_path)


@pytest.mark.parametrize("content", [PIECE, b"\0", b"\0../../stolen", f"{NAME}.half".encode()])
def test_a_piece_that_is_brought_another_way_is_refused(content: bytes) -> None:
    state = ShortState.__new__(ShortState)
    with pytest.raises(ValueError, match="another way"):
        state.store_object(RUN, "a session", NAME, content)


@pytest.mark.parametrize("content", [b"\0", b"\0../../stolen", f"{NAME}.half".encode()])
def test_what_flower_says_itself_is_a_piece_as_any_other(tmp_path: Path, content: bytes) -> None:
    """In place of a reply that never came, say: whoever asks for it is told so, and the run goes on."""
    store = _opened(tmp_path)
    store.preregister(RUN, _tree("one"))
    (tmp_path / FOLDER / f"{NAME}.half").write_bytes(b"another's, on its way")
    with pytest.raises(ValueError, match="another one by its content"):
        store.put(NAME, content)
    assert _files(tmp_path) == {f"{NAME}.half"}
    store.put(NAME, PIECE)
    assert store.get(NAME) == IN_A_FILE
    assert store.path(NAME).read_bytes() == PIECE


def test_a_piece_that_nobody_announced_leaves_no_file(tmp_path: Path) -> None:
    manager: Any = SimpleNamespace()
    store = _opened(tmp_path)
    state = ShortState(str(tmp_path / "state.db"), manager, store)
    state.initialize()
    with store.incoming(NAME) as piece:
        piece.write(PIECE)
        assert not state.store_object(RUN, "no session", NAME, piece.kept())
    assert not _files(tmp_path)


@pytest.mark.parametrize("told", [True, False])
def test_a_piece_that_takes_long_is_stored_if_it_was_told_to_be_coming(tmp_path: Path, *, told: bool) -> None:
    manager: Any = SimpleNamespace()
    store = _opened(tmp_path)
    state = ShortState(str(tmp_path / "state.db"), manager, store)
    state.initialize()
    session = state.start_session(RUN)
    state.preregister_object_tree(_tree("one"), session)
    with state.session() as database:
        database.execute(update(ObjectPushSession).values(expires_at=now() - timedelta(seconds=1)))
    with store.incoming(NAME) as piece:
        piece.write(PIECE)
        if told:
            state.keep_open(session)
        assert state.store_object(RUN, session, NAME, piece.kept()) == told


def _under(root: str, *names: str) -> ObjectTree:
    return ObjectTree(object_id=root, children=[ObjectTree(object_id=name) for name in names])


WIDE, DEEP = _under("r", "a", "b", "c"), ObjectTree(object_id="r", children=[_under("a", "b", "c")])


@pytest.mark.parametrize(("tree", "most"), [(WIDE, 4), (DEEP, 4), (WIDE, 3), (DEEP, 3)])
def test_a_message_has_no_more_pieces_than_one_may_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tree: ObjectTree, most: int
) -> None:
    """Whoever has announced a piece may have it put on the disk."""
    manager, message = SimpleNamespace(), SimpleNamespace()
    state = ShortState(str(tmp_path / "state.db"), cast("Any", manager), _opened(tmp_path))
    monkeypatch.setattr(store_module, "MOST_PIECES", most)
    monkeypatch.setattr(SqlLinkState, "store_message_and_object_tree", lambda *_: (True, ["r"]))
    with nullcontext() if most == 4 else pytest.raises(ValueError, match="more than 3 pieces"):
        assert state.store_message_and_object_tree(cast("Any", message), tree, "a session")[0]


def test_who_may_not_store_a_piece_does_not_remove_what_another_has_put_there(tmp_path: Path) -> None:
    store = _opened(tmp_path)
    with store.incoming(NAME) as late:
        late.write(PIECE)
        assert isinstance(late.kept(), Kept)
        _put(store, "one")
    assert _files(tmp_path) == {NAME}
    assert store.path(NAME).read_bytes() == PIECE
