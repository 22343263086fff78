"""What a command changes of its process ends with it."""

from __future__ import annotations

import logging

import pytest

from evolution.process.computing import computing


def test_the_level_of_the_log_is_as_before_however_a_command_ends() -> None:
    logger = logging.getLogger("evolution")
    before = logger.level
    with pytest.raises(ValueError, match="its own"), computing(logging.ERROR):
        assert logger.level == logging.ERROR
        raise ValueError("its own")
    assert logger.level == before
    with computing():
        assert logger.level == logging.INFO
    assert logger.level == before
