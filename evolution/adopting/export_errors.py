"""What `munet export` refuses; kept apart from what takes seconds to import."""


class ExportError(ValueError):
    """A version that cannot be written for others; says what was expected, found, and to do."""


class OccupiedFolder(ExportError):
    """The folder is somebody's; nothing in it was changed."""
