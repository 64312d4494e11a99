"""From a measurement to an OTLP data point: recorders, exemplars, Views, and the MeterProvider that joins them."""
