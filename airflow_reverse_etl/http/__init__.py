"""HTTP: requests and replies, the meaning of statuses, endpoints, redaction."""
