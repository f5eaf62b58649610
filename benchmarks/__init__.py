"""Measures Alphavel's WebSocket server against others in the same run: `python -m benchmarks --help`."""
