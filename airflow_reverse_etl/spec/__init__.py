"""Values: what a sync says, what is sent, and what becomes of it. They know nothing but errors."""
