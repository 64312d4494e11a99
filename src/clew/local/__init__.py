"""The local collector: receives OTLP on loopback and keeps it in one SQLite file, which is a source of answers.

An application beside the library: nothing of the core imports it, and it imports nothing of the core. Needs the extra
``clew[local]``.
"""
