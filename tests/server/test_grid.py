"""What we change of Flower's Grid, and that Flower still has it; the whole way is in test_supernode."""

import inspect
from functools import partial
from hashlib import sha256
from pathlib import Path

import httpx
import pytest
from flwr.proto.message_pb2 import ObjectTree, PushObjectRequest
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.superlink.grid.http_grid import HttpGrid
from httpcore._backends.sync import SyncStream

from protocol.carriage import Pushed, Put
from protocol.pieces import Place, Pull, put
from server.grid import SPARE_BYTES, TIMES, StraightGrid, changes, in_place, laid, lying_or_coming
from server.store import FOLDER, PieceStore

pytestmark = pytest.mark.filterwarnings("ignore:No path_separator:DeprecationWarning")  # Flower's migrations

PIECE = b"a piece of a model"
NAME = sha256(PIECE).hexdigest()
REPLACED = [(HttpGrid, "push_messages"), (HttpGrid, "pull_messages"), (SyncStream, "read")]


def test_flower_has_what_we_change_and_calls_it_as_we_answer(tmp_path: Path) -> None:
    ours = {(where, name): value for where, name, value in changes(tmp_path)}
    for where, name in REPLACED:
        theirs = inspect.signature(vars(where)[name]).parameters
        assert len(inspect.signature(ours[where, name]).parameters) == len(theirs)  # pyright: ignore[reportArgumentType]
    assert {name for where, name in ours if where is RuntimeHttpClient} >= {"PushObject", "PullObject"}
    assert hasattr(RuntimeHttpClient, "PushObject")
    assert hasattr(RuntimeHttpClient, "PullObject")


def test_a_piece_is_read_where_it_is_and_fetched_where_it_is_not(tmp_path: Path) -> None:
    (tmp_path / "here").write_bytes(b"piece")

    def pull(place: Place) -> None:
        put(place, [b"fetched: ", place.name.encode()])

    assert _read(tmp_path, pull, "here", 2, 3) == b"piece"
    assert _read(tmp_path, pull, "there", 14) == b"fetched: there"
    assert _read(tmp_path / "no folder", pull, "here", 13) == b"fetched: here"


def test_a_piece_that_was_written_while_it_was_asked_for_is_not_taken_from_the_line(tmp_path: Path) -> None:
    """What comes over a line holds memory; of the mutant that does not look again something else is had."""

    def pull(fill: Put, place: Place) -> None:
        (tmp_path / place.name).write_bytes(b"lying")
        fill(place, [b"a line"])
        (tmp_path / place.name).unlink()

    here, elsewhere = (partial(lying_or_coming, folder) for folder in (tmp_path, tmp_path / "no folder"))
    assert _read(tmp_path, partial(pull, here), "piece", 5) == b"lying"
    for fill in (put, elsewhere):
        assert _read(tmp_path, partial(pull, fill), "piece", 6) == b"a line"


@pytest.mark.parametrize("sizes", [(4,), (2, 2), (6,), (5, 1)])
def test_a_piece_of_another_length_is_noticed(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    (tmp_path / "here").write_bytes(b"piece")
    with pytest.raises(ValueError, match="bytes than announced"):
        _read(tmp_path, lambda place: None, "here", *sizes)


def test_a_reply_is_some_times_as_large_as_a_task_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = StraightGrid.__new__(StraightGrid)
    sizes = [SPARE_BYTES // 2] * 3
    with pytest.raises(ValueError, match="in answer to 0"):
        grid.room(sizes)
    grid.largest = SPARE_BYTES // 2 // TIMES
    assert [len(place) for place in grid.room(sizes)] == sizes
    monkeypatch.setattr("server.grid.SPARE_BYTES", 10**18)
    with (
        pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"),
        pytest.raises(ValueError, match="answer"),
    ):
        StraightGrid.room(grid, [10**10])


def _read(folder: Path, pull: Pull, name: str, *sizes: int) -> bytes:
    stretches = [bytearray(size) for size in sizes]
    in_place(folder, pull, Place(name, stretches))
    return b"".join(stretches)


def _asked(name: str = NAME) -> Pushed:
    return Pushed(PushObjectRequest(object_id=name), [b"a piece ", b"of a model"])


def test_a_piece_is_written_down_where_the_superlink_keeps_them(tmp_path: Path) -> None:
    store = PieceStore(str(tmp_path / "state.db"))
    store.initialize()
    store.preregister(7, ObjectTree(object_id="1" * 64, children=[ObjectTree(object_id=NAME)]))
    folder = tmp_path / FOLDER

    def push(asked: Pushed) -> bool:
        assert not asked.parts
        store.put(NAME, store.lying(NAME, asked.request.object_content.decode()))
        return True

    assert laid(folder, push, _asked())
    assert [path.name for path in folder.iterdir()] == [NAME]
    assert (folder / NAME).read_bytes() == PIECE
    assert (folder / NAME).stat().st_mode & 0o777 == 0o600
    assert not laid(folder, lambda asked: False, _asked("2" * 64))
    assert [path.name for path in folder.iterdir()] == [NAME]


def test_a_piece_that_a_new_superlink_has_cleared_away_is_written_again(tmp_path: Path) -> None:
    answer, tried = httpx.Response(400, request=httpx.Request("POST", "https://localhost")), list[bytes]()

    def push(asked: Pushed) -> bool:
        tried.append(asked.request.object_content)
        if len(tried) < 3:
            (tmp_path / tried[-1].decode()).unlink()
            answer.raise_for_status()
        return (tmp_path / tried[-1].decode()).read_bytes() == PIECE

    assert laid(tmp_path, push, _asked())
    assert len(set(tried)) == 3
    with pytest.raises(httpx.HTTPStatusError):  # it is there: whoever refuses it means it
        laid(tmp_path, lambda asked: bool(answer.raise_for_status()), _asked())


def test_a_piece_is_sent_where_no_folder_is_to_be_seen(tmp_path: Path) -> None:
    sent = list[Pushed]()
    assert laid(tmp_path / "elsewhere", lambda asked: not sent.append(asked), _asked())
    assert [(each.request.object_content, b"".join(each.parts)) for each in sent] == [(b"", PIECE)]


@pytest.mark.parametrize("place", ["", NAME, f"{NAME}.{'0' * 32}", f"../{NAME}.{'0' * 32}", "../state.db"])
def test_a_piece_that_is_not_where_it_is_said_to_be_is_refused(tmp_path: Path, place: str) -> None:
    store = PieceStore(str(tmp_path / "state.db"))
    store.initialize()
    (tmp_path / f"{NAME}.{'0' * 32}").write_bytes(PIECE)
    with pytest.raises(ValueError, match="is not where"):
        store.lying(NAME, place)
