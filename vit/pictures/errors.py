"""Why a file is not decoded; each message is made for the one who sent it."""

from __future__ import annotations


class ImageError(Exception):
    """A file that cannot be decoded."""


class UnreadableImage(ImageError):
    """It is no image in one of the formats, or a damaged one."""


class ImageTooLarge(ImageError):
    """It would take more memory or time than an image may."""
