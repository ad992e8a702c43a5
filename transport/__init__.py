"""Messages and durable records: NATS and its in-memory twin."""
