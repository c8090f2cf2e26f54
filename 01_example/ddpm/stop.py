"""Ctrl-C and SIGTERM as requests, which are granted where it is safe: between two steps."""
import signal
from types import FrameType

from parallel import agreed


class Stopped(Exception):
    """The end of a script that was asked to stop; its exit status is 128 + the signal's number."""

    def __init__(self, number: int, result: str = "nothing was lost"):
        super().__init__(f"stopped by {signal.Signals(number).name}: {result}")
        self.number = number


class Requests:
    """Within it Ctrl-C and SIGTERM are only noted. A signal that was ignored before remains so."""

    def __enter__(self) -> "Requests":
        self.heard = 0                      # the signal's number, or 0
        self.before = {number: signal.getsignal(number)
                       for number in (signal.SIGINT, signal.SIGTERM)}
        for number, handler in self.before.items():
            if handler != signal.SIG_IGN:
                signal.signal(number, self.note)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def note(self, number: int, frame: FrameType | None) -> None:
        """What a signal does."""
        self.heard = number

    def grant(self) -> None:
        """Raises Stopped if this process was asked to stop."""
        if self.heard:
            raise Stopped(self.heard)

    def grant_together(self) -> None:
        """Raises Stopped in all processes if one of them was asked to stop: each must call it."""
        self.heard = agreed(self.heard)
        self.grant()
