"""Files that are written whole or not at all."""
import os
import tempfile
from contextlib import suppress
from pathlib import Path

PART = ".half-written"      # the end of a temporary file's name


def prepare(path: Path) -> None:
    """Makes the file's folder, and finds out before hours of work whether it can be written.

    Raises: OSError if it cannot, or if the path is a folder.
    """
    if path.parent.is_file():
        raise OSError(f"{path.parent} is a file, not a folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise OSError(f"{path} is a folder, not a file")
    try:
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        error.filename = str(path.parent)       # not the name that was tried in it
        raise


def write(path: Path, content: bytes, keep: Path | None = None) -> None:
    """Writes a temporary neighbour and renames it: until then the old file is whole.

    The old file is renamed to `keep`, if that is given. A process that is killed leaves at most the
    neighbour behind (see sweep), and no file of the name between the two renamings.
    Raises: OSError if the folder cannot be written or the disk is full; an old file stays then.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=PART)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        with suppress(PermissionError):         # of a disk without Unix permissions
            os.chmod(name, 0o644)
        if keep and path.exists():
            os.replace(path, keep)
        os.replace(name, path)
    except BaseException as error:
        os.unlink(name)
        if isinstance(error, OSError):
            error.filename = str(path)      # the file that was asked for, not its neighbour
        raise


def sweep(folder: Path) -> None:
    """Removes what killed processes left half-written in a folder that no other is writing to."""
    for part in folder.glob(f".*{PART}"):
        part.unlink()
