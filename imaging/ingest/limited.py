"""`python -m imaging.ingest.limited MIB COMMAND...`: become another program, which may not take everything.

It gets so much memory (0: as much as it likes), may write files no larger than `MOST_FILE`, and leaves no
core dump, which would hold a patient's voxels.
"""

import os
import resource
import sys

MOST_FILE = 8 * 2**30


def become(most_mib: int, command: list[str]) -> None:
    """Limit this process, and run `command` in its place."""
    limits = {resource.RLIMIT_CORE: 0, resource.RLIMIT_FSIZE: MOST_FILE}
    if most_mib:
        limits[resource.RLIMIT_AS] = most_mib * 2**20
    for what, most in limits.items():
        resource.setrlimit(what, (most, most))
    os.execvp(command[0], command)  # noqa: S606 - the site's own words, without a shell


if __name__ == "__main__":
    become(int(sys.argv[1]), sys.argv[2:])
