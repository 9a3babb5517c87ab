"""Checkpoints survive kills, torn files, flipped bits and full disks; each guarantee with its mutant."""

import errno
import json
import logging
import os
import random
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load as load_tensors
from torch import Tensor

from protocol.errors import CheckpointError
from server import checkpoint
from server.checkpoint import Checkpoint

VECTORS = {"parameters/shared": torch.arange(4.0), "memory/count/shared": torch.tensor(3)}
KILLS = 100


def _filled(number: int, size: int = 3) -> dict[str, Tensor]:
    return {"parameters/shared": torch.full((size,), float(number))}


def _two(folder: Path) -> Path:
    """Rounds 1 and 2; returns the newer file."""
    checkpoint.save(folder, _filled(1), {"run": "r"}, 1)
    return checkpoint.save(folder, _filled(2), {"run": "r"}, 2)


def _same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(
        left[n].dtype == right[n].dtype and torch.equal(left[n], right[n]) for n in left
    )


# -- What was saved is what is loaded ------------------------------------------------------------

KINDS = st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool, torch.uint8])
SHAPES = st.lists(st.integers(0, 3), max_size=3)


@given(
    st.dictionaries(st.text(min_size=1, max_size=8), st.tuples(KINDS, SHAPES), max_size=6),
    st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5) | st.none(), max_size=3),
    st.integers(0, 10**7),
)
def test_what_is_saved_is_loaded(
    tmp_path_factory: pytest.TempPathFactory,
    kinds: dict[str, tuple[torch.dtype, list[int]]],
    facts: dict[str, object],
    number: int,
) -> None:
    kinds.pop("__metadata__", None)
    vectors = {name: (torch.rand(shape) * 9).to(kind) for name, (kind, shape) in kinds.items()}
    folder = tmp_path_factory.mktemp("saved")
    checkpoint.save(folder, vectors, facts, number)
    found = checkpoint.load(folder)
    assert (found.round, found.facts) == (number, facts)
    assert _same(found.vectors, vectors)


def test_the_file_is_a_line_about_a_safetensors_file(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, VECTORS, {}, 7)
    line, _, payload = path.read_bytes().partition(b"\n")
    assert path.name == "round-000007.checkpoint"
    assert {"round": 7, "length": len(payload)}.items() <= json.loads(line).items()
    assert _same(load_tensors(payload), VECTORS)


def test_vectors_are_written_from_their_own_memory() -> None:
    _, _, piece = checkpoint._safetensors(VECTORS, {})
    assert np.shares_memory(piece, VECTORS["parameters/shared"].numpy())


def test_what_was_loaded_can_be_trained_on(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, VECTORS, {}, 1)
    assert checkpoint.load(tmp_path).vectors["parameters/shared"].add_(1)[0] == 1


def test_the_two_newest_stay_and_the_newest_is_loaded(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path / "none") is None
    for number in (9, 10, 11):
        checkpoint.save(tmp_path, _filled(number), {}, number)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "round-000010.checkpoint",
        "round-000011.checkpoint",
    ]
    assert checkpoint.load(tmp_path).round == 11
    assert checkpoint.newest(tmp_path) == tmp_path / "round-000011.checkpoint"


def test_leftovers_of_a_kill_are_swept_and_are_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "round-000001.partial").write_bytes(b"half")
    assert checkpoint.newest(tmp_path) is None
    checkpoint.save(tmp_path, _filled(0), {}, 0)
    assert checkpoint.load(tmp_path).round == 0
    assert [path.suffix for path in tmp_path.iterdir()] == [".checkpoint"]


# -- Damage --------------------------------------------------------------------------------------


def _flips(intact: bytes) -> list[bytes]:
    flipped = [(at, 1 << bit) for at in range(len(intact)) for bit in range(8)]
    return [intact[:at] + bytes([intact[at] ^ mask]) + intact[at + 1 :] for at, mask in flipped]


def _survives(folder: Path, newer: Path, damaged: bytes) -> bool:
    newer.write_bytes(damaged)
    return checkpoint.load(folder).round == 1


def test_every_flipped_bit_and_every_torn_end_falls_back_to_the_round_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    newer = _two(tmp_path)
    intact = newer.read_bytes()
    damages = _flips(intact) + [intact[:end] for end in range(len(intact))] + [intact + b"\0", intact * 2]
    assert all(_survives(tmp_path, newer, damaged) for damaged in damages)
    assert "round-000002.checkpoint is not intact" in caplog.text
    newer.write_bytes(intact)
    assert checkpoint.load(tmp_path).round == 2


