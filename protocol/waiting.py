"""How long to wait before looking again, for whoever can only ask.

A fixed pause is too long for what takes a moment and too short for what takes an hour. Here a pause is a
tenth of what was waited already: an answer is noticed at most a tenth late, and an hour costs no more looks
than it must, as `longest_s` bounds the pause.
"""

SHORTEST_S = 0.05
SHARE = 0.1


def pause(waited_s: float, longest_s: float) -> float:
    """Return the seconds to wait before looking again after `waited_s`."""
    return min(max(SHORTEST_S, SHARE * waited_s), longest_s)
