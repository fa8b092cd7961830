"""The rules of a check: functions that take a change and yield findings."""