def test_the_mutant_that_trusts_the_library_alone_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trusting(path: Path) -> Checkpoint:
        payload = path.read_bytes().partition(b"\n")[2]
        return Checkpoint(int(path.stem[-6:]), load_tensors(payload), {})

    monkeypatch.setattr(checkpoint, "_read", trusting)
    newer = _two(tmp_path)
    assert not all(_survives(tmp_path, newer, damaged) for damaged in _flips(newer.read_bytes()))


@given(st.binary(max_size=400))
def test_bytes_of_any_origin_are_never_loaded(tmp_path_factory: pytest.TempPathFactory, junk: bytes) -> None:
    folder = tmp_path_factory.mktemp("junk")
    assert _survives(folder, _two(folder), junk)


def test_a_renamed_file_is_not_the_round_that_it_says(tmp_path: Path) -> None:
    _two(tmp_path).rename(tmp_path / "round-000003.checkpoint")
    assert checkpoint.load(tmp_path).round == 1


def test_nothing_intact_is_an_error_that_says_where_and_what_to_do(tmp_path: Path) -> None:
    for path in (_two(tmp_path), tmp_path / "round-000001.checkpoint"):
        path.write_bytes(b"{}")
    with pytest.raises(CheckpointError, match=rf"{tmp_path} holds no intact checkpoint \(2 damaged\)"):
        checkpoint.load(tmp_path)


# -- Full disks ----------------------------------------------------------------------------------


def _full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_names_the_folder_and_harms_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    checkpoint.save(tmp_path, _filled(1), {}, 1)
    with monkeypatch.context() as patch:
        patch.setattr(*((os, "fsync") if step == "fsync" else (Path, "replace")), _full)
        with pytest.raises(CheckpointError, match=rf"round 2 .* {tmp_path} \(No space left.*: free some"):
            checkpoint.save(tmp_path, _filled(2), {}, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["round-000001.checkpoint"]
    assert checkpoint.load(tmp_path).round == 1
    checkpoint.save(tmp_path, _filled(2), {}, 2)
    assert checkpoint.load(tmp_path).round == 2


def test_a_folder_that_cannot_be_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="see that the folder exists and may be written"):
        checkpoint.save(tmp_path / "file" / "checkpoints", VECTORS, {}, 1)


def _in_child(work: Callable[[], object]) -> int:
    """Fork, do `work`, and return the child's process id."""
    child = os.fork()
    if child:
        return child
    try:
        work()
    finally:
        os._exit(1)


def test_a_write_cut_short_by_the_system_leaves_the_round_before(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, _filled(1), {}, 1)

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, 5_000))
        try:
            checkpoint.save(tmp_path, _filled(2, 10_000), {}, 2)
        except CheckpointError as error:
            os._exit(0 if "free some space" in str(error) else 2)

    assert os.waitpid(_in_child(work), 0)[1] == 0
    assert checkpoint.load(tmp_path).round == 1


@pytest.mark.slow
def test_a_really_full_disk(tmp_path: Path) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting needs rights that this machine does not give")
    try:
        checkpoint.save(tmp_path, _filled(1, 6_000), {}, 1)
        checkpoint.save(tmp_path, _filled(2, 6_000), {}, 2)
        with pytest.raises(CheckpointError, match="free some space"):
            checkpoint.save(tmp_path, _filled(3, 6_000), {}, 3)
        assert checkpoint.load(tmp_path).round == 2
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


# -- Kills ---------------------------------------------------------------------------------------


def _kill_while_saving(folder: Path, kills: int) -> None:
    clock = random.Random(0)
    for _ in range(kills):
        known = checkpoint.newest(folder)
        start = 0 if known is None else checkpoint.load(folder).round

        saved, tell = os.pipe()

        def work(first: int = start + 1, tell: int = tell) -> None:
            for number in range(first, first + 1_000):
                checkpoint.save(folder, _filled(number, 50_000), {}, number)
                os.write(tell, b".")

        child = _in_child(work)
        os.read(saved, 1)  # however busy the machine is, every child gets somewhere
        time.sleep(clock.uniform(0.0, 0.01))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(saved)
        os.close(tell)


@pytest.mark.slow
def test_no_kill_leaves_a_damaged_checkpoint(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _kill_while_saving(tmp_path, KILLS)
    found = checkpoint.load(tmp_path)
    assert found.round >= KILLS
    assert bool((found.vectors["parameters/shared"] == found.round).all())
    assert not caplog.records


@pytest.mark.slow
def test_the_mutant_that_writes_in_place_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(checkpoint, "_PARTIAL", ".checkpoint")
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)  # the sweep would take everything
    with caplog.at_level(logging.WARNING):
        _kill_while_saving(tmp_path, KILLS // 2)
    assert "is not intact" in caplog.text
