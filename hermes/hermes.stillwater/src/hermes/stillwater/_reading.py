"""Reads what the program has pickled for a process of its own."""

from __future__ import annotations

import pickle
from typing import Any

from hermes.stillwater.errors import CannotSpawn

__all__ = ("Reader",)


class Reader(pickle.Unpickler):
    """An unpickler that says why a class or function is not found."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        """See `pickle.Unpickler.find_class`.

        Raises:
            CannotSpawn: If the module has none of that name.
        """
        try:
            return super().find_class(module_name, global_name)
        except AttributeError as error:
            where = "the script" if module_name == "__main__" else module_name
            raise CannotSpawn(
                f"{global_name!r} is not there when another process imports"
                f" {where}. Define it at the top of that file, not in a"
                " function and not below `if __name__ == '__main__':`; what"
                " belongs to a notebook or a prompt, in a file that it imports"
            ) from error
