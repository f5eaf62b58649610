"""
`alpha websocket:bench URL`: what a deployment takes, measured with clients on gevent, from this machine.

Imported by the command alone. The figures of this project itself come from `benchmarks/`, which has faster clients.
"""
