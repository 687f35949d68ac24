"""Statements and columns as Delta takes them. Pure."""

from __future__ import annotations

from pyspark.sql import DataFrame

from entropylong.storage.schemas import OK, TableSchema

_PROPERTIES = {"delta.enableDeletionVectors": "false"}


def quoted(name: str, sep: str | None = ".") -> str:
    """A name as SQL takes it, each of its parts quoted."""
    parts = [name] if sep is None else name.split(sep)
    return ".".join("`" + part.replace("`", "``") + "`" for part in parts)


def create_statement(address: str, schema: TableSchema) -> str:
    """The statement that makes a table. Not Delta's builder: of a name it takes two levels alone, a catalog's has three."""
    columns = [
        f"`{field.name}` {field.dataType.simpleString()} COMMENT {_literal(field.metadata['comment'])}" for field in schema.struct
    ]
    # Constraints as properties of the first commit: added one by one, each would scan and commit again.
    checks = {f"delta.constraints.{name}": condition for name, condition in schema.checks.items()}
    properties = [f"{_literal(name)} = {_literal(value)}" for name, value in (_PROPERTIES | checks).items()]
    return (
        f"CREATE TABLE IF NOT EXISTS {address} ({', '.join(columns)}) USING delta PARTITIONED BY (fingerprint) "
        f"COMMENT {_literal(f'One row: {schema.row}')} TBLPROPERTIES ({', '.join(properties)})"
    )


def _literal(text: str) -> str:
    """A string of SQL."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def conform(frame: DataFrame, schema: TableSchema, fingerprint: str | None) -> DataFrame:
    """Exactly the schema's columns in order; outcome defaults to ok, the fingerprint is the writer's (None: the rows' own)."""
    own = {} if fingerprint is None else {"fingerprint": f"'{fingerprint}'"}
    values = {"outcome": f"'{OK}'"} | {name: f"`{name}`" for name in frame.columns} | own
    return frame.selectExpr(
        *(f"cast({values.get(f.name, 'null')} as {f.dataType.simpleString()}) as `{f.name}`" for f in schema.struct)
    )
