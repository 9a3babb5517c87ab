"""How long to wait before looking again, for whoever can only ask.

A fixed pause is too long for what takes a moment and too short for what takes an hour. Here a pause is a
tenth of what was waited already: an answer is noticed at most a tenth late, and an hour costs no more looks
than it must, as `longest_s` bounds the pause. Whoever was kept waiting for an answer has paused already.
"""

SHORTEST_S = 0.05
SHARE = 0.1


def pause(waited_s: float, longest_s: float, asked_s: float = 0.0) -> float:
    """Return the seconds to pause after `waited_s`, of which the last look took `asked_s`."""
    return max(min(max(SHORTEST_S, SHARE * waited_s), longest_s) - asked_s, 0.0)
