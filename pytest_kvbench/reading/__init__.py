"""Files that people give us, read in one way: their text, their JSON, their YAML, their values.

    text         UTF-8, or what a byte order mark says; gzip; errors name the row and byte
    values       what may stand in data, and how errors show a value
    strict_json  one parser: each key once, finite numbers, bounded depth
    strict_yaml  the same for experiments: aliases that stay small, keys that are texts

Whatever cannot be read is a `UsageError` that names the file and the row, line or key.
"""

from pytest_kvbench.reading.strict_json import parse_json
from pytest_kvbench.reading.strict_yaml import parse_yaml
from pytest_kvbench.reading.text import (
    Place,
    TextStream,
    first_character,
    open_file,
    read_text,
    text_lines,
)
from pytest_kvbench.reading.values import brief, odd_value, refuse_yes, texts

__all__ = [
    "Place",
    "TextStream",
    "brief",
    "first_character",
    "odd_value",
    "open_file",
    "parse_json",
    "parse_yaml",
    "read_text",
    "refuse_yes",
    "text_lines",
    "texts",
]
