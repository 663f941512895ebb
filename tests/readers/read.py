"""Reads result files with pandas and DuckDB as their users would, and prints what each of them found, as JSON.

usage: read.py FILE...   (.jsonl, .jsonl.gz or .jsonl.zst)
"""

import json
import sys

import duckdb
import pandas


def with_pandas(file):
    """Rows as pandas reads them; null where pandas has a missing value. Without a type, ids of digits become numbers."""
    frame = pandas.read_json(file, lines=True, dtype={"custom_id": "string"})
    frame = frame.astype(object).where(frame.notna(), None)
    return list(frame.columns), frame.to_dict("records")


def with_duckdb(file):
    """Rows as DuckDB reads them, every type guessed by itself."""
    table = duckdb.sql(f"SELECT * FROM read_json_auto('{file}')")
    return table.columns, [dict(zip(table.columns, row)) for row in table.fetchall()]


def with_duckdb_lines(file):
    """The same by the function for newline-delimited JSON."""
    table = duckdb.sql(f"SELECT * FROM read_ndjson('{file}')")
    return table.columns, [dict(zip(table.columns, row)) for row in table.fetchall()]


def at(value, *path):
    """What lies at the path, or None where it ends early."""
    for step in path:
        if value is None:
            return None
        # DuckDB gives documents without a common type as text.
        value = json.loads(value) if isinstance(value, str) else value
        value = value[step] if isinstance(step, int) else value.get(step)
    return value


def seen(columns, rows):
    """What the test compares: the fields, and of each line its id, status, answer, reason and request."""
    return {
        "columns": columns,
        "lines": [
            {
                "custom_id": row["custom_id"],
                "blake3": row.get("request_blake3"),
                "status": at(row, "response", "status_code"),
                "answer": at(row, "response", "body", "choices", 0, "message", "content"),
                "code": at(row, "error", "code") or at(row, "response", "body", "error", "code"),
                "asked": at(row, "body", "messages", -1, "content"),
            }
            for row in rows
        ],
    }


READERS = {"pandas": with_pandas, "duckdb": with_duckdb, "duckdb_lines": with_duckdb_lines}

print(json.dumps({file: {name: seen(*read(file)) for name, read in READERS.items()} for file in sys.argv[1:]}))
