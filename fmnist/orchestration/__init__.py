"""What only the orchestrator needs to know; no other part of the package imports Prefect."""
