"""An extension of griffe, named by ``mkdocs.yml``: docstrings as the site can show them."""

from __future__ import annotations

from typing import Any

import griffe

from docs.site import plain_roles


class PlainRoles(griffe.Extension):
    """Replaces the roles of Sphinx in every docstring, which Markdown does not know."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change the docstring of an object that was read."""
        if obj.docstring:
            obj.docstring.value = plain_roles(obj.docstring.value)
