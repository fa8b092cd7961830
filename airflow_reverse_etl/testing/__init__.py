"""For users' own tests and destinations: fakes with failure dials, and conformance suites."""
