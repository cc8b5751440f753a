"""The bytes of state rows: many rows encoded and decoded at once, each one a self-checking value.

A row is, little-endian, padded with zeros to a multiple of 8 bytes:

    header (56 bytes)   magic 'HR' | version | directory width | checksum (u32) | schema hash (u64) | stream id (u64)
                        | batch id | newest event time | clock | written at (i64 each, ms)
    directory           how many entries each table has (2 or 4 bytes each)
    codes               one byte for each column of each table: high nibble the form, low nibble bytes a number (0 to 8)
    columns             each table's times, then its columns; a text column's lengths are followed by the texts

Numbers take as many bytes as the largest of the row's column needs. Times are stored as the difference to the next
(tiles, in units of the finest tile) or to the clock. Floats are whole numbers or hundredths where that loses nothing,
as spending and counts mostly are; else 8 bytes. The checksum is the multilinear hash of the row's 8-byte words.
"""

from features.rows.decoder import decode
from features.rows.encoder import encode
from features.rows.layout import HEADER, Layout, RowState

__all__ = ["HEADER", "Layout", "RowState", "decode", "encode"]
