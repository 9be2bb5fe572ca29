"""Endpoints for operators: health checks, metrics, the OpenAPI document and its page."""
