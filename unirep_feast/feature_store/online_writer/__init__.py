"""Write a feature view's rows to its online store, as bytes that numpy and Arrow put together.

Stock Feast makes one protobuf message per number of rows times features, from Python floats. Here a
whole column becomes messages at once; what lies in the store is the same, byte for byte.

    from unirep_feast.feature_store.online_writer import write_online

``values`` and ``keys`` make the bytes, ``rows`` reads the columns, ``sqlite_writer`` and
``redis_writer`` store them, ``generic_writer`` serves every other store through Feast's own
``online_write_batch``, ``writing`` chooses among them.
"""

from unirep_feast.feature_store.online_writer.writing import (
    VERIFIED,
    Stored,
    WriteReport,
    write_online,
)

__all__ = ["VERIFIED", "Stored", "WriteReport", "write_online"]
