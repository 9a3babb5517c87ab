"""Memory for the vectors of one message after another.

Memory that is new is cleared by the kernel, page by page, which takes longer than to copy a model into it.
So who takes one model after another puts each where the last was, as soon as nobody looks at that any more;
and what goes on to another process of ours on this machine goes with the memory it lies in: that process
sees the same pages, and nothing is copied.

A room has no name in any folder, and is gone with the last process that knows it.
"""

import os
from collections.abc import Sequence
from mmap import MAP_POPULATE, MAP_SHARED, mmap

_ALIGNED = 64
"""Each vector begins at a multiple: what the widest registers load at once."""


class Room:
    """One stretch of memory; `handle` is what the kernel calls it by, by default a new one's."""

    def __init__(self, handle: int | None = None) -> None:
        self.handle = os.memfd_create("vectors") if handle is None else handle
        self._seen: mmap | None = None

    def __del__(self) -> None:
        """Let go of it; whoever looks at what is in it still does."""
        os.close(self.handle)

    def is_free(self) -> bool:
        """Say whether nobody in this process looks at what is in it."""
        try:
            if self._seen is not None:
                self._seen.close()
        except BufferError:
            return False
        self._seen = None
        return True

    def views(self, sizes: Sequence[int]) -> list[memoryview]:
        """Return places for vectors of so many bytes each, as they are in it; `MemoryError` if too many.

        Of a size that is only claimed no page is ever touched.
        """
        starts, whole = list[int](), 0
        for size in sizes:
            starts.append(whole)
            whole += -(-size // _ALIGNED) * _ALIGNED
        if not whole:
            return [memoryview(bytearray()) for _ in sizes]
        try:
            seen = memoryview(self._opened(whole))
        except (OSError, OverflowError, ValueError) as error:
            raise MemoryError(f"no room for {whole} bytes") from error
        return [seen[start : start + size] for start, size in zip(starts, sizes, strict=True)]

    def _opened(self, whole: int) -> mmap:
        there = os.fstat(self.handle).st_size
        if there < whole:
            os.ftruncate(self.handle, whole)
        # Pages that are there are told of all at once: each would be asked for when it is first touched.
        self._seen = mmap(self.handle, whole, flags=MAP_SHARED | (MAP_POPULATE if there >= whole else 0))
        return self._seen


def free(room: Room | None) -> Room:
    """Return `room` if nobody looks at what is in it, else a new one."""
    return room if room is not None and room.is_free() else Room()
