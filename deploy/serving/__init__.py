"""Serving: dynamic batching behind the Open Inference Protocol."""
