"""OpenTelemetry's providers of the three signals: from the settings, from a file, or the application's own."""
