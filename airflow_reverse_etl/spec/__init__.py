"""Values: a sync's specification, batches and receipts, and reports. They import nothing but errors."""
