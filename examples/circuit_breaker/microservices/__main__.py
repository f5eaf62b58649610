"""
A shop that asks two other services for each page: stock, without which there is nothing to sell, and recommendations.

Recommendations hang: the page loses them, and after a few slow pages it does not wait for them any more. Stock breaks: the
shop answers 503 with Retry-After at once, and its health check says why.
"""

from __future__ import annotations

from typing import Any

import requests
from flask import Flask, jsonify

from alphavel.circuit_breaker import CircuitBreakerManager, blueprint
from alphavel.circuit_breaker.integrations.requests import CircuitBreakerAdapter
from alphavel.foundation import container
from examples.circuit_breaker.servers import Http

SETTINGS = {
    "thresholds": {"failure_threshold": 3, "recovery_timeout": 20},
    "services": {"recommendations": {"fallback_on": "failure"}},
    "health": {"critical": ["stock"]},
}


def make_shop(stock_url: str, recommendations_url: str) -> Flask:
    """Make the application. In one of yours, `SETTINGS` is config/circuit_breaker.yaml and nothing is bound by hand."""
    container().instance("circuit_breaker", CircuitBreakerManager(SETTINGS))
    app = Flask(__name__)
    app.register_blueprint(blueprint)

    def nothing() -> requests.Response:
        answer = requests.Response()
        answer.status_code, answer._content = 200, b""
        return answer

    http = requests.Session()
    http.mount(stock_url, CircuitBreakerAdapter("stock"))
    http.mount(recommendations_url, CircuitBreakerAdapter("recommendations", fallback=nothing))

    @app.get("/books/<title>")
    def page(title: str) -> Any:
        stock = http.get(stock_url, timeout=2)
        if not stock.ok:
            return "The shop does not know what it has left.", 502
        also = http.get(recommendations_url, timeout=0.3)
        return jsonify(title=title, stock=stock.text, also=also.text or None)

    return app


def main() -> None:
    """Break one service, then the other."""
    with Http("7 left") as stock, Http("Middlemarch") as recommendations:
        shop = make_shop(stock.url, recommendations.url).test_client()
        print("all is well:", shop.get("/books/Emma").json)

        recommendations.mood = "hanging"
        for _ in range(5):
            print("recommendations hang:", shop.get("/books/Emma").json)
        print(f"they were asked {recommendations.requests} times, for 6 pages")
        print("health:", shop.get("/health/circuits").json["status"])

        stock.mood = "broken"
        for _ in range(4):
            answer = shop.get("/books/Emma")
            print("stock is broken:", answer.status_code, "Retry-After:", answer.headers.get("Retry-After"))
        health = shop.get("/health/circuits")
        print("health:", health.status_code, health.json["status"])


if __name__ == "__main__":
    main()
