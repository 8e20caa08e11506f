"""Writes all answers as tables: CSV, Parquet, and a JSON object on each line."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.base.workspace import replacing, storage_errors, write_atomic
from tasks.vision_language.describe.answer_log import Answer
from tasks.vision_language.describe.grading import Grade
from tasks.vision_language.describe.questions import Question
from tasks.vision_language.describe.table_file import as_utf8

CSV, PARQUET, JSONL = "answers.csv", "answers.parquet", "answers.jsonl"

SCHEMA = pa.schema(
    [
        ("row", pa.int64()),  # from 1
        ("images", pa.string()),  # with ; between
        ("time_s", pa.float64()),  # of a video, where the first image is from
        ("prompt", pa.string()),
        ("text", pa.string()),
        ("json", pa.string()),  # of an answer that fits the schema
        ("valid", pa.bool_()),
        ("prompt_tokens", pa.int64()),
        ("completion_tokens", pa.int64()),
        ("seconds", pa.float64()),
        ("finish_reason", pa.string()),
        ("times_asked", pa.int64()),
        ("right_answer", pa.string()),
        ("read_as", pa.string()),
        ("correct", pa.bool_()),
        ("classifier", pa.string()),
        ("error", pa.string()),
    ]
)

Row = dict[str, Any]


def row_of(question: Question, answer: Answer, grade: Grade | None, classifier: str | None, *, schema: bool) -> Row:
    """Return the row of the table for a question; what there is not is None.

    Args:
        question: the columns of its own table are kept, one that is called as one of ours as `table_NAME`.
        answer: what came of it.
        grade: None where it is not graded.
        classifier: the class that a classifier gave its image.
        schema: whether answers are held against one.
    """
    fits = schema and answer.text is not None and answer.fault is None
    kept = {f"table_{name}" if name in SCHEMA.names else name: value for name, value in question.values.items()}
    return kept | {
        "row": question.number + 1,
        "images": ";".join(str(path) for path in question.images),
        "time_s": question.times[0] if question.times else None,
        "prompt": question.prompt,
        "text": answer.text,
        "json": json.dumps(answer.value, ensure_ascii=False) if fits else None,
        "valid": fits if schema and answer.text is not None else None,
        "prompt_tokens": answer.n_prompt if answer.text is not None else None,
        "completion_tokens": answer.n_new if answer.text is not None else None,
        "seconds": answer.seconds if answer.text is not None else None,
        "finish_reason": answer.finish,
        "times_asked": answer.n_asked,
        "right_answer": question.right,
        "read_as": None if grade is None else grade.read_as,
        "correct": None if grade is None else grade.correct,
        "classifier": classifier,
        "error": answer.error or answer.fault,
    }


def write_tables(rows: Sequence[Row], folder: Path) -> list[str]:
    """Write the three tables, each whole or not at all; return their names.

    Args:
        rows: as `row_of` returns them, at least one.
        folder: exists.

    Raises:
        StorageError: the disk is full.
    """
    own = [name for name in rows[0] if name not in SCHEMA.names]
    order = [*SCHEMA.names, *own]
    rows = [{name: _utf8(row[name]) for name in order} for row in rows]
    with storage_errors(folder), replacing(folder / PARQUET) as file:
        schema = pa.schema([*SCHEMA, *((name, pa.string()) for name in own)])
        pq.write_table(pa.Table.from_pylist(rows, schema), file)
    write_atomic(folder / CSV, _csv(rows, order))
    write_atomic(folder / JSONL, b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows))
    return [CSV, PARQUET, JSONL]


def _csv(rows: Sequence[Mapping[str, Any]], order: Sequence[str]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, order)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _utf8(cell: Any) -> Any:
    return as_utf8(cell) if isinstance(cell, str) else cell
