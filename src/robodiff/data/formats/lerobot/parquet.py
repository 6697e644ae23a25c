"""LeRobot's parquet files: columns that are read, tables that grow by an episode, columns as LeRobot expects them."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from robodiff.files import reading

FULL = 100_000_000  # bytes of rows in a file, as LeRobot has them
CHUNK = 1000  # files in a folder
PLACE = "chunk-{chunk_index:03d}/file-{file_index:03d}"


def column_names(path: Path) -> dict[str, str]:
    """Return the columns of a parquet file and their types."""
    with reading(path, "a parquet file"):
        return {field.name: str(field.type) for field in pq.read_schema(path)}


def paths_in(path: Path, column: str) -> list[str]:
    """Return the paths that a column of pictures names, as texts or beside their bytes."""
    with reading(path, "a parquet file"), pq.ParquetFile(path) as file:
        field = file.schema_arrow.field(column).type
        if pa.types.is_struct(field) and field.get_field_index("path") >= 0:
            values = file.read(columns=[f"{column}.path"])[column].combine_chunks().field("path")
        elif pa.types.is_string(field):
            values = file.read(columns=[column])[column]
        else:
            return []
        return [value for value in values.to_pylist() if value]


class GrowingTable:
    """Rows that go to the parquet files of a folder, one after another as each is full."""

    def __init__(self, root: Path, template: str) -> None:
        self.root, self.template, self.index = root, template, 0
        self.tables: list[pa.Table] = []  # of the file that is not full yet

    @property
    def place(self) -> dict[str, int]:
        """Which file the next rows go to."""
        return {"chunk_index": self.index // CHUNK, "file_index": self.index % CHUNK}

    def write(self, rows: pa.Table) -> dict[str, int]:
        """Add an episode's rows; return which file they go to."""
        if sum(table.nbytes for table in self.tables) > FULL:
            self.close()
        self.tables.append(rows)
        return self.place

    def close(self) -> None:
        """Write the file."""
        write_table(pa.concat_tables(self.tables).combine_chunks(), self.root / self.template.format(**self.place))
        self.index, self.tables = self.index + 1, []


def write_table(rows: pa.Table, path: Path) -> None:
    """Write a parquet file with checksums."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(rows, path, write_page_checksum=True)


def column(values: np.ndarray) -> pa.Array:
    """Return (L, D) as numbers where D is 1, else as lists of D."""
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    return flat if values.shape[1] == 1 else pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def pngs(images: np.ndarray) -> pa.Array:
    """Return (L, C, H, W) uint8 as embedded PNG files."""
    from PIL import Image

    def png(image: np.ndarray) -> bytes:
        file = io.BytesIO()
        pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
        Image.fromarray(pixels).save(file, "PNG")
        return file.getvalue()

    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.array([{"bytes": png(image), "path": None} for image in images], kind)


def task_table(tasks: list[str]) -> pa.Table:
    """Return a table with the task as pandas' index, which is where LeRobot looks for it."""
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
    """Return the columns' types as Hugging Face's datasets reads them."""
    types: dict[str, Any] = {}
    for key, feature in features.items():
        value = {"dtype": feature["dtype"], "_type": "Value"}
        if feature["dtype"] == "image":
            types[key] = {"_type": "Image"}
        elif feature["dtype"] != "video":
            width = feature["shape"][0]
            types[key] = value if width == 1 else {"feature": value, "length": width, "_type": "Sequence"}
    return {"huggingface": json.dumps({"info": {"features": types}})}
