"""Tasks for the syncs of a folder: one for each file when the DAG is parsed, or mapped at run time."""
