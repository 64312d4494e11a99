"""The bridge from Python's logging to OpenTelemetry's log records, by the specification's word for it."""
