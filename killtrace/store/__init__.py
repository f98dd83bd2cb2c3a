"""The embedded store of the flight recorder."""
