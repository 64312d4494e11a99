"""The questions, one module each: a function of the question's name, and its answer as an object.

An answer's `as_json` is the public interface of ``--format json``.
"""
