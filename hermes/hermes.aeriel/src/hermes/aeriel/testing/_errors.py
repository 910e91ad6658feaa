"""What the fakes raise that servers do not."""

from hermes.aeriel.errors import AerielError

__all__ = ("InvalidFake",)


class InvalidFake(AerielError, ValueError):
    """A fake was asked to be what it cannot be."""
