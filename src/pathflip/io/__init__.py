"""Files, tables, names and places on disk or in object stores. No torch."""
