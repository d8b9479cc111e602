"""A disk without space."""

import errno


def no_space(*_):
    """In the place of a system call that allocates."""
    raise OSError(errno.ENOSPC, "No space left on device")
