"""The local collector: receives OTLP on loopback, keeps it in one SQLite file, answers questions about it.

An application beside the library: nothing of the core imports it. Needs the extra ``clew[local]``.
"""
