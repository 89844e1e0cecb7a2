"""Give up waiting for something that has no timeout of its own."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class NoAnswerError(TimeoutError):
    """Something took longer than it was given."""


class _Call(threading.Thread, Generic[T]):
    def __init__(self, function: Callable[[], T]) -> None:
        super().__init__(daemon=True)  # so that a call which never returns does not keep the command alive
        self._function = function
        self.result: list[T] = []
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            self.result.append(self._function())
        except Exception as error:  # noqa: BLE001  # handed to whoever waits
            self.error = error


def within(seconds: float, function: Callable[[], T]) -> T:
    """What `function` returns, if it does so in time; its own error, if it raises one.

    Raises:
        NoAnswerError: it did not return within `seconds`. It goes on in the background until it ends by itself.
    """
    call = _Call(function)
    call.start()
    call.join(seconds)
    if call.error is not None:
        raise call.error
    if not call.result:
        raise NoAnswerError(f"no answer within {seconds:g} s")
    return call.result[0]
