"""
The breaker inside other people's clients, one file a library; each imports its library, and nothing here imports them.

    from alphavel.circuit_breaker.integrations.requests import CircuitBreakerAdapter
"""
