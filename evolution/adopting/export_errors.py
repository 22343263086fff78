"""The errors of `munet export`, in a module that imports quickly."""


class ExportError(ValueError):
    """A version that cannot be exported. Says what was expected, found, and to do."""


class OccupiedFolder(ExportError):
    """The folder is in use; nothing in it was changed."""
