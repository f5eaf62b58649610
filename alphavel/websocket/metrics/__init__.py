"""
Prometheus: what is counted (`reading`), of all workers (`fleet`), for those who may see it (`exposing`).

Imported only where `metrics.enabled` or the dashboard asks for it. docs/monitoring.md lists the metrics.
"""
