"""What only the orchestrator knows: alone in importing Prefect."""
