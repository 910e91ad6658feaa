"""Refuse to run beside the distribution that owns our import names.

``ml4gw-hermes`` installs the same modules. Whichever of the two came second
has overwritten files of the first, and what breaks is anybody's guess: better
one clear error. The libraries do not import each other, so each has this file.
"""

from importlib.metadata import PackageNotFoundError, version


def refuse_ml4gw_hermes() -> None:
    """Raise if ``ml4gw-hermes`` is installed.

    Raises:
        ImportError: If the distribution is found on ``sys.path``.
    """
    try:
        found = version("ml4gw-hermes")
    except PackageNotFoundError:
        return
    raise ImportError(
        f"ml4gw-hermes {found} is installed and owns the import name "
        "'hermes' too. Uninstall it and install Hermes again, or use an "
        "environment without it."
    )
