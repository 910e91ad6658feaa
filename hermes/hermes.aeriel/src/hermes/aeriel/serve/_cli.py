"""``hermes-serve``: what is there without the extra ``cli``."""

import sys
from collections.abc import Sequence

__all__ = ("main",)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: What follows the program's name; None for ``sys.argv``.

    Returns:
        The exit code.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        from hermes.aeriel.serve import _commands  # noqa: PLC0415
    except ImportError as error:
        sys.stderr.write(
            f"hermes-serve needs {error.name}; install hermes-aeriel with its "
            "extra cli (`python -m hermes.aeriel.serve install | status` work "
            "without)\n"
        )
        return 2
    return _commands.run(words)


if __name__ == "__main__":
    sys.exit(main())
