"""Adapters to frameworks and services: each needs its own extra, and nothing else imports them."""
