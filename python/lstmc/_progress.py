"""Progress bars, in terminals and in notebooks."""

from __future__ import annotations

# As type checkers know it, without the time that importing `typing` takes.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeAlias

    Progress: TypeAlias = Callable[[str, int, int], None]


class Bar:
    """A bar of `tqdm`, made when there is something to show: work of less than a moment shows nothing."""

    def __init__(self) -> None:
        self.bar: Any = None

    def __call__(self, what: str, done: int, total: int) -> None:
        if self.bar is None:
            # Only now, because it takes a while to import.
            import sys

            from tqdm.auto import tqdm

            is_seen = sys.stderr.isatty() or "ipykernel" in sys.modules
            self.bar = tqdm(total=total or None, leave=False, disable=not is_seen)
        self.bar.set_description_str(what, refresh=False)
        self.bar.total = total or None
        self.bar.n = done
        self.bar.refresh()

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()


class Silent(Bar):
    """No bar."""

    def __call__(self, what: str, done: int, total: int) -> None:
        pass


class Called(Bar):
    """A function of the caller's own."""

    def __init__(self, function: Progress) -> None:
        super().__init__()
        self.function = function

    def __call__(self, what: str, done: int, total: int) -> None:
        self.function(what, done, total)


def bar(progress: bool | Progress) -> Bar:
    """`True` for a bar, `False` for none, or a function that is called with what is done, how much, and of how much (0 if that is not known)."""
    if callable(progress):
        return Called(progress)
    return Bar() if progress else Silent()
