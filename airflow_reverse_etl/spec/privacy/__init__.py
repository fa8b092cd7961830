"""Marks of personal data on columns, and the policy that says where marked columns may go. Values only."""
