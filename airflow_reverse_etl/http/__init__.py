"""HTTP: requests and replies, what a status means, where requests go."""
