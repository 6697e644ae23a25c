"""Parquet files, read with care: a value that is repeated 10^9 times takes a few bytes in one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from robodiff.data.formats.pieces import check_room
from robodiff.files import reading

WHAT = "a parquet file"
WIDEST = 8
"""Bytes of a number."""
ROWS = 256
"""Texts and pictures of so many rows are in memory before they are counted."""


def read_parquet(path: Path, wanted: Callable[[str], bool] = lambda column: True) -> Any:
    """Return the columns that a function picks as a ``pyarrow.Table``; pages are compared with their checksums.

    Raises:
        RobodiffError: no such file, a broken one, or one that takes more than memory has room for.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with reading(path, WHAT), pq.ParquetFile(path, page_checksum_verification=True) as file:
        names = [*filter(wanted, file.schema_arrow.names)]
        leaves = [leaf for leaf in range(len(file.schema)) if file.schema.column(leaf).path.partition(".")[0] in names]
        groups = [file.metadata.row_group(group) for group in range(file.num_row_groups)]
        check_room(str(path), (sum(group.column(leaf).num_values for group in groups for leaf in leaves), WIDEST))
        if all(file.schema.column(leaf).physical_type != "BYTE_ARRAY" for leaf in leaves):
            return file.read(columns=names)
        batches, size = [], 0
        for batch in file.iter_batches(ROWS, columns=names):
            size += batch.nbytes
            check_room(str(path), (size,))
            batches.append(batch)
        schema = pa.schema([file.schema_arrow.field(name) for name in names], file.schema_arrow.metadata)
        return pa.Table.from_batches(batches, schema)
