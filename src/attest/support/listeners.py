"""Telling listeners what happened, from a thread that others depend on."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import ParamSpec

__all__ = ["tell"]

_P = ParamSpec("_P")


def tell(listener: Callable[_P, object], *args: _P.args, **kwargs: _P.kwargs) -> None:
    """Call a listener, and go on whatever it raises.

    That is reported where Python reports what ends a thread (`threading.excepthook`, by default on
    standard error); the thread does not end.
    """
    try:
        listener(*args, **kwargs)
    except Exception:
        kind, error, trace = sys.exc_info()
        assert kind is not None
        told = threading.ExceptHookArgs((kind, error, trace, threading.current_thread()))
        threading.excepthook(told)
