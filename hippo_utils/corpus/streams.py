"""Files of records worked through batch by batch, in several processes: memory is bounded by the batch, not by the corpus."""

from collections import deque
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Callable, Iterator

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

_job: tuple = ()  # in a worker: the function and its further arguments, sent once and not with every batch


def batches(path: Path) -> Iterator[pd.DataFrame]:
    """The batches (row groups) of a Parquet file, in order."""
    with pq.ParquetFile(path) as file:
        for number in range(file.num_row_groups):
            yield _frame(file.read_row_group(number))


def _frame(table: pa.Table) -> pd.DataFrame:
    frame = table.to_pandas()
    for field in table.schema:
        if pa.types.is_list(field.type):
            frame[field.name] = [list(values) for values in frame[field.name]]
    return frame


def columns(path: Path, names: list[str]) -> pd.DataFrame:
    """A few columns of a whole file: ids and sources fit into memory where texts do not."""
    return pq.read_table(path, columns=names).to_pandas()


def first_of_each(path: Path, column: str) -> pd.DataFrame:
    """The first record of each value of a column, in the order of the file: something to look at."""
    wanted = len(set(columns(path, [column])[column]))
    found = _frame(pq.read_schema(path).empty_table())
    for batch in batches(path):
        found = pd.concat([found, batch]).drop_duplicates(column, ignore_index=True)
        if len(found) == wanted:
            break
    return found


def lookup(path: Path, ids: set[str]) -> dict[str, str]:
    """The texts of a few documents by their ids."""
    if not ids:
        return {}
    table = pq.read_table(path, columns=["id", "text"], filters=[("id", "in", sorted(ids))])
    return dict(zip(table["id"].to_pylist(), table["text"].to_pylist()))


def select(path: Path, target: Path, times: dict[str, int], otherwise: int = 0) -> int:
    """Write each record of a file as often as `times` says of its id (otherwise `otherwise`) to another; returns the number written.

    A second copy has "-2" behind its id, a third "-3".
    """
    with Writer(target, pq.read_schema(path)) as out:
        for batch in batches(path):
            wanted = batch["id"].map(times).fillna(otherwise).astype(int)
            copies = [batch[wanted >= number].assign(id=lambda rows: rows["id"] + (f"-{number}" if number > 1 else "")) for number in range(1, wanted.max() + 1)]
            if copies:
                out.write(pd.concat(copies).sort_index(kind="stable"))
    return out.rows


def over(path: Path, processes: int, work: Callable, *arguments) -> Iterator[Any]:
    """work(batch, *arguments) for every batch of a file, in the order of the file whatever the number of processes.

    With several processes each reads its batches itself, and no more than two per process are under way or waiting.
    """
    if processes == 1:
        yield from (work(batch, *arguments) for batch in batches(path))
        return
    with pq.ParquetFile(path) as file:
        groups = file.num_row_groups
    # spawn: a fork of a notebook's kernel would copy its threads' locks
    with ProcessPoolExecutor(min(processes, max(1, groups)), get_context("spawn"), _take, (work, arguments)) as pool:
        waiting: deque = deque()
        for number in range(groups):
            waiting.append(pool.submit(_work, str(path), number))
            if len(waiting) >= 2 * processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _take(work: Callable, arguments: tuple) -> None:
    global _job
    _job = work, arguments
    pa.set_cpu_count(1)


def _work(path: str, number: int):
    with pq.ParquetFile(path) as file:
        return _job[0](_frame(file.read_row_group(number)), *_job[1])


class Writer:
    """A Parquet file that is written batch by batch, whole or not at all: it gets its name when the `with` block ends well."""

    def __init__(self, path: Path, schema: pa.Schema):
        self.path, self.schema, self.rows = Path(path), schema, 0
        self.half = self.path.with_name(self.path.name + ".part")

    def __enter__(self) -> "Writer":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.file = pq.ParquetWriter(self.half, self.schema)
        return self

    def write(self, batch: pa.Table | pd.DataFrame) -> None:
        """Append one batch as one row group."""
        if len(batch):
            table = batch if isinstance(batch, pa.Table) else pa.Table.from_pandas(batch, schema=self.schema, preserve_index=False)
            self.file.write_table(table, row_group_size=len(table))
            self.rows += len(table)

    def __exit__(self, kind, error, trace) -> None:
        self.file.close()
        self.half.replace(self.path) if kind is None else self.half.unlink()
