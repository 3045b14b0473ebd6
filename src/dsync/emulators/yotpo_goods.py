"""The orders and products of the Yotpo emulator, each made from its number."""

from __future__ import annotations

__all__ = ["MAKERS", "order", "product"]

Value = dict[str, object]


def order(number: int) -> Value:
    when = f"2025-{number % 12 + 1:02d}-{number % 28 + 1:02d}T0{number % 10}:30:00Z"
    price = 10 + number % 90 + 0.5
    line = {"yotpo_id": number * 10, "external_product_id": f"prod-{number % 50 + 1}"}
    return {
        "yotpo_id": 900_000 + number,
        "external_id": f"order-{number}",
        "order_date": when,
        "order_name": f"#{number:06d}",
        "payment_status": "paid",
        "total_price": price,
        "subtotal_price": price,
        "currency": "EUR",
        "customer": {"external_id": f"cust-{number}"},
        "line_items": [line | {"quantity": 1 + number % 3, "total_price": price}],
        "fulfillments": [],
        "custom_properties": {},
        "created_at": when,
        "updated_at": when,
    }


def product(number: int) -> Value:
    return {
        "yotpo_id": 500_000 + number,
        "external_id": f"prod-{number}",
        "name": f"Invented thing {number}",
        "status": "active",
        "price": 5 + number % 40 + 0.25,
        "currency": "EUR",
        "sku": f"{number:08d}",
        "is_discontinued": number % 20 == 0,
        "gtins": [],
        "custom_properties": {},
        "created_at": "2024-02-29T12:00:00Z",
        "updated_at": "2025-01-31T12:00:00Z",
    }


MAKERS = {"orders": order, "products": product}
