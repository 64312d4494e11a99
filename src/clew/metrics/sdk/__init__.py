"""All that is private in the OpenTelemetry SDK and API and that `clew` needs: it is touched in this folder alone.

Each module names what it touches, and what is done where a version no longer has it; `tests/metrics/test_sdk.py` fails
when something moves.
"""
