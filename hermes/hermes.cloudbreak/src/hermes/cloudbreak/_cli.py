"""``hermes-cloud``: what is there without the extra ``cli``."""

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
        from hermes.cloudbreak import _commands  # noqa: PLC0415
    except ImportError as error:
        sys.stderr.write(
            f"hermes-cloud needs {error.name}; install hermes-cloudbreak with "
            "its extra cli\n"
        )
        return 2
    return _commands.run(words)


if __name__ == "__main__":
    sys.exit(main())
