"""What the WebSocket server offers over HTTP, as a Flask blueprint. Flask appears here alone."""
