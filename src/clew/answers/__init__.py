"""The questions about a running system, the sources that they are asked of, and the answers as text and as JSON.

`source` says what a source is, `questions` has one module a question, `text` and `json_format` show the answers. Beside
the library: nothing of the core imports it, and it imports nothing of the core. The text needs the extra
``clew[local]``.
"""
