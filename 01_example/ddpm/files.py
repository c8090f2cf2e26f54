"""Files that are written whole or not at all."""
import os
import tempfile
from pathlib import Path


def prepare(path: Path) -> None:
    """Makes the file's folder, and finds out before hours of work whether it can be written.

    Raises: OSError if it cannot, or if the path is a folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise OSError(f"{path} is a folder, not a file")
    tempfile.TemporaryFile(dir=path.parent).close()


def write(path: Path, content: bytes) -> None:
    """Writes a temporary neighbour, then renames it: the old file or the new is there at any time.

    Raises: OSError if the folder cannot be written or the disk is full; an old file stays then.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException as error:
        os.unlink(name)
        if isinstance(error, OSError):
            error.filename = str(path)      # the file that was asked for, not its neighbour
        raise
