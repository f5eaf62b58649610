"""Five places where a circuit breaker helps, each against a real server that fails. README.md beside this file."""
