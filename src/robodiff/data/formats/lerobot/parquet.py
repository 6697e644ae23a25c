"""LeRobot's parquet files: columns that are read, tables that grow by an episode, columns as LeRobot expects them."""

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from robodiff.errors import RobodiffError
from robodiff.files import reading, replacing

FULL = 2_000_000  # bytes of rows in a file; so much is at most rewritten with an episode
CHUNK = 1000  # files in a folder
PLACE = "chunk-{chunk_index:03d}/file-{file_index:03d}"


def read_columns(path: Path, wanted: Callable[[str], bool] | list[str]) -> pa.Table:
    """The columns that are named, or that a function picks; pages are compared with their checksums, if they have them.

    Raises:
        RobodiffError: no such file, a broken one, or a column that it has not.
    """
    with (
        reading(path, "a parquet file", pa.ArrowException),
        pq.ParquetFile(path, page_checksum_verification=True) as file,
    ):
        there = file.schema_arrow.names
        chosen = wanted if isinstance(wanted, list) else [name for name in there if wanted(name)]
        for name in chosen:
            if name not in there:
                raise RobodiffError(f"{path}: has no {name!r}")
        return file.read(columns=chosen)


class GrowingTable:
    """Rows in the parquet files of a folder; the last file is rewritten with each episode until it is full."""

    def __init__(self, root: Path, template: str) -> None:
        self.root, self.template = root, template
        self.index = 0  # of the last file
        self.rows: pa.Table | None = None  # of the last file, those that count
        self._written = self.index, self.rows

    def place(self) -> dict[str, int]:
        """Which file the next episode goes to."""
        index = self.index + (self.rows is not None and self.rows.nbytes > FULL)
        return {"chunk_index": index // CHUNK, "file_index": index % CHUNK}

    def write(self, rows: pa.Table) -> None:
        """Write an episode's rows; they count from ``commit`` on, and another ``write`` before it replaces them."""
        place = self.place()
        path, index = self.root / self.template.format(**place), place["chunk_index"] * CHUNK + place["file_index"]
        if self.rows is not None:
            if not rows.schema.equals(self.rows.schema):
                old, new = ({f"{field.name}: {field.type}" for field in table.schema} for table in (self.rows, rows))
                raise RobodiffError(f"{path}: an episode's columns must be those of the episodes before; "
                                    f"expected {sorted(old - new)}, found {sorted(new - old)}")  # fmt: skip
            if index == self.index:
                rows = pa.concat_tables([self.rows, rows]).combine_chunks()
        _write(rows, path)
        self._written = index, rows

    def commit(self) -> None:
        """Keep what was written last."""
        self.index, self.rows = self._written

    def resume(self, episodes: int) -> None:
        """Go on after so many episodes; rows of later ones are removed."""
        folder = self.root / self.template.partition("/chunk-")[0]
        for path in sorted(folder.glob("*/*.parquet"), reverse=True):
            with reading(path, "a parquet file", pa.ArrowException):
                found = pq.read_table(path)
                rows = found.filter(pc.field("episode_index") < episodes)
            if rows.num_rows == 0:
                path.unlink()
                continue
            if rows.num_rows < found.num_rows:
                _write(rows, path)
            chunk, file = (int(part.rpartition("-")[2]) for part in (path.parent.name, path.stem))
            self.index, self.rows = chunk * CHUNK + file, rows
            return


def _write(rows: pa.Table, path: Path) -> None:
    with replacing(path) as temporary:
        pq.write_table(rows, temporary, write_page_checksum=True)


def column(values: np.ndarray) -> pa.Array:
    """(L, D) as numbers where D is 1, else as lists of D."""
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    return flat if values.shape[1] == 1 else pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def pngs(images: np.ndarray) -> pa.Array:
    """(L, 3, H, W) uint8 as embedded PNG files."""
    from PIL import Image

    def png(image: np.ndarray) -> bytes:
        file = io.BytesIO()
        Image.fromarray(image.transpose(1, 2, 0)).save(file, "PNG")
        return file.getvalue()

    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.array([{"bytes": png(image), "path": None} for image in images], kind)


def task_table(tasks: list[str]) -> pa.Table:
    """With the task as pandas' index, which is where LeRobot looks for it."""
    column = {"metadata": None, "numpy_type": "object", "pandas_type": "unicode"}
    pandas = {
        "index_columns": ["task"],
        "column_indexes": [{"name": None, "field_name": None, **column, "metadata": {"encoding": "UTF-8"}}],
        "columns": [
            {"name": "task_index", "field_name": "task_index", **column, "numpy_type": "int64", "pandas_type": "int64"},
            {"name": "task", "field_name": "task", **column},
        ],
        "pandas_version": "2.2.0",
    }
    table = pa.table({"task_index": pa.array(range(len(tasks)), pa.int64()), "task": pa.array(tasks, pa.string())})
    return table.replace_schema_metadata({"pandas": json.dumps(pandas)})


def hugging_face(features: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The columns' types as Hugging Face's datasets reads them."""
    said: dict[str, Any] = {}
    for key, feature in features.items():
        value = {"dtype": feature["dtype"], "_type": "Value"}
        if feature["dtype"] == "image":
            said[key] = {"_type": "Image"}
        elif feature["dtype"] != "video":
            width = feature["shape"][0]
            said[key] = value if width == 1 else {"feature": value, "length": width, "_type": "Sequence"}
    return {"huggingface": json.dumps({"info": {"features": said}})}
